"""For the tests of your project: when schedules come, and what they enqueue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.utils import timezone

from .compat import AnyResult, AnyTask, task_backends
from .lifecycle.schedule import call_of
from .lifecycle.synchronise import Definition, definitions
from .models import Schedule
from .schedules import Entry
from .task import enqueue_many
from .timing import aware


def ticks(schedule: Entry, number: int, after: datetime | None = None) -> list[datetime]:
    """The next ``number`` times of what ``cron`` or ``every`` makes, later than ``after``, which is now by default."""
    found: list[datetime] = []
    moment = anchor = aware(after or timezone.now())
    while len(found) < number and (tick := schedule.timing.after(moment, anchor)) is not None:
        found.append(tick)
        moment = tick
    return found


def fire(task: AnyTask, name: str | None = None, at: datetime | None = None) -> AnyResult:
    """Enqueue what a worker would enqueue for a schedule of this task at the time ``at``, and return the result.

    ``name`` says which one, if there are several. What is unfinished, missed or paused is not asked for. Raise
    ``LookupError`` if there is no such schedule, and what an enqueue raises.
    """
    definition = _chosen(definitions([task]), task, name)
    [result] = enqueue_many([call_of(_row(definition), aware(at or timezone.now()), _database(task))])
    return result


def _chosen(found: Sequence[Definition], task: AnyTask, name: str | None) -> Definition:
    chosen = [one for one in found if name in (None, one.name)]
    if len(chosen) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise LookupError(f"{task.module_path}: say which schedule is meant with name=…; it has {names}.")
    return chosen[0]


def _row(definition: Definition) -> Schedule:
    """As a worker would save it."""
    entry = definition.entry
    return Schedule(
        name=definition.name,
        task_path=definition.task.module_path,
        args=list(entry.args),
        kwargs=dict(entry.kwargs),
        jitter=entry.jitter,
        queue_name=entry.queue_name,
        priority=entry.priority,
    )


def _database(task: AnyTask) -> str:
    return str(getattr(task_backends[task.backend], "database", ""))
