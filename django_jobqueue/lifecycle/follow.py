"""Follow up: tell the jobs that wait what those came to that they wait for.

A job that others wait for carries a mark, ``has_dependents``. Whatever finishes it leaves the mark where it is: so the
finish has nothing to do, and no way to the end can forget it. Whoever finds a finished job with the mark tells those
that wait and takes the mark away, in one transaction: each of them learns of each end, once. It is beside the finish
and not in it, because ten thousand jobs of a group would line up there, each with its commit, for the row of the one
that waits for them all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from django.db import DataError, transaction
from django.db.models import Exists, F, OuterRef
from django.db.models.functions import Now

from ..dialects import Lane, get_dialect
from ..dialects.asking import Verdict, judge
from ..exceptions import DependencyFailed
from ..gathering import GATHER
from ..logs import get_logger
from ..models import Attempt, Dependency, Job
from ..models.batch import Rule
from ..models.fields import NextPlace
from ..models.job import FINISHED, READY_OR_IN_WAITING
from ..outcomes import MESSAGE_LENGTH, State, describe
from . import notify
from .keep import deleted_at
from .parts import LARGE, PassedOver, in_parts

logger = get_logger(__name__)

#: Ended jobs of which somebody cannot be told for now.
_passed_over = PassedOver()

#: Ends, and those who are told of them, in one transaction.
ENDS, TOLD = 500, 1000
#: Rows in one statement.
CHUNK = 500

#: What somebody waits for has not succeeded: by these rules there is nothing to wait for any more.
STRICT = (Rule.CANCEL, Rule.FAIL)
RESULT_LOST = "The result of job #{}, which it was to get, has been deleted (keep, RETENTION, result_ttl)."
_NONE: Mapping[int, str] = {}


def follow_up(using: str) -> set[Lane]:
    """Tell all who wait of all that has ended; the lanes in which jobs are in line now.

    Safe to call from any number of processes at any time.
    """
    lanes: set[Lane] = set()
    dialect = get_dialect(using)
    while True:
        try:
            found = dialect.transact(lambda: _take_ends(using))
        except Exception as error:
            if judge(error, dialect) is Verdict.AWAY:
                raise
            found = _take_ends_in_parts(using)
        if found is None:
            return lanes
        lanes |= found


def link(dependencies: Sequence[Dependency], using: str, *, late: Mapping[int, str] = _NONE) -> None:
    """Note who waits for whom, in the caller's transaction.

    ``late`` are those waited for that were there before, and may be running, each with its status: they are marked
    after the commit, for the caller's transaction must not lock what a worker wants to finish. If that fails,
    ``find_strays`` finds them.
    """
    Dependency.objects.using(using).bulk_create(dependencies, batch_size=CHUNK)
    if late:
        transaction.on_commit(lambda: _mark_late(late, using), using=using, robust=True)


def find_strays(using: str, behind: int = 0) -> int:
    """See that some of the jobs that wait, from ``behind`` on, will be told: mark what they wait for, and tell them of
    what is not there any more. The number to go on behind; 0 when all have been seen.
    """
    waiting = list(
        Job.objects.using(using).waiting().filter(pk__gt=behind).order_by("pk").values_list("pk", flat=True)[:CHUNK]
    )
    if not waiting:
        return 0
    open_ends = Dependency.objects.using(using).filter(job__in=waiting, status__isnull=True)
    there = Job.objects.using(using).filter(pk=OuterRef("on_id"))
    if gone := sorted(set(open_ends.filter(~Exists(there)).values_list("on_id", flat=True))):
        _tell_in_parts(dict.fromkeys(gone, Job.Status.CANCELLED.value), using, are_gone=True)
    unmarked = open_ends.filter(Exists(there.filter(has_dependents=False))).values_list("on_id", flat=True)
    if ids := sorted(set(unmarked)):
        _mark(ids, using)
    return waiting[-1] if len(waiting) == CHUNK else 0


def _mark_late(late: Mapping[int, str], using: str) -> None:
    """Mark jobs that were there when others were enqueued behind them. What is gone by now has ended, and was pruned
    while the caller's transaction was open: as it stood then, or else it has succeeded since.
    """
    ids, rows = sorted(late), Job.objects.using(using)
    there = {pk for chunk in chunks(ids) for pk in rows.filter(pk__in=chunk).values_list("pk", flat=True)}
    if gone := [pk for pk in ids if pk not in there]:
        ends = {pk: late[pk] if late[pk] in FINISHED else Job.Status.SUCCESSFUL.value for pk in gone}
        for chunk in chunks(gone):
            get_dialect(using).transact(partial(_tell, {pk: ends[pk] for pk in chunk}, using))
    _mark([pk for pk in ids if pk in there], using)


def _mark(ids: Sequence[int], using: str) -> None:
    """Mark jobs that are waited for; if one has ended meanwhile, say so here and now: nobody else may be looking."""
    jobs = Job.objects.using(using)
    for chunk in chunks(ids):
        open_ends = Dependency.objects.using(using).filter(on__in=chunk, status__isnull=True)
        waited_for = sorted(set(open_ends.values_list("on_id", flat=True)))
        unmarked = jobs.filter(pk__in=waited_for, has_dependents=False)
        get_dialect(using).again_after_collision(partial(unmarked.update, has_dependents=True))
        if jobs.to_follow_up().filter(pk__in=chunk).exists():
            get_dialect(using).transact(partial(_take_ends, using, chunk))


# -- one transaction ------------------------------------------------------------------------------


def _take_ends(using: str, among: Collection[int] | None = None) -> set[Lane] | None:
    """Tell of some ends that nobody else is telling of. None: there are none."""
    rows = Job.objects.using(using).to_follow_up().order_by("pk")
    if among is not None:
        rows = rows.filter(pk__in=among)
    elif passed_over := _passed_over.now(using):
        rows = rows.exclude(pk__in=passed_over)
    ends: dict[int, str] = dict(rows.select_for_update(skip_locked=True).values_list("pk", "status")[:ENDS])
    return _tell(ends, using) if ends else None


def _tell(
    ends: Mapping[int, str], using: str, only: Collection[int] | None = None, *, are_gone: bool = False
) -> set[Lane]:
    """Tell those who wait for these jobs, or ``only`` some of them, what they came to; the mark goes when all have been
    told.
    """
    open_ends = Dependency.objects.using(using).filter(on__in=list(ends), status__isnull=True)
    wanted = open_ends if only is None else open_ends.filter(job__in=only)
    told = list(wanted.order_by("on_id", "job_id")[:TOLD])
    listeners = _locked(sorted({one.job_id for one in told}), using)  # before a word: two may tell the same job
    get_dialect(using).note_ends([(ends[one.on_id], one.on_id, one.job_id) for one in told])
    open_on = set() if len(told) < TOLD and only is None else set(open_ends.values_list("on_id", flat=True).distinct())
    Job.objects.using(using).filter(pk__in=[pk for pk in ends if pk not in open_on]).update(has_dependents=False)
    return _move_on(listeners, told, ends, using, are_gone)


# -- when the database refuses something of that ---------------------------------------------------


def _take_ends_in_parts(using: str) -> set[Lane] | None:
    """``_take_ends`` that ends the jobs that cannot be told, and passes over what cannot be ended either."""
    rows = Job.objects.using(using).to_follow_up().exclude(pk__in=_passed_over.now(using)).order_by("pk")
    ends: dict[int, str] = dict(rows.values_list("pk", "status")[:ENDS])
    if not ends:
        return None

    def take(some: Sequence[int]) -> set[Lane]:
        return get_dialect(using).transact(lambda: _take_ends(using, some)) or set()

    def one(pk: int, error: Exception) -> set[Lane]:
        return _tell_in_parts({pk: ends[pk]}, using)

    return set[Lane]().union(*in_parts(list(ends), take, using, one, is_large=lambda pk: True))


def _tell_in_parts(ends: Mapping[int, str], using: str, *, are_gone: bool = False) -> set[Lane]:
    """``_tell`` in transactions of its own: those who wait for these jobs, but for those that cannot be told."""
    open_ends = Dependency.objects.using(using).filter(on__in=list(ends), status__isnull=True)
    waiting = sorted(set(open_ends.values_list("job_id", flat=True)[:TOLD]))

    def tell(some: Sequence[int]) -> set[Lane]:
        return get_dialect(using).transact(lambda: _tell(ends, using, some, are_gone=are_gone))

    def gets_much(pk: int) -> bool:
        return len(json.dumps(_results_for([pk], using)[0].get(pk))) > LARGE

    def give_up(pk: int, error: Exception) -> set[Lane]:
        try:
            get_dialect(using).transact(lambda: _end_untold(pk, ends, error, using))
        except Exception as another:
            if judge(another, get_dialect(using)) in (Verdict.AWAY, Verdict.CUT):
                raise
            logger.error("Job #%s can neither be told nor ended: %s", pk, str(another).strip())
            for on in ends:
                _passed_over.add(on, using)
        return set()

    return set[Lane]().union(*(in_parts(waiting, tell, using, give_up, is_large=gets_much) if waiting else ()))


def _end_untold(pk: int, ends: Mapping[int, str], error: Exception, using: str) -> None:
    """Let a job fail that cannot be put in line with what it was to get."""
    dependencies = Dependency.objects.using(using).filter(on__in=list(ends), status__isnull=True)
    heard = dependencies.filter(job=pk).values_list("on_id", flat=True)
    get_dialect(using).note_ends([(ends[on], on, pk) for on in heard])
    for job in _locked([pk], using).values():
        message = f"What it waited for has ended, but it cannot be put in line: {describe(error)}"
        path = f"{type(error).__module__}.{type(error).__qualname__}"
        end_waiting(job, State.FAILED, message, using, exception=path)
        logger.error("%s has failed. %s", job, message, exc_info=error)
    still = set(dependencies.values_list("on_id", flat=True).distinct())
    Job.objects.using(using).filter(pk__in=set(ends) - still).update(has_dependents=False)


# -- what becomes of those who have been told -----------------------------------------------------


def _locked(ids: Sequence[int], using: str) -> dict[int, Job]:
    """Those that still wait, locked in the order of their numbers."""
    fields = "pk waiting_for attempts queue_name priority run_after args task_path options concurrency_key".split()
    rows = Job.objects.using(using).waiting().order_by("pk").only(*fields).select_for_update()
    return {job.pk: job for chunk in chunks(ids) for job in rows.filter(pk__in=chunk)}


def _move_on(
    listeners: Mapping[int, Job],
    told: Iterable[Dependency],
    ends: Mapping[int, str],
    using: str,
    are_gone: bool = False,
) -> set[Lane]:
    """Each of those that waited goes on waiting, is put in line, or ends here."""
    news: dict[int, list[Dependency]] = {}
    for one in told:
        if one.job_id in listeners:
            news.setdefault(one.job_id, []).append(one)
    fewer: dict[int, list[int]] = {}
    free: list[Job] = []
    for pk, heard in news.items():
        bad = next((one for one in heard if one.rule in STRICT and ends[one.on_id] != Job.Status.SUCCESSFUL), None)
        if bad is not None:
            _end(listeners[pk], bad.rule, _told_why(bad.on_id, "" if are_gone else ends[bad.on_id]), using)
        elif listeners[pk].waiting_for > len(heard):
            fewer.setdefault(len(heard), []).append(pk)
        elif heard[0].rule == Rule.RESCUE and not _has_something_failed(pk, using):
            _end(listeners[pk], Rule.CANCEL, "Everything that it waited for has succeeded.", using)
        else:
            free.append(listeners[pk])
    jobs = Job.objects.using(using)
    for number, ids in fewer.items():
        for chunk in chunks(ids):
            jobs.filter(pk__in=chunk).update(waiting_for=F("waiting_for") - number)
    return _release(free, using)


def _told_why(on: int, status: str) -> str:
    what: dict[str, str] = {Job.Status.FAILED: "has failed", Job.Status.CANCELLED: "was cancelled"}
    return f"Job #{on}, which it waited for, {what.get(status, 'has been deleted, so nobody knows what it came to')}."


def _has_something_failed(pk: int, using: str) -> bool:
    heard = Dependency.objects.using(using).filter(job=pk, status__isnull=False)
    return heard.exclude(status=Job.Status.SUCCESSFUL).exists()


def _end(job: Job, rule: str, message: str, using: str) -> None:
    """It will not run; the reason is put on record as an attempt that no worker has made."""
    if rule == Rule.FAIL:
        path = f"{DependencyFailed.__module__}.{DependencyFailed.__qualname__}"
        end_waiting(job, State.FAILED, message, using, exception=path)
    else:
        end_waiting(job, State.SKIPPED, message, using)


def end_waiting(job: Job, outcome: State, message: str, using: str, *, exception: str = "") -> None:
    """End a job that waits, as failed or as skipped."""
    status = Job.Status.FAILED if outcome is State.FAILED else Job.Status.CANCELLED
    job.attempts += 1
    Job.objects.using(using).filter(pk=job.pk).update(
        status=status, finished_at=Now(), waiting_for=0, attempts=job.attempts, **deleted_at([job], status)
    )
    Attempt.objects.using(using).create(
        job_id=job.pk,
        number=job.attempts,
        started_at=Now(),
        finished_at=Now(),
        outcome=outcome,
        message=message.encode("ascii", "backslashreplace").decode()[:MESSAGE_LENGTH],
        exception_class_path=exception[:255],
    )


def _release(jobs: Sequence[Job], using: str) -> set[Lane]:
    """Put jobs in line that wait for nothing more, with the results that they get; their lanes."""
    if not jobs:
        return set()
    handed_on, lost = _results_for([job.pk for job in jobs], using)
    why_not = {pk: RESULT_LOST.format(on) for pk, on in lost.items()} | _too_large(jobs, handed_on, using)
    for job in jobs:
        if job.pk in why_not:
            _end(job, Rule.FAIL, why_not[job.pk], using)
        elif job.task_path == GATHER:
            _end_gathering(job, handed_on.get(job.pk), using)
    jobs = [job for job in jobs if job.pk not in why_not and job.task_path != GATHER]
    lanes: set[Lane] = set()
    rows = Job.objects.using(using)
    alike: list[int] = []
    for job in jobs:
        if job.run_after is None and job.concurrency_key is None:
            lanes.add(Lane(job.queue_name, job.priority))
        if job.pk not in handed_on and job.run_after is None:
            alike.append(job.pk)
            continue
        changes: dict[str, Any] = {} if job.run_after else {"place": NextPlace()}
        if job.pk in handed_on:
            if not isinstance(job.args, list):
                raise TypeError(f"The args of job #{job.pk} must be a list, but are {json.dumps(job.args)[:100]}.")
            changes["args"] = [handed_on[job.pk], *job.args]
        status = Job.Status.READY if job.run_after else READY_OR_IN_WAITING
        rows.filter(pk=job.pk).update(status=status, waiting_for=0, **changes)
    for chunk in chunks(alike):
        rows.filter(pk__in=chunk).update(status=READY_OR_IN_WAITING, waiting_for=0, place=NextPlace())
    if lanes:
        notify.ready(lanes, using)
    if any(job.run_after or job.concurrency_key for job in jobs):
        notify.look(using)
    return lanes


def _end_gathering(job: Job, results: Any, using: str) -> None:
    """End a job that only gathers results, now that it has them. The jobs behind it are told of its end next."""
    done = {"status": Job.Status.SUCCESSFUL, "finished_at": Now(), "waiting_for": 0, "result": results}
    Job.objects.using(using).filter(pk=job.pk).update(**done, **deleted_at([job], Job.Status.SUCCESSFUL))


def _results_for(ids: Sequence[int], using: str) -> tuple[dict[int, Any], dict[int, int]]:
    """By job, the result that it gets handed on, or the list of them; nothing for those that get none.

    And by job, the one whose result it cannot get, since that has been deleted.
    """
    handed: dict[int, list[int]] = {}
    listed: set[int] = set()
    lost: dict[int, int] = {}
    well: list[tuple[int, int]] = []
    wanted = Dependency.objects.using(using).filter(position__isnull=False).order_by("job_id", "position")
    columns = "job_id", "on_id", "listed", "status", "expired"
    for chunk in chunks(ids):
        for job, on, as_list, status, is_expired in wanted.filter(job__in=chunk).values_list(*columns):
            handed.setdefault(job, []).append(on)
            if as_list:
                listed.add(job)
            if is_expired:
                lost.setdefault(job, on)
            elif status == Job.Status.SUCCESSFUL:
                well.append((job, on))
    rows = Job.objects.using(using)
    sources = sorted({on for ons in handed.values() for on in ons})
    results = {
        pk: result for chunk in chunks(sources) for pk, result in rows.filter(pk__in=chunk).values_list("pk", "result")
    }
    for job, on in well:
        if on not in results:
            lost.setdefault(job, on)
            Dependency.objects.using(using).filter(on=on, job=job).update(expired=True)
    found = {job: [results.get(on) for on in ons] for job, ons in handed.items()}
    return {job: values if job in listed else values[0] for job, values in found.items()}, lost


def _too_large(jobs: Sequence[Job], handed_on: Mapping[int, Any], using: str) -> dict[int, str]:
    """By job, why it cannot be sent what it gets; else the server hangs up, time and again, and all others wait."""
    found: dict[int, str] = {}
    for job in jobs:
        if job.pk not in handed_on:
            continue
        text = json.dumps([handed_on[job.pk], job.args])
        try:
            get_dialect(using).check_fits("The results of what it waited for, with its own arguments,", text)
        except DataError as error:
            found[job.pk] = str(error)
    return found


def chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]
