"""TaskResult: a job and its attempts in the words of django.tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from types import NoneType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from .compat import (
    TASK_REFRESH_ATTRS,
    AnyResult,
    AnyTask,
    BaseTaskBackend,
    TaskError,
    TaskResult,
    TaskResultStatus,
    normalize_json,
)
from .exceptions import Cancelled, Dropped, JobFailed, UnknownTask
from .models import Attempt, Job
from .outcomes import seconds
from .registry import copy_of, resolve

P = ParamSpec("P")
R = TypeVar("R")

STATUS: dict[str, TaskResultStatus] = {
    Job.Status.WAITING: TaskResultStatus.READY,
    Job.Status.READY: TaskResultStatus.READY,
    Job.Status.RUNNING: TaskResultStatus.RUNNING,
    Job.Status.SUCCESSFUL: TaskResultStatus.SUCCESSFUL,
    Job.Status.FAILED: TaskResultStatus.FAILED,
    Job.Status.CANCELLED: TaskResultStatus.FAILED,
}


@dataclass(slots=True)
class Past:
    """What a result says of an attempt: for one that has just ended, whose row this process has not read."""

    worker_id: int | None
    started_at: datetime
    exception_class_path: str
    message: str
    traceback: str


if TYPE_CHECKING:
    from django.tasks.base import TaskResult as _TaskResult
else:

    class _TaskResult:
        """Only the stubs' TaskResult takes parameters; at run time ``_TaskResult[P, R]`` is Django's itself."""

        def __class_getitem__(cls, parameters: Any) -> type:
            return TaskResult


class JobResult(_TaskResult[P, R]):
    """Django's ``TaskResult``, and ``get`` and ``aget`` to wait for it, as Celery's results have."""

    __slots__ = ("_attempts",)
    _attempts: int

    @property
    def attempts(self) -> int:
        """How often the job was started, also where the result does not name the worker of each attempt any more."""
        return getattr(self, "_attempts", len(self.worker_ids))

    def refresh(self) -> None:
        self._take(_backend_of(self).get_result(self.id))

    async def arefresh(self) -> None:
        self._take(await _backend_of(self).aget_result(self.id))

    def _take(self, newer: AnyResult) -> None:
        for name in TASK_REFRESH_ATTRS:
            object.__setattr__(self, name, getattr(newer, name))
        object.__setattr__(self, "_attempts", newer.attempts)

    def get(self, timeout: float | timedelta | None = None) -> R:
        """Wait until the job is over, and return what the task returned.

        Raise ``TimeoutError`` if that takes longer than ``timeout``, seconds or a timedelta; ``JobFailed`` if the job
        has failed or was cancelled; ``WaitInTransaction`` in a transaction, where its end could not be seen.
        """
        if not self.is_finished:
            if not _backend_of(self).wait_for_end(self.id, _seconds(timeout)):
                raise _too_late(self, timeout)
            self.refresh()
        return self._value()

    async def aget(self, timeout: float | timedelta | None = None) -> R:
        """``get`` for async code: ``await result.aget(timeout=5)``."""
        if not self.is_finished:
            if not await _backend_of(self).await_for_end(self.id, _seconds(timeout)):
                raise _too_late(self, timeout)
            await self.arefresh()
        return self._value()

    def _value(self) -> R:
        if self.status != TaskResultStatus.SUCCESSFUL:
            raise JobFailed(self)
        return self.return_value


def _backend_of(result: AnyResult) -> Any:
    return result.task.get_backend()


def _seconds(timeout: float | timedelta | None) -> float | None:
    return None if timeout is None else seconds(timeout)


def _too_late(result: AnyResult, timeout: Any) -> TimeoutError:
    return TimeoutError(f"{result.task.name} #{result.id} is not over after {_seconds(timeout):g} seconds.")


class PendingResult(JobResult):  # type: ignore[type-arg]
    """A result that is made when somebody looks at it. Most callers of ``enqueue`` and receivers of signals look at
    its id, or at nothing.

    It shows the job as it was when it was enqueued or the signal was sent, however late it is looked at, and is a plain
    ``JobResult`` from then on. It has no slot of its own, so that its class can change: until then the slot of the
    return value holds the moment.
    """

    __slots__ = ()

    @classmethod
    def of(
        cls,
        job: Job,
        make_task: Callable[[Job], AnyTask],
        make_attempts: Callable[[], Iterable[Attempt | Past]],
        **changes: Any,
    ) -> AnyResult:
        """``changes`` are columns of the job at this moment that the object ``job`` does not show."""
        columns = {**vars(job), "args": _own(job.args), "kwargs": _own(job.kwargs), **changes}
        return cls.at(Moment(Job.of(columns.items()), make_task, make_attempts))

    @classmethod
    def at(cls, moment: Moment) -> AnyResult:
        """``moment`` has a job that nobody else changes."""
        result: AnyResult = object.__new__(cls)
        object.__setattr__(result, "_return_value", moment)
        return result

    def __getattr__(self, name: str) -> Any:
        moment = object.__getattribute__(self, "_return_value")
        if isinstance(moment, Moment):
            if name in _IN_THE_LOG:
                return getattr(moment, name)
            self._make(moment)
        return object.__getattribute__(self, name)

    def _made(self) -> AnyResult:
        moment = object.__getattribute__(self, "_return_value")
        if isinstance(moment, Moment):
            self._make(moment)
        return self

    def _make(self, moment: Moment) -> None:
        made = moment.result()
        for field in fields(made):
            object.__setattr__(self, field.name, getattr(made, field.name))
        object.__setattr__(self, "_attempts", made.attempts)
        object.__setattr__(self, "__class__", type(made))

    # These reach for the slot of the return value, or write to others.

    @property
    def return_value(self) -> Any:
        return self._made().return_value

    def refresh(self) -> None:
        self._made().refresh()

    async def arefresh(self) -> None:
        await self._made().arefresh()

    def __eq__(self, other: object) -> bool:
        return bool(self._made() == other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._made())

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._made().__reduce_ex__(protocol)


#: Django's receivers write these to the log of the task framework.
_IN_THE_LOG = frozenset({"id", "status", "task", "backend"})


class Moment:
    """A job as it was when it was enqueued, or when a signal was sent."""

    __slots__ = ("_make_attempts", "_make_task", "job")

    def __init__(
        self, job: Job, make_task: Callable[[Job], AnyTask], make_attempts: Callable[[], Iterable[Attempt | Past]]
    ) -> None:
        self.job, self._make_task, self._make_attempts = job, make_task, make_attempts

    @property
    def id(self) -> str:
        return "" if self.job.pk is None else str(self.job.pk)

    @property
    def status(self) -> TaskResultStatus:
        return STATUS[self.job.status]

    @property
    def backend(self) -> str:
        return self.job.backend

    @property
    def task(self) -> AnyTask:
        return self._make_task(self.job)

    def result(self) -> AnyResult:
        self.job.decode()
        return result_of(self.job, self._make_attempts(), self.task)


_SCALARS = frozenset({str, int, float, bool, NoneType})


def _own(arguments: Any) -> Any:
    """The arguments as they are now: the task may change what they contain."""
    values = arguments.values() if isinstance(arguments, dict) else arguments
    return arguments.copy() if all(type(value) in _SCALARS for value in values) else normalize_json(arguments)


class Results(Sequence[AnyResult]):
    """The results of calls that were enqueued together, in their order.

    Each is made when it is looked at, and then kept: most callers of a bulk never look, and to make a result takes as
    long as to make its job.
    """

    def __init__(
        self, make: Callable[[AnyTask, Job], AnyResult], tasks: Sequence[AnyTask], jobs: Sequence[Job]
    ) -> None:
        self._make, self._tasks, self._jobs = make, tasks, jobs
        self._made: dict[int, AnyResult] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    @overload
    def __getitem__(self, place: int) -> AnyResult: ...

    @overload
    def __getitem__(self, place: slice) -> list[AnyResult]: ...

    def __getitem__(self, place: int | slice) -> AnyResult | list[AnyResult]:
        numbers = range(len(self._jobs))[place]
        return self._result(numbers) if isinstance(numbers, int) else [self._result(number) for number in numbers]

    def _result(self, number: int) -> AnyResult:
        if number not in self._made:
            self._made[number] = self._make(self._tasks[number], self._jobs[number])
        return self._made[number]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


def result_of(job: Job, attempts: Iterable[Attempt | Past], task: AnyTask) -> AnyResult:
    """The job as a ``TaskResult``. ``attempts`` are its ended ones in order; a running one is taken from the job."""
    attempts = list(attempts)
    made = [attempt for attempt in attempts if attempt.worker_id is not None]
    worker_ids = [str(attempt.worker_id) for attempt in made]
    started = [attempt.started_at for attempt in made]
    if job.status == Job.Status.RUNNING:
        worker_ids.append(str(job.worker_id))
        started += [job.started_at] if job.started_at else []
    result: AnyResult = JobResult(
        task=task,
        id="" if job.pk is None else str(job.pk),
        status=STATUS[job.status],
        enqueued_at=job.enqueued_at,
        started_at=started[0] if started else None,
        last_attempted_at=started[-1] if started else None,
        finished_at=job.finished_at,
        args=job.args,
        kwargs=job.kwargs,
        backend=job.backend,
        errors=errors_of(job, attempts),
        worker_ids=worker_ids,
    )
    object.__setattr__(result, "_return_value", job.result)
    if job.attempts > len(worker_ids):  # old attempts are not kept for ever; and some no worker has made
        object.__setattr__(result, "_attempts", job.attempts - (len(attempts) - len(made)))
    return result


def counting_tries(result: AnyResult, tries: int) -> AnyResult:
    """Let ``result.attempts`` be the number of attempts that count towards ``max_attempts``; for a backoff."""
    object.__setattr__(result, "_attempts", tries)
    return result


def errors_of(job: Job, attempts: Iterable[Attempt | Past]) -> list[TaskError]:
    errors = [
        TaskError(exception_class_path=attempt.exception_class_path, traceback=attempt.traceback or attempt.message)
        for attempt in attempts
        if attempt.exception_class_path
    ]
    if job.status == Job.Status.CANCELLED:
        errors.append(_error(Cancelled if job.pk else Dropped, "The job was cancelled." if job.pk else "Not enqueued."))
    return errors


def _error(kind: type[BaseException], message: str) -> TaskError:
    return TaskError(exception_class_path=f"{kind.__module__}.{kind.__qualname__}", traceback=message)


def task_of(job: Job, backend: BaseTaskBackend) -> AnyTask:
    """The job's task with the queue, priority and time that it was enqueued with.

    A task that this process does not know becomes a stand-in whose call raises ``UnknownTask``: one stale row must
    not break a list of results.
    """
    try:
        task = resolve(job.task_path)
    except UnknownTask:
        task = backend.task_class(func=_vanished(job.task_path), backend=backend.alias, **_defaults(backend))
    changes = {
        "priority": job.priority,
        "queue_name": job.queue_name,
        "backend": job.backend,
        "run_after": job.run_after,
    }
    if all(getattr(task, name) == value for name, value in changes.items()):
        return task
    return copy_of(task, **changes)  # unvalidated: the settings may have changed since the job was enqueued


def _vanished(path: str) -> Any:
    def vanished(*args: Any, **kwargs: Any) -> None:
        raise UnknownTask(f"No task {path!r} in this process.")

    vanished.__module__, _, vanished.__qualname__ = path.rpartition(".")
    vanished.__name__ = vanished.__qualname__
    return vanished


def _defaults(backend: BaseTaskBackend) -> dict[str, Any]:
    queue_name = "default" if not backend.queues or "default" in backend.queues else min(backend.queues)
    return {"priority": 0, "queue_name": queue_name, "run_after": None, "takes_context": False}
