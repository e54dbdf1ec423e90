"""Unique keys: who enqueues under a free key makes the job that has it; who comes later finds that one.

A key's row is locked from the look at it until the caller's transaction ends. So everybody else who wants the key waits
for that end, and then sees what has become of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import connections
from django.db.models import Case, Value, When
from django.db.models.base import ModelState
from django.db.models.functions import Now

from ..dialects import get_dialect
from ..keys import unique_key, unique_text
from ..models import Dependency, Job, UniqueKey
from ..models.batch import Rule
from ..models.fields import NextPlace
from ..models.job import UNFINISHED
from .claim import attach_past_attempts
from .follow import CHUNK, chunks, link

#: Statuses of a job that has not started, or that waits for its next attempt.
WAITS = (Job.Status.WAITING, Job.Status.READY)
#: What a job takes over from the one that replaces it. When it runs, and at which place, stays.
REPLACED = "args kwargs options priority queue_name max_attempts backend concurrency_key".split()


@dataclass(slots=True)
class Hold:
    """A key, its row locked, and the job that had it last, as that is now."""

    row: UniqueKey
    job: Job | None = None
    #: Has the job got the key by this very transaction?
    is_new: bool = False

    @property
    def is_held(self) -> bool:
        if self.is_new or self.job is None:
            return self.is_new
        if self.row.until is not None:
            return bool(self.row.until > self.job.now)  # type: ignore[attr-defined]
        return self.job.status in (WAITS if self.row.until_started else UNFINISHED)

    def look_again(self, using: str) -> None:
        """The job has changed: at its row as it is now."""
        ids = [self.job.pk] if self.job is not None else []
        self.job = next(iter(_newest(ids, using)), None)

    def take(self, job: Job, until: Any) -> None:
        self.job, self.is_new = job, True
        self.row.until_started = until == "started"
        moment: Any = None if isinstance(until, str) else Now() + timedelta(seconds=until)
        self.row.until = moment


@dataclass(slots=True)
class Saved:
    """What became of jobs that were to be saved: they are new, or another one was there, which may have changed."""

    new: list[Job] = field(default_factory=list)
    found: list[tuple[Job, Job]] = field(default_factory=list)
    changed: list[Job] = field(default_factory=list)
    #: New ones that follow a running one.
    behind: list[tuple[Job, Job]] = field(default_factory=list)


def save(jobs: Sequence[Job], keyed: Sequence[Job], using: str) -> list[Job]:
    """Insert those of the jobs whose unique keys are free, and make each other one the job that has its key.

    What workers may want to hear of: the jobs that were inserted, and those that were changed.
    """
    for job in keyed:
        _write_key(job)
    before = [dict(job.__dict__) for job in jobs]

    def write() -> list[Job]:
        for job, columns in zip(jobs, before, strict=True):  # after a collision nothing of the first try is left
            job.__dict__ = {**columns, "_state": ModelState()}
        return _save(jobs, using)

    if len(jobs) == 1 and connections[using].in_atomic_block:
        return write()  # a savepoint would be two round trips, and its rollback would undo nothing that counts
    return get_dialect(using).transact(write)


def _write_key(job: Job) -> None:
    """Let the job remember its key, for whoever retries it."""
    job.decode()
    text, until = unique_text(job.unique_task, job), job.unique_task.unique_until
    if text is not None:
        job.options = {**(job.options or {}), "unique": text}
        if until != "finished":
            job.options["unique_until"] = until


def _save(jobs: Sequence[Job], using: str) -> list[Job]:
    keys = {id(job): key_of(job) for job in jobs if job.unique_task is not None and job.unique_key is not None}
    holds = _locked(keys.values(), using)
    saved = Saved()
    for job in jobs:
        if id(job) in keys:
            _settle(job, holds[keys[id(job)]], saved, using)
        else:
            saved.new.append(job)
    waits = [_let_wait(job, running) for job, running in saved.behind]
    if saved.new:
        get_dialect(using).insert(saved.new)
    if waits:
        for one in waits:
            one.job_id = one.job.pk
        link(waits, using, late={running.pk: running.status for _, running in saved.behind})
    _note(holds.values(), using)
    attach_past_attempts([there for _, there in saved.found if there.attempts], using)
    for job, there in saved.found:
        job.__dict__ = {**there.__dict__, "was_there": True}
    return saved.new + saved.changed


# -- on conflict ----------------------------------------------------------------------------------


def _settle(job: Job, hold: Hold, saved: Saved, using: str) -> None:
    """Let the job have the key, or give way to the one that has it."""
    while hold.is_held:
        there = hold.job
        assert there is not None
        waits, conflict = there.status in WAITS, job.unique_task.on_conflict
        if conflict == "return" or (conflict == "follow" and waits):
            return saved.found.append((job, there))
        if not waits:
            if hold.row.until is not None:  # a period is for one run at most
                return saved.found.append((job, there))
            saved.behind.append((job, there))
            break
        if _replace(there, job, using):
            saved.changed += [] if hold.is_new else [there]
            return saved.found.append((job, there))
        hold.look_again(using)
    saved.new.append(job)
    hold.take(job, job.unique_task.unique_until)


def _let_wait(job: Job, running: Job) -> Dependency:
    """The job has the key of one that runs: it does not start before that one has ended, however it does."""
    job.status, job.place, job.waiting_for = Job.Status.WAITING, None, 1
    return Dependency(job=job, on_id=running.pk, rule=Rule.RUN)


def _replace(there: Job, job: Job, using: str) -> bool:
    """Let the waiting job be what the new one would be. False: it does not wait any more."""
    changes = {name: job.__dict__[name] for name in REPLACED} | {"tries": 0, "losses": 0}
    if job.unique_task.on_conflict == "debounce":
        changes["run_after"] = _moved_to(there, job)
        changes["place"] = None if job.run_after else Case(When(waiting_for=0, then=NextPlace()))
    if status := _status(there, job, changes):
        changes["status"] = status
    if there.pk is None:  # a call of the same bulk
        there.__dict__.update({name: job.__dict__[name] for name in changes})
        return True
    waiting = Job.objects.using(using).filter(pk=there.pk, status__in=WAITS)
    if not waiting.update(**changes):
        return False
    there.__dict__.update(changes)
    for name in ("place", "status"):
        if isinstance(changes.get(name), Case):
            del there.__dict__[name]  # loaded on first use
    return True


def _status(there: Job, job: Job, changes: Mapping[str, Any]) -> Case | None:
    """What becomes of the status, in SQL: under another key, or at another time, the job has no slot. None: nothing."""
    if "place" not in changes and job.concurrency_key == there.concurrency_key:
        return None
    status = Job.Status.READY if job.concurrency_key is None else Job.Status.WAITING
    cases = [When(waiting_for__gt=0, then=Value(Job.Status.WAITING))]
    if "place" not in changes:
        cases.append(When(place__isnull=True, then=Value(Job.Status.READY)))
    elif changes["place"] is None:
        status = Job.Status.READY
    return Case(*cases, default=Value(status))


def _moved_to(there: Job, job: Job) -> datetime | None:
    most = job.unique_task.max_debounce
    if most is None or job.run_after is None:
        return job.run_after
    return min(job.run_after, there.enqueued_at + timedelta(seconds=most))


# -- retry ----------------------------------------------------------------------------------------


def take_again(jobs: Sequence[Job], using: str) -> set[int]:
    """Let ended jobs have their keys once more, the newest first; the ids of those whose keys no other job has."""
    holds = _locked(map(key_of, jobs), using)
    free = set()
    for job in sorted(jobs, key=lambda job: -job.pk):
        hold = holds[key_of(job)]
        if not hold.is_held or (hold.row.job_id == job.pk and not hold.is_new):
            hold.take(job, job.option("unique_until", "finished"))
            free.add(job.pk)
    _note(holds.values(), using)
    return free


# -- the rows of keys -----------------------------------------------------------------------------


def key_of(job: Job) -> str:
    return unique_key(job.task_path, job.unique_key or "")


def _locked(keys: Iterable[str], using: str) -> dict[str, Hold]:
    """The keys, ours until the transaction ends, with the jobs that have them. All take them in the same order."""
    rows = [row for chunk in chunks(sorted(set(keys))) for row in get_dialect(using).lock_keys(chunk)]
    ids = sorted({row.job_id for row in rows if row.job_id})
    # In a statement of its own: that of the locks had its time before it had to wait.
    jobs = {job.pk: job for chunk in chunks(ids) for job in _newest(chunk, using)}
    return {row.key: Hold(row, jobs.get(row.job_id)) for row in rows}


def _newest(ids: Collection[int], using: str) -> Iterable[Job]:
    rows = Job.objects.using(using).filter(pk__in=ids).order_by("pk").annotate(now=Now())
    return get_dialect(using).newest(rows)


def _note(holds: Collection[Hold], using: str) -> None:
    """Write down who has got keys."""
    rows = []
    for hold in holds:
        if hold.is_new and hold.job is not None:
            hold.row.job_id = hold.job.pk
            rows.append(hold.row)
    keys = UniqueKey.objects.using(using)
    if len(rows) == 1:
        (row,) = rows
        keys.filter(pk=row.pk).update(job_id=row.job_id, until_started=row.until_started, until=row.until)
    elif rows:
        with_target = connections[using].features.supports_update_conflicts_with_target
        keys.bulk_create(
            rows,
            batch_size=CHUNK,
            update_conflicts=True,
            update_fields=["job_id", "until_started", "until"],
            unique_fields=["key"] if with_target else None,
        )
