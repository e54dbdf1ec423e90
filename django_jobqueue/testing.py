"""For the tests of your project: run its jobs, when schedules come, and what they enqueue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from django.utils import timezone

from .backend import JobQueueBackend
from .compat import AnyResult, AnyTask, task_backends
from .conf import backend_aliases
from .lifecycle.schedule import call_of
from .lifecycle.synchronise import Definition, definitions
from .models import Schedule
from .schedules import Entry
from .task import enqueue_many
from .timing import aware
from .worker.inline import InlineWorker


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


def run_jobs(backend: str | None = None, *, max_jobs: int = 1000) -> int:
    """Run all jobs that are due, and those that they enqueue, here and now; return the number of attempts.

    They run one after another in the calling thread, on its own connections, so also in the transaction of a
    ``TestCase`` and on SQLite's database in memory. All else is as in a worker: middleware, time limits, retries,
    signals, chains, limits. What is scheduled for later stays, a retry with a pause too.

    ``backend`` is the alias in TASKS, by default the first one of this package. Raise ``LookupError`` if there is no
    such one, and ``RuntimeError`` when jobs are left after ``max_jobs`` attempts, as where a task enqueues itself.
    """
    alias = next(iter(backend_aliases()), None) if backend is None else backend
    found = task_backends[alias] if alias in backend_aliases() else None
    if not isinstance(found, JobQueueBackend):
        raise LookupError(f"TASKS has no backend of django_jobqueue{'' if backend is None else f' named {backend!r}'}.")
    return InlineWorker(found).run(max_jobs)


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
