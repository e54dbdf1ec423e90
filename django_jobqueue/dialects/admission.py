"""Admission: which of the jobs that wait for slots come in line, in portable SQL."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from django.db.models import BigIntegerField, Case, Count, F, Value, When

from ..keys import Slots
from ..models import Job, Pause
from ..models.fields import NextPlace
from ..models.job import JobQuerySet
from .records import Admitted, Lane

if TYPE_CHECKING:
    from .limits import Limits

#: So many jobs of a key are looked at first, and so many times as many if all of those could be let in.
FIRST, MORE = 4, 8
#: Nobody else can let in jobs of these keys meanwhile: so there are no more than so many of one key, and of all.
MOST, MOST_OF_ALL = 500, 25_000


def most_of_each(keys: Sequence[str]) -> int:
    """How many jobs of each of the keys may be let in at once."""
    return min(MOST, max(FIRST, MOST_OF_ALL // len(keys)))


class Admission:
    """For a few keys, which are locked."""

    def __init__(
        self,
        dialect: Limits,
        keys: Sequence[str],
        rules: Mapping[str, Slots],
        unknown: Collection[str],
        floors: Mapping[Lane, int],
    ) -> None:
        self.dialect, self.using, self.keys = dialect, dialect.using, keys
        self.rules, self.unknown, self.floors = rules, unknown, floors
        self._most = most_of_each(keys)
        self._slots = self._number(Job.objects.having_slots())
        self._turns: Mapping[str, int] | None = None
        self._unfinished: set[str] = set()
        self._strangers: set[str] = set()

    def carry_out(self) -> Admitted:
        chosen: list[Job] = []
        wanted = dict.fromkeys(sorted(set(self.keys) - self._paused()), FIRST)
        while wanted:
            heads: dict[str, list[Job]] = {key: [] for key in wanted}
            for job in self.dialect.heads(wanted, self.unknown):
                heads[str(job.concurrency_key)].append(job)
            fitting = {key: self._fitting(jobs, key) for key, jobs in heads.items()}
            self._unfinished |= {key for key, jobs in fitting.items() if len(jobs) == self._most}
            more = {key for key, jobs in fitting.items() if len(jobs) == wanted[key] < self._most}
            chosen += [job for key, jobs in fitting.items() if key not in more for job in jobs]
            wanted = {key: min(self._most, wanted[key] * MORE) for key in more}
        return Admitted(self._let_in(chosen), self._unfinished, self._strangers)

    def _number(self, jobs: JobQuerySet) -> Mapping[str, int]:
        """How many of these jobs there are, by key."""
        some = self.dialect.newest(jobs.using(self.using).filter(concurrency_key__in=self.keys))
        return dict(some.values_list("concurrency_key").annotate(Count("pk")).order_by())

    def _paused(self) -> set[str]:
        paused = Pause.objects.using(self.using).keys().filter(name__in=self.keys)
        return set(self.dialect.newest(paused).values_list("name", flat=True))

    def _fitting(self, jobs: Sequence[Job], key: str) -> list[Job]:
        """The first of the jobs for which there is a slot. None overtakes another one of its key."""
        fit: list[Job] = []
        for job in jobs:
            if job.task_path not in self.rules:
                self._strangers.add(job.task_path)
                self._unfinished.add(key)
                break
            slots = self._said(job)
            taken = self._slots.get(key, 0) + len(fit) + (self._turn_taken(key) if slots.in_order else 0)
            if slots.most is not None and taken >= slots.most:
                break
            fit.append(job)
        return fit

    def _said(self, job: Job) -> Slots:
        if isinstance(job.options, str):
            job.options = json.loads(job.options)
        return self.rules[job.task_path].but(job.options)

    def _turn_taken(self, key: str) -> int:
        """How many have run under the key, and are to run again."""
        if self._turns is None:
            self._turns = self._number(Job.objects.having_turns())
        return self._turns.get(key, 0)

    def _let_in(self, jobs: Sequence[Job]) -> set[Lane]:
        lanes: dict[Lane, list[int]] = {}
        last: list[Job] = []
        for job in jobs:
            if self._said(job).fair:
                last.append(job)
            else:
                lanes.setdefault(Lane(job.queue_name, job.priority), []).append(job.pk)
        waiting = Job.objects.using(self.using).waiting_for_slots()
        for lane, ids in lanes.items():
            floor = self.floors.get(lane, 0)
            place = Case(When(place__gte=0, place__lt=floor, then=Value(floor, BigIntegerField())), default=F("place"))
            waiting.filter(pk__in=ids).update(status=Job.Status.READY, place=place)
        for turn, ids in self._turns_of(last).items():
            # Who must run alone keeps its place; and two moments may be one by the clock that the place is drawn from.
            place = Case(When(place__lt=0, then=F("place")), default=NextPlace() + Value(turn, BigIntegerField()))
            waiting.filter(pk__in=ids).update(status=Job.Status.READY, place=place)
        return {*lanes, *(Lane(job.queue_name, job.priority) for job in last)}

    def _turns_of(self, jobs: Sequence[Job]) -> dict[int, list[int]]:
        """The first of each key, then the second ones, and so on."""
        turn: Counter[str | None] = Counter()
        turns: dict[int, list[int]] = {}
        for job in jobs:
            turns.setdefault(turn[job.concurrency_key], []).append(job.pk)
            turn[job.concurrency_key] += 1
        return dict(sorted(turns.items()))
