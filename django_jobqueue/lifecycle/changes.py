"""Changes: what people may do to jobs, and to which of them: one condition that is asked in the very statement that
writes. So a job that a worker claims in the same moment is either claimed, or changed; never both, never half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db.models import DateTimeField, Q, QuerySet, Value
from django.db.models.functions import Now
from django.db.models.lookups import GreaterThan

from ..models import Job
from ..models.fields import NextPlace
from ..models.job import FOR_A_SLOT, READY_OR_IN_WAITING, UNFINISHED
from ..moments import check_moment
from ..timing import aware
from .keep import deleted_at
from .put_back import RETRYABLE, put_back

Status = Job.Status
_READY, _SCHEDULED = Q(status=Status.READY), Q(status=Status.READY, place__isnull=True)


@dataclass(frozen=True, slots=True)
class Step:
    """The jobs that meet ``where`` get ``values``."""

    where: Q
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    #: The kinds of jobs that it does something to, in the words of ``stats.totals``.
    kinds: tuple[str, ...]
    steps: Sequence[Step] = field(repr=False)
    #: Does it, where the steps do not say all of it.
    writing: Callable[[QuerySet[Job]], list[int]] | None = field(default=None, repr=False)
    #: May workers start something that they could not before?
    wakes: bool = True

    def of(self, jobs: QuerySet[Job]) -> QuerySet[Job]:
        """Those of the jobs that it would do something to now."""
        any_step = Q()
        for step in self.steps:
            any_step |= step.where
        return jobs.filter(any_step)

    def write(self, jobs: QuerySet[Job]) -> list[int]:
        """Do it to those of the jobs that it can be done to; to how many, for each step."""
        return _update(jobs, self.steps) if self.writing is None else self.writing(jobs)


def _update(jobs: QuerySet[Job], steps: Sequence[Step]) -> list[int]:
    # in the order of the ids, where the database lets an update have one: so two of them never deadlock
    return [jobs.filter(step.where).order_by("pk").update(**step.values) for step in steps]


RETRY = Change(
    ("failed", "cancelled"),
    [Step(Q(status__in=RETRYABLE), {"status": Status.READY})],
    lambda jobs: [put_back(jobs).retried],
)

_CANCEL = Step(
    Q(status__in=(Status.WAITING, Status.READY)),
    {"status": Status.CANCELLED, "finished_at": Now()},
)
_ASK = Step(Q(status=Status.RUNNING, cancel_requested_at__isnull=True), {"cancel_requested_at": Now()})


def _cancel(jobs: QuerySet[Job]) -> list[int]:
    # of a job's life, what says for how long it is kept is always the same
    kept = deleted_at(jobs.filter(status__in=UNFINISHED).only("task_path", "options"), Status.CANCELLED)
    over = Step(_CANCEL.where, {**_CANCEL.values, **kept})
    return _update(jobs, [over, _ASK, over])


# In this order: a job that is claimed in between is asked, one that comes back in between is missed by neither.
CANCEL = Change(("ready", "scheduled", "waiting", "running"), [_CANCEL, _ASK, _CANCEL], _cancel, wakes=False)

_IN_LINE_NOW = {"status": READY_OR_IN_WAITING, "place": NextPlace(), "run_after": Now()}
RUN_NOW = Change(("scheduled",), [Step(_SCHEDULED, _IN_LINE_NOW)])


# A job that is moved keeps its place: in the other line it stands where its age puts it, in front of those that became
# ready later. One that must run alone has a negative place, and goes on having it. Workers begin their claims behind
# such places, at their floors; the look that they are told to take finds them.


def to_queue(queue_name: str) -> Change:
    """Move what has not started to another queue. Raise ``ValueError`` for what is no queue's name."""
    if not isinstance(queue_name, str) or not 1 <= len(queue_name) <= 100:
        raise ValueError(f"A queue's name has 1 to 100 characters, not {queue_name!r}.")
    return _not_started(~Q(queue_name=queue_name), {"queue_name": queue_name})


def to_priority(priority: int) -> Change:
    """Give what has not started another priority. Raise ``ValueError`` for what is none."""
    if isinstance(priority, bool) or not isinstance(priority, int) or not -100 <= priority <= 100:
        raise ValueError(f"A priority is a whole number from -100 to 100, not {priority!r}.")
    return _not_started(~Q(priority=priority), {"priority": priority})


def _not_started(where: Q, values: dict[str, Any]) -> Change:
    waiting = Q(status__in=(Status.READY, Status.WAITING))
    return Change(("ready", "scheduled", "waiting"), [Step(waiting & where, values)])


def to_time(run_after: datetime | None) -> Change:
    """Let jobs that are ready, or wait for a slot of their key, start at that time and no sooner; None, or a time that
    is past by the database's clock: now.

    What is in line already stays there then, at its place. Raise ``TypeError`` for what is no time, and ``ValueError``
    for one that not every database can hold.
    """
    if run_after is None:
        return RUN_NOW
    if not isinstance(run_after, datetime):
        raise TypeError(f"The time is a datetime or None, not {run_after!r}.")
    check_moment("The time", run_after)
    if settings.USE_TZ:
        run_after = aware(run_after)
    moment = Value(run_after, output_field=DateTimeField())
    is_to_come = Q(GreaterThan(moment, Now()))
    later = Step(
        (_READY | FOR_A_SLOT) & is_to_come & ~Q(run_after=run_after, place__isnull=True),
        {"status": Status.READY, "place": None, "run_after": run_after},
    )
    return Change(("ready", "scheduled", "waiting"), [later, Step(_SCHEDULED & ~is_to_come, _IN_LINE_NOW)])
