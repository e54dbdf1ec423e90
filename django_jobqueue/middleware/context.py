"""The context: what a task with ``takes_context=True`` and every layer around it get to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import FrozenInstanceError
from datetime import datetime
from math import isfinite
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from ..compat import AnyResult, AnyTask, TaskContext
from ..options import of_task
from ..outcomes import MESSAGE_LENGTH, storable

if TYPE_CHECKING:
    from ..models import Job

    class _Context:
        _make: Callable[[Job], AnyResult] | None
        _made: list[AnyResult]

else:
    _Context = TaskContext


class WorkerHandle(Protocol):
    """What a layer may know of the worker: its number, its name, and ``state``, to put shared clients on."""

    @property
    def id(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> SimpleNamespace: ...

    def stop(self) -> None: ...

    def note_progress(self, job: Job, done: float, total: float | None, message: str) -> None: ...

    def interrupt_on_stop(self, job: Job) -> None: ...


def _never() -> str | None:
    return None


_set = object.__setattr__
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class JobContext(_Context):
    """Django's ``TaskContext`` with more. It does not change; what a layer injects is seen further in only.

    Written out, and no dataclass as Django's is: one is made for each job, and most are never asked for their result.
    """

    job: Job
    task: AnyTask
    worker: WorkerHandle
    injected: Mapping[str, Any]
    stop_reason: Callable[[], str | None]

    if not TYPE_CHECKING:
        __slots__ = ("_made", "_make", "injected", "job", "stop_reason", "task", "worker")

    def __init__(
        self,
        *,
        job: Job,
        task: AnyTask,
        worker: WorkerHandle,
        make_result: Callable[[Job], AnyResult] | None = None,
        injected: Mapping[str, Any] = _NOTHING,
        stop_reason: Callable[[], str | None] = _never,
        made: list[AnyResult] | None = None,
    ) -> None:
        """``make_result`` is asked for the ``task_result`` when somebody wants it; ``made`` holds it from then on."""
        _set(self, "job", job)
        _set(self, "task", task)
        _set(self, "worker", worker)
        _set(self, "injected", injected)
        _set(self, "stop_reason", stop_reason)
        _set(self, "_make", make_result)
        _set(self, "_made", [] if made is None else made)

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<JobContext: {self.job}, attempt {self.attempt}>"

    @property
    def task_result(self) -> AnyResult:
        """The job as Django's ``TaskResult``."""
        if not self._made:
            if self._make is None:
                raise LookupError("Nobody has said how to make the result of this context.")
            self._made.append(self._make(self.job))
        return self._made[0]

    @property
    def attempt(self) -> int:
        """The number of this attempt: 1 on the first run."""
        return self.job.attempts

    @property
    def scheduled_for(self) -> datetime | None:
        """The time that a schedule meant this job for; None if no schedule has enqueued it.

        It stays the same when the job starts late, is put off by the schedule's jitter, or is retried.
        """
        told = self.job.option("scheduled_for")
        return datetime.fromisoformat(told) if told else None

    def option(self, name: str, default: Any = None) -> Any:
        """The option's value: as given by ``using`` for this job, else as declared with the task, else as set in
        JOBQUEUE_DEFAULTS, else as its layer has it; ``default`` if nobody knows the option.

        What has been said counts, None and 0 too.
        """
        options = self.job.options  # as ``in_force``, which takes half as long again: layers ask for each job
        if options and isinstance(options, dict) and name in options:
            return options[name]
        return of_task(self.task, name, default)

    def should_stop(self) -> str | None:
        """Why the task should end early: ``"cancel"``, ``"timeout"``, ``"shutdown"``, ``"lost"``; None to go on.

        Long tasks ask now and then, and return or raise when there is a reason.
        """
        return self.stop_reason()

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the task is: it is shown in the admin and by ``Job.progress``.

        Cheap, callable from any thread as often as one likes: about once a second the worker writes the latest.
        Raise ``ValueError`` for a number that is none.
        """
        for number in (done, total):
            if number is not None and not isfinite(number):
                raise ValueError(f"Progress must be told in finite numbers, not {number!r}.")
        self.worker.note_progress(self.job, done, total, storable(str(message))[:MESSAGE_LENGTH])

    def keep_log(self, text: str) -> None:
        """Put the text on record with this attempt, behind what is there already."""
        self.job.attempt_log += text

    def expire_result(self, seconds: float) -> None:
        """Let the result be deleted so many seconds after the job's end, while the job itself is kept."""
        self.job.result_ttl = seconds

    def interrupt_on_stop(self) -> None:
        """Let ``WorkerShutdown`` interrupt the task as soon as the worker begins to stop, not after its grace."""
        self.worker.interrupt_on_stop(self.job)

    def stop_worker(self) -> None:
        """Let the worker finish what it runs, and end. Callable from any thread."""
        self.worker.stop()

    def inject(self, values: Mapping[str, Any]) -> JobContext:
        if not values:
            return self
        return JobContext(
            job=self.job,
            task=self.task,
            worker=self.worker,
            make_result=self._make,
            injected=MappingProxyType({**self.injected, **values}),
            stop_reason=self.stop_reason,
            made=self._made,
        )


_current: ContextVar[JobContext | None] = ContextVar("django_jobqueue_current", default=None)


def current_job() -> JobContext | None:
    """The context of the job that is running here, or None: for library code that has no context at hand."""
    return _current.get()
