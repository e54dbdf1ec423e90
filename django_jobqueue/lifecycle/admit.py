"""Admit: let jobs of a concurrency key come in line, no more of them than the key has slots.

Until then they wait: no claim sees them, however many they are. From then on until it runs no more a job has a slot,
for that is what its row says: in line or running. So there is nothing to give back, and nothing that could be forgotten
or given back twice, whatever dies. Who admits locks the key first, then counts, then lets in: of two who do so at once
the second one sees what the first one has done.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from django.db import connections
from django.db.models import BigIntegerField, Case, Count, F, Value, When
from django.db.models.functions import Now
from django.db.models.lookups import GreaterThan

from ..dialects import Lane, get_dialect
from ..exceptions import UnknownTask
from ..keys import Slots, limit_key, slots_of
from ..models import Job, Limit, Pause
from ..models.job import JobQuerySet
from ..models.limit import USED
from ..registry import resolve
from . import notify
from .claim import release

#: Keys in one transaction.
KEYS = 50
#: So many jobs of a key are looked at first, and so many times as many if all of those could be let in.
FIRST, MORE, MOST = 4, 8, 500

#: Who is sent to its key comes in line anew, which is the way to wait for a slot.
SOON = 0.001


def put_under_key(job: Job) -> None:
    """Give a job that is about to be saved its concurrency key; from now on it waits until it is admitted.

    Raise ``ValueError`` for a template that does not fit the call.
    """
    job.decode()
    job.concurrency_key = limit_key(job.limited_task, job, "concurrency_key")
    if job.status == Job.Status.READY and job.place is not None:
        job.status = Job.Status.WAITING


def send_to_keys(keys: Mapping[Job, str], using: str) -> int:
    """Give back claimed jobs that were enqueued before their task had a limit, and let them wait under their keys; how
    many were still ours.
    """
    ids: dict[str, list[int]] = {}
    for job, key in keys.items():
        ids.setdefault(key, []).append(job.pk)
    tokens = {job.token for job in keys}
    for key, some in ids.items():
        Job.objects.using(using).filter(pk__in=some, token__in=tokens).update(concurrency_key=key)
    return release(keys, using, SOON)


def waiting_keys(using: str) -> Iterator[str]:
    """All keys whose slots jobs wait for."""
    names, behind = [""] * KEYS, ""
    while len(names) == KEYS:
        names = get_dialect(using).waiting_keys(behind, KEYS)
        yield from names
        behind = names[-1] if names else ""


def admit(keys: Sequence[str], using: str, floors: Mapping[Lane, int] | None = None) -> set[Lane]:
    """Let in what there are slots for; the lanes in which jobs are in line now.

    ``floors`` are the places from which the caller looks on: who is let in stands where its age puts it, but not below.
    Safe to call from any number of processes at any time.
    """
    lanes: set[Lane] = set()
    left = sorted(set(keys))
    while left:
        admission = Admission(left[:KEYS], using, floors or {})
        lanes |= get_dialect(using).transact(admission.admit)
        left = sorted(admission.unfinished) + left[KEYS:]
    if lanes:
        notify.ready(lanes, using)
    return lanes


def give_back_slots(key: str, using: str) -> int:
    """Let the jobs that are in line under the key wait for a slot again; how many."""
    in_line = Job.objects.using(using).having_slots().filter(concurrency_key=key, status=Job.Status.READY)
    return in_line.filter(place__isnull=False).update(status=Job.Status.WAITING)


class Admission:
    """One transaction, for a few keys."""

    def __init__(self, keys: Sequence[str], using: str, floors: Mapping[Lane, int]) -> None:
        self.keys, self.using, self.floors = keys, using, floors
        self._slots: Mapping[str, int] = {}
        self._turns: Mapping[str, int] | None = None
        #: The keys that may have slots for more jobs than one transaction lets in.
        self.unfinished: set[str] = set()

    def admit(self) -> set[Lane]:
        self.unfinished.clear()
        lock(self.keys, self.using)
        # Statements of their own: that of the lock had its time before it had to wait.
        self._slots, self._turns = self._number(Job.objects.having_slots()), None
        chosen: list[Job] = []
        wanted = dict.fromkeys(sorted(set(self.keys) - self._paused()), FIRST)
        while wanted:
            heads: dict[str, list[Job]] = {key: [] for key in wanted}
            for job in get_dialect(self.using).heads(wanted):
                heads[str(job.concurrency_key)].append(job)
            fitting = {key: self._fitting(jobs, key) for key, jobs in heads.items()}
            self.unfinished |= {key for key, jobs in fitting.items() if len(jobs) == MOST}
            more = {key for key, jobs in fitting.items() if len(jobs) == wanted[key] < MOST}
            chosen += [job for key, jobs in fitting.items() if key not in more for job in jobs]
            wanted = {key: min(MOST, wanted[key] * MORE) for key in more}
        return self._let_in(chosen)

    def _number(self, jobs: JobQuerySet) -> Mapping[str, int]:
        """How many of these jobs there are, by key."""
        some = get_dialect(self.using).newest(jobs.using(self.using).filter(concurrency_key__in=self.keys))
        return dict(some.values_list("concurrency_key").annotate(Count("pk")).order_by())

    def _paused(self) -> set[str]:
        paused = Pause.objects.using(self.using).keys().filter(name__in=self.keys)
        return set(get_dialect(self.using).newest(paused).values_list("name", flat=True))

    def _fitting(self, jobs: Sequence[Job], key: str) -> list[Job]:
        """The first of the jobs for which there is a slot. None overtakes another one of its key."""
        fit: list[Job] = []
        for job in jobs:
            try:
                said = _slots(job)
            except UnknownTask:  # a worker that knows it will let it in
                continue
            taken = self._slots.get(key, 0) + len(fit) + (self._turn_taken(key) if said.in_order else 0)
            if said.most is not None and taken >= said.most:
                break
            fit.append(job)
        return fit

    def _turn_taken(self, key: str) -> int:
        """How many have run under the key, and are to run again."""
        if self._turns is None:
            self._turns = self._number(Job.objects.having_turns())
        return self._turns.get(key, 0)

    def _let_in(self, jobs: Sequence[Job]) -> set[Lane]:
        lanes: dict[Lane, list[int]] = {}
        for job in jobs:
            lanes.setdefault(Lane(job.queue_name, job.priority), []).append(job.pk)
        waiting = Job.objects.using(self.using).waiting_for_slots()
        for lane, ids in lanes.items():
            floor = self.floors.get(lane, 0)
            place = Case(When(place__gte=0, place__lt=floor, then=Value(floor, BigIntegerField())), default=F("place"))
            waiting.filter(pk__in=ids).update(status=Job.Status.READY, place=place)
        return set(lanes)


def lock(keys: Sequence[str], using: str) -> None:
    """The rows of the keys, ours until the transaction ends; all take them in the same order."""
    names = [f"concurrency {key}" for key in keys]
    rows = Limit.objects.using(using).filter(pk__in=names).order_by("pk")

    def locked() -> dict[str, bool]:
        """By the key's name: has it been noted of late that it is used?"""
        noted = rows.annotate(is_noted=GreaterThan(F("used_at"), Now() - USED))
        if connections[using].features.has_select_for_update:
            noted = noted.select_for_update()
        else:
            rows.update(started=F("started"))  # SQLite: the one lock of all, before anything is read
        return dict(noted.values_list("pk", "is_noted"))

    there = locked()
    if missing := set(names).difference(there):
        new = [Limit(key=name, used_at=Now()) for name in sorted(missing)]
        Limit.objects.using(using).bulk_create(new, ignore_conflicts=True)
        there = locked()
    if old := [name for name, is_noted in there.items() if not is_noted]:
        rows.filter(pk__in=old).update(used_at=Now())


def _slots(job: Job) -> Slots:
    if isinstance(job.options, str):
        job.options = json.loads(job.options)
    return slots_of(resolve(job.task_path), job)
