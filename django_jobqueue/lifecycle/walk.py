"""Walk: through the jobs in the order of their ids, in search of what is old enough to be deleted.

Ids are nearly in the order of the times, so a walk ends where jobs were enqueued too lately. The next one begins not
far from there: jobs that are kept for longer than others would else be read again each minute. What is left behind,
because it took long to finish, is found by a second walk that goes through the whole table, about once an hour.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Q
from django.db.models.functions import Now

from ..models import Job
from ..models.job import FINISHED

#: Between two walks through the whole table.
SWEEP = timedelta(hours=1)


class Seen(NamedTuple):
    """What a walk reads of a job."""

    pk: int
    status: str
    enqueued_at: datetime
    finished_at: datetime | None
    prune_at: datetime | None
    now: datetime


@dataclass(slots=True)
class Step:
    """A part of a walk: what is due there, where it leads, and before which job the next walk has to begin, if any."""

    due: list[int] = field(default_factory=list)
    last: int = 0
    again: int | None = None
    is_end: bool = False


class Walk:
    """Through the jobs of ``statuses``, which are kept for ``age``; along the index of ``only``, if that is given."""

    def __init__(self, statuses: Iterable[str], age: timedelta, only: str = "") -> None:
        self.statuses, self.age, self.only = frozenset(statuses), age, only
        #: What a job must meet to be deleted, in SQL; all but its status.
        self.is_due = Q(prune_at__isnull=True, finished_at__lt=Now() - age)
        #: The last job that was looked at.
        self.here = 0
        self._again: int | None = None

    @property
    def rests(self) -> bool:
        return False

    def look(self, using: str, size: int) -> Step:
        """The next step. It is not taken yet."""
        rows = Job.objects.using(using).filter(pk__gt=self.here).order_by("pk").annotate(now=Now())
        if self.only:
            rows = rows.filter(status=self.only)
        # Jobs that say themselves how long they are kept are read and passed by: a condition in SQL would let the
        # database read any number of them for one step.
        seen = [Seen(*row) for row in rows.values_list(*Seen._fields)[:size]]
        step = Step(last=seen[-1].pk if seen else self.here)
        step.is_end = len(seen) < size or self._is_young(seen[-1])
        for job in seen:
            if self._is_due(job):
                step.due.append(job.pk)
            elif step.again is None and self._is_due_soon(job):
                step.again = job.pk
        return step

    def take(self, step: Step) -> None:
        """What was due there is gone: go on, or back to where the next walk begins."""
        self.here = step.last
        if self._again is None:
            self._again = step.again
        if step.is_end:
            self._turn_back()

    def _turn_back(self) -> None:
        if self._again is not None:
            self.here, self._again = self._again - 1, None

    def _is_young(self, job: Seen) -> bool:
        return job.enqueued_at >= job.now - self.age

    def _is_due(self, job: Seen) -> bool:
        if job.finished_at is None or job.prune_at is not None or job.status not in self.statuses:
            return False
        return job.finished_at < job.now - self.age

    def _is_due_soon(self, job: Seen) -> bool:
        """Will it be due before the whole table is looked through again? Not yet due is certain."""
        if self._is_young(job):
            return True
        if job.status not in FINISHED:
            return job.enqueued_at > job.now - self.age - SWEEP
        if job.finished_at is None or job.prune_at is not None or job.status not in self.statuses:
            return False
        return job.finished_at < job.now - self.age + SWEEP


class Sweep(Walk):
    """The same through the whole table, and then a rest."""

    def __init__(self, statuses: Iterable[str], age: timedelta, only: str = "") -> None:
        super().__init__(statuses, age, only)
        self._rests_until = time.monotonic() + SWEEP.total_seconds()

    @property
    def rests(self) -> bool:
        return time.monotonic() < self._rests_until

    def _turn_back(self) -> None:
        self.here, self._again = 0, None
        self._rests_until = time.monotonic() + SWEEP.total_seconds()


def walks_for(ages: Mapping[str, timedelta | None]) -> list[Walk]:
    """Walks that find the jobs of each status when they are so old; None: never."""
    walks: list[Walk] = []
    most = ages.get("SUCCESSFUL")
    if most is not None:
        alike = [status for status, age in ages.items() if age == most]
        walks += [kind(alike, most) for kind in (Walk, Sweep)]
    for status, age in ages.items():
        if age is not None and age != most:
            walks += [kind([status], age, status) for kind in (Walk, Sweep)]
    return walks
