"""Foreign backends: what our calls do where TASKS names a backend of another package: in the settings of tests, say,
Django's Immediate or Dummy.

A task of ours can be declared, enqueued, chained and waited for there. Immediate runs the steps of a chain one after
another, with the results handed on; Dummy records all of them. What a backend cannot do is an error that names it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import fields
from datetime import datetime, timedelta
from math import isfinite
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from .compat import (
    AnyResult,
    AnyTask,
    BaseTaskBackend,
    DummyBackend,
    ImmediateBackend,
    InvalidTask,
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultStatus,
)
from .exceptions import Cancelled, DependencyFailed, JobFailed
from .options import of_task
from .outcomes import seconds
from .registry import copy_of
from .signatures import check_arguments

if TYPE_CHECKING:
    from .task import Call, Step

#: Seconds between two looks at a result that is waited for: the first, and the longest.
POLL = (0.02, 1.0)
#: The calls that were enqueued beside the one that Immediate runs here.
_beside: ContextVar[list[AnyResult] | None] = ContextVar("django_jobqueue_beside", default=None)


def named(backend: BaseTaskBackend) -> str:
    """What error messages call it: ``the backend 'default', ImmediateBackend,``."""
    return f"the backend {backend.alias!r}, {type(backend).__name__},"


# -- one call -------------------------------------------------------------------------------------


def validate(backend: BaseTaskBackend, task: AnyTask) -> None:
    """Raise ``InvalidTask`` for a task that the backend does not take."""
    try:
        backend.validate_task(_timed(backend, task))
    except InvalidTask as error:
        raise InvalidTask(f"{task.module_path}: {named(backend)} refuses it: {error}") from error


def _timed(backend: BaseTaskBackend, task: AnyTask) -> AnyTask:
    """The task with a ``run_after`` that other backends understand."""
    if task.run_after is None:
        return task
    if not backend.supports_defer:
        raise InvalidTask("it has no run_after. Leave it out there, or name Django's DummyBackend.")
    if not isinstance(task.run_after, timedelta):
        return task
    if task.run_after < timedelta(0):
        raise InvalidTask(f"run_after must not lie in the past, but is {task.run_after!r}.")
    try:
        return copy_of(task, run_after=timezone.now() + task.run_after)
    except OverflowError:
        raise InvalidTask(f"run_after is too far away: {task.run_after!r}.") from None


def enqueue(backend: BaseTaskBackend, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]) -> AnyResult:
    """Enqueue there what ``task.enqueue(*args, **kwargs)`` says. Raise ``TypeError`` for arguments that do not fit."""
    check_arguments(task, args, kwargs)
    waited_for = _waited_for(backend, task)
    if waited_for and (ended := _ended_for(waited_for, task.if_failed, backend, task, args, kwargs)):  # type: ignore[attr-defined]
        return ended
    return adopt(backend.enqueue(_timed(backend, task), list(args), dict(kwargs)))


async def aenqueue(
    backend: BaseTaskBackend, task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> AnyResult:
    """``enqueue`` by the backend's own ``aenqueue``."""
    check_arguments(task, args, kwargs)
    waited_for = _waited_for(backend, task)
    if waited_for and (ended := _ended_for(waited_for, task.if_failed, backend, task, args, kwargs)):  # type: ignore[attr-defined]
        return ended
    return adopt(await backend.aenqueue(_timed(backend, task), list(args), dict(kwargs)))


def enqueue_many(backend: BaseTaskBackend, calls: Sequence[Call]) -> list[AnyResult]:
    """Enqueue them one after another, once all are known to fit."""
    for call in calls:
        validate(backend, call.task)
        check_arguments(call.task, call.args, call.kwargs)
    return [enqueue(backend, call.task, call.args, call.kwargs) for call in calls]


def _waited_for(backend: BaseTaskBackend, task: AnyTask) -> Sequence[AnyResult]:
    """The results of ``using(after=…)``."""
    after = getattr(task, "after", ())
    for one in after:
        if not isinstance(one, TaskResult):
            raise InvalidTask(f"{task.module_path}: {named(backend)} has no job #{one} that could be waited for.")
    if after and not _can_compose(backend):
        raise InvalidTask(f"{task.module_path}: {named(backend)} cannot let jobs wait for others.")
    return after


# -- chains and groups ----------------------------------------------------------------------------


def enqueue_steps(backend: BaseTaskBackend, steps: Sequence[Step]) -> list[AnyResult]:
    """Enqueue a chain or group; the results in the order of the steps.

    Raise ``InvalidTask`` if steps wait for others and the backend neither runs them at once nor only records them.
    """
    if any(step.after for step in steps) and not _can_compose(backend):
        raise InvalidTask(
            f"T{named(backend)[1:]} cannot let jobs wait for others, so there are no chains. Name "
            "django_jobqueue.backend.JobQueueBackend, or in tests Django's ImmediateBackend or DummyBackend."
        )
    for step in steps:
        validate(backend, step.call.task)
        check_arguments(step.call.task, step.call.args, step.call.kwargs, handed=int(step.takes_result))
    results: list[AnyResult] = []
    beside: list[list[AnyResult]] = []
    for step in steps:
        added: list[AnyResult] = []
        token = _beside.set(added)
        try:
            results.append(_enqueue_step(backend, step, results, beside))
        finally:
            _beside.reset(token)
        beside.append(added)
    return results


def _can_compose(backend: BaseTaskBackend) -> bool:
    return isinstance(backend, ImmediateBackend | DummyBackend)


def _enqueue_step(
    backend: BaseTaskBackend, step: Step, results: Sequence[AnyResult], beside: Sequence[Sequence[AnyResult]]
) -> AnyResult:
    call, args = step.call, list(step.call.args)
    own = [results[place] for place in step.after]
    added = [one for place in step.after for one in beside[place]]
    if all(one.is_finished for one in own):  # Dummy finishes nothing
        if ended := _ended_for([*own, *added], step.rule, backend, call.task, args, call.kwargs):
            return ended
        if step.takes_result:
            telling = [results[place] for place in step.after if place not in step.silent]
            values = [_value(one) for one in ([*telling, *added] if step.listed else telling)]
            args.insert(0, values if step.listed else values[0])
    return adopt(backend.enqueue(_timed(backend, call.task), args, dict(call.kwargs)))


def _value(result: AnyResult) -> Any:
    return result.return_value if result.status == TaskResultStatus.SUCCESSFUL else None


def _ended_for(
    waited_for: Sequence[AnyResult],
    rule: str,
    backend: BaseTaskBackend,
    task: AnyTask,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> AnyResult | None:
    """The result of a call that does not run for what it waits for has come to. None: it runs."""
    failed = [one for one in waited_for if one.status == TaskResultStatus.FAILED]
    if rule == "run" or bool(failed) == (rule == "rescue"):
        return None
    kind: type[Exception]
    if rule == "rescue":
        kind, why = Cancelled, "Everything that it waited for has succeeded."
    else:
        kind, why = (DependencyFailed if rule == "fail" else Cancelled), f"{failed[0].task.name} has not succeeded."
    now = timezone.now()
    return ForeignResult(
        task=task,
        id="",
        status=TaskResultStatus.FAILED,
        enqueued_at=now,
        started_at=None,
        finished_at=now,
        last_attempted_at=None,
        args=list(args),
        kwargs=dict(kwargs),
        backend=backend.alias,
        errors=[TaskError(exception_class_path=f"{kind.__module__}.{kind.__qualname__}", traceback=why)],
        worker_ids=[],
    )


def enqueue_beside(backend: BaseTaskBackend, calls: Sequence[Call], job: Any) -> list[AnyResult]:
    """Enqueue calls beside the one that Immediate runs here. Raise ``LookupError`` where none runs, and ``ValueError``
    for a job that has ended, as all have there.
    """
    here = _beside.get()
    if job is None and here is None:
        raise LookupError("enqueue_beside() was called outside of a job: say beside which, with job=.")
    if job is not None and getattr(job, "is_finished", True):
        raise ValueError(f"{job!r} has ended: nothing can be enqueued beside it any more.")
    made = enqueue_many(backend, calls)
    if job is None and here is not None:
        here += made
    return made


# -- results --------------------------------------------------------------------------------------


class ForeignResult(TaskResult):  # type: ignore[type-arg]
    """Django's ``TaskResult`` of another package's backend, with the calls of ours."""

    __slots__ = ()

    def get(self, timeout: float | timedelta | None = None) -> Any:
        """Wait until the job is over, and return what the task returned.

        Raise ``TimeoutError`` and ``JobFailed`` as our results do, and ``NotImplementedError`` if the job has not ended
        and the backend cannot tell when it does.
        """
        for rest in self._looks(timeout):
            time.sleep(rest)
            self.refresh()
        return self._value()

    async def aget(self, timeout: float | timedelta | None = None) -> Any:
        """``get`` for async code."""
        for rest in self._looks(timeout):
            await asyncio.sleep(rest)
            await self.arefresh()
        return self._value()

    def _looks(self, timeout: float | timedelta | None) -> Iterable[float]:
        """How long to sleep before each look at the result, while it is needed."""
        backend = self.task.get_backend()
        if not self.is_finished and not backend.supports_get_result:
            raise NotImplementedError(
                f"{self.task.name} has not ended, and {named(backend)} cannot tell when it does: it cannot be waited "
                "for there."
            )
        most = None if timeout is None else seconds(timeout)
        end = None if most is None else time.monotonic() + most
        rest, longest = POLL
        while not self.is_finished:
            left = rest if end is None else end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.task.name} #{self.id} is not over after {most:g} seconds.")
            yield min(rest, left)
            rest = min(rest * 2, longest)

    def _value(self) -> Any:
        if self.status != TaskResultStatus.SUCCESSFUL:
            raise JobFailed(self)
        return self.return_value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskResult) and all(getattr(self, name) == getattr(other, name) for name in _FIELDS)

    def __hash__(self) -> int:
        return hash(self.id)


_FIELDS = [item.name for item in fields(TaskResult)]


def adopt(result: Any) -> AnyResult:
    """Give a plain ``TaskResult`` our calls; one of a class of the backend's own stays as it is."""
    if type(result) is TaskResult:
        object.__setattr__(result, "__class__", ForeignResult)
    found: AnyResult = result
    return found


# -- the context ----------------------------------------------------------------------------------


if TYPE_CHECKING:
    _Context = Any
else:
    _Context = TaskContext


class ForeignContext(_Context):  # type: ignore[misc]
    """Django's ``TaskContext`` with the methods of ours. There is no worker that could heed them: most do nothing."""

    __slots__ = ()

    def _nothing(self, what: str) -> AttributeError:
        backend = self.task.get_backend()
        return AttributeError(f"context.{what}: {named(backend)} has none; only workers of django-jobqueue do.")

    @property
    def task(self) -> AnyTask:
        found: AnyTask = self.task_result.task
        return found

    @property
    def job(self) -> Any:
        raise self._nothing("job")

    @property
    def worker(self) -> Any:
        raise self._nothing("worker")

    @property
    def injected(self) -> Mapping[str, Any]:
        return {}

    @property
    def scheduled_for(self) -> datetime | None:
        return None

    @property
    def stop_reason(self) -> Callable[[], str | None]:
        return self.should_stop

    def option(self, name: str, default: Any = None) -> Any:
        given: Mapping[str, Any] = getattr(self.task, "given", {})
        return given[name] if name in given else of_task(self.task, name, default)

    def should_stop(self) -> str | None:
        return None

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        for number in (done, total):
            if number is not None and not isfinite(number):
                raise ValueError(f"Progress must be told in finite numbers, not {number!r}.")

    def keep_log(self, text: str) -> None:
        """Nothing keeps it."""

    def expire_result(self, seconds: float) -> None:
        """Nothing is kept."""

    def interrupt_on_stop(self) -> None:
        """Nothing stops it."""

    def stop_worker(self) -> None:
        """There is none."""


def with_our_context(task: AnyTask, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments that a backend calls the task with; its plain context becomes one that has our methods."""
    if task.takes_context and args and type(args[0]) is TaskContext:
        return (ForeignContext(task_result=adopt(args[0].task_result)), *args[1:])
    return args
