"""Execution: one job, from its claim to its outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import cached_property, lru_cache
from inspect import Parameter, signature
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext
from django.db import connections

from ..arguments import normalise_result
from ..backend import JobQueueBackend
from ..backoff import DEFAULT_BACKOFF, delay_before_retry
from ..compat import AnyResult, AnyTask, task_backends
from ..exception_groups import meaning_of
from ..exceptions import InvalidResult, Retry, Skip, Snooze, TaskTimeout, UnknownTask
from ..interrupts import JobCancelled, JobTimeout, WorkerShutdown
from ..lifecycle import Run
from ..logs import get_logger
from ..middleware.base import Middleware
from ..middleware.chain import (
    Handler,
    compose,
    followers,
    hook_for,
    hooks,
    is_coroutine_callable,
    layers,
    project_layers,
)
from ..middleware.context import JobContext, WorkerHandle, _current
from ..models import Job
from ..outcomes import Outcome, State, describe, seconds
from ..registry import effective, is_async, is_retried, resolve
from ..results import PendingResult, counting_tries, result_of, task_of
from ..signals import STARTED
from . import copies
from .interrupting import acall, call, watched
from .leftovers import roll_back_leftovers
from .plans import Plans
from .recovery import Recovery
from .shared_threads import lease_here
from .stages import Lost, Plan, Stages
from .timekeeper import Timekeeper

logger = get_logger(__name__)

#: Seconds for which the answer holds whether the start of a job is heard: handlers of the log may be configured anew.
HEARD_FOR = 0.1


class Execution:
    """Runs jobs inside their chain and says what each attempt came to. It writes nothing."""

    def __init__(
        self,
        worker: WorkerHandle,
        backend: JobQueueBackend,
        timekeeper: Timekeeper | None = None,
        recovery: Recovery | None = None,
        given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """``given_up`` says whether the process ends without waiting for a database that is away."""
        self.worker, self.backend = worker, backend
        self.timekeeper = timekeeper or Timekeeper(overdue=lambda run: None)
        #: Around an async job that runs on no event loop of a worker's: where its database calls run.
        self.own_thread: Callable[[], AbstractAsyncContextManager[Any]] = OwnThread
        self._stages = Stages(self, backend.database, recovery or Recovery(backend.database), given_up)
        self._plans: dict[Callable[..., Any], Plans] = {}
        self._backends: dict[str, JobQueueBackend] = {}
        self._blocking: dict[Callable[..., Any], bool] = {}
        self._timeouts: dict[str, float | None] = {}
        self._start_is_heard, self._asked_until, self._receivers = False, 0.0, 0

    def run(self, run: Run, task: AnyTask) -> None:
        """Run a sync task's job here, in a slot thread."""
        plan, context = self.plan(task, run.job), self._begin(run, task)
        token = _current.set(context)
        try:
            if plan.is_staged:
                self._stages.run(plan, run, context)
            else:
                run.outcome = self.outcome(plan.handler, run, context)
        finally:
            _current.reset(token)
        run.ended = run.ended or time.monotonic()
        if self.timekeeper.moments:
            self.timekeeper.forget(run)

    async def arun(self, run: Run, task: AnyTask) -> None:
        """Run an async task's job on the event loop."""
        if (lease := lease_here.get()) is not None:
            lease.is_apart = self._blocks_thread(task)
        plan, context = self.plan(task, run.job), self._begin(run, task)
        token = _current.set(context)
        try:
            async with lease or self.own_thread():
                if plan.is_staged:
                    await self._stages.arun(plan, run, context)
                else:
                    run.outcome = await self.aoutcome(plan.handler, run, context)
        finally:
            _current.reset(token)
        run.ended = run.ended or time.monotonic()
        if self.timekeeper.moments:
            self.timekeeper.forget(run)

    def outcome(self, handler: Handler, run: Run, context: JobContext) -> Outcome:
        """What a sync task's chain comes to."""
        try:
            value = call(handler, context, run)
            if copies.is_copy:  # forked by a layer
                copies.leave()
            return succeeded(value)
        except Lost:
            raise
        except BaseException as error:
            if copies.is_copy:
                copies.leave(error)
            return self.classify(error, run, context)

    async def aoutcome(self, handler: Handler, run: Run, context: JobContext) -> Outcome:
        try:
            value = await acall(handler, context, run)
            if copies.is_copy:
                copies.leave()
            return succeeded(value)
        except Lost:
            raise
        except BaseException as error:
            if copies.is_copy:
                copies.leave(error)
            return self.classify(error, run, context)

    def overdue(self, run: Run) -> Outcome:
        """What the attempt comes to whose task has been interrupted and does not end."""
        within = f"did not react within {self.timekeeper.grace:g} seconds"
        if run.stop_reason == "cancel":
            return cancelled().with_message(f"Cancelled while it was running; the task {within}.")
        task = resolve(run.job.task_path)
        timeout = self._timeout(run.job, task)
        error = TaskTimeout(f"The task ran longer than {timeout:g} seconds, was interrupted and {within}.")
        return self._failed(error, run, self.context(run.job, task, lambda: run.stop_reason), State.TIMED_OUT)

    def _timeout(self, job: Job, task: AnyTask) -> float | None:
        timeout: float | None = job.option("timeout") if job.options else None
        timeout = getattr(task, "timeout", None) if timeout is None else timeout
        if timeout is not None:
            return timeout
        try:
            return self._timeouts[job.backend]
        except KeyError:
            self._timeouts[job.backend] = timeout = self.backend_of(job).config.timeout
            return timeout

    def _begin(self, run: Run, task: AnyTask) -> JobContext:
        run.started = now = time.monotonic()
        context = self.context(run.job, task, lambda: run.stop_reason)
        if now >= self._asked_until or len(STARTED.signal.receivers) != self._receivers:
            self._start_is_heard, self._receivers = STARTED.is_heard(), len(STARTED.signal.receivers)
            self._asked_until = now + HEARD_FOR
        if self._start_is_heard:
            self._announce_start(run.job)
        if (timeout := self._timeout(run.job, task)) is not None:
            self.timekeeper.limit(run, timeout)
        return context

    def _announce_start(self, job: Job) -> None:
        backend = self.backend_of(job)
        past = job.past_attempts
        result = PendingResult.of(job, lambda job: task_of(job, backend), lambda: past)
        STARTED.send(type(backend), result)
        roll_back_leftovers("A receiver of task_started")

    def context(self, job: Job, task: AnyTask, stop_reason: Callable[[], str | None]) -> JobContext:
        return JobContext(job=job, task=task, worker=self.worker, make_result=self._result, stop_reason=stop_reason)

    def _result(self, job: Job) -> AnyResult:
        return result_of(job, job.past_attempts, task_of(job, self.backend_of(job)))

    def plan(self, task: AnyTask, job: Job) -> Plan:
        # layers_of reads the settings each time; while a worker runs they stay
        if (found := self._plans.get(task.func)) is None:
            self._plans[task.func] = found = Plans(task, layers_of(task), plan_for)
            self.has_followers = self.has_followers or bool(followers(found.layers))  # a layer of the task alone
        return found.of(job) if job.options else found.usual

    def _blocks_thread(self, task: AnyTask) -> bool:
        """Does a layer of this async task block a thread for as long as a job of it runs?"""
        if (found := self._blocking.get(task.func)) is None:
            hooks = [hook_for(layer, want_async=True) for layer in layers_of(task)]
            found = any(hook is not None and not is_coroutine_callable(hook) for hook in hooks)
            self._blocking[task.func] = found
        return found

    @cached_property
    def has_followers(self) -> bool:
        """Is any layer told of outcomes, as far as is known?"""
        return bool(followers(project_layers()))

    def followers(self, job: Job, outcome: Outcome) -> list[Callable[..., Any]]:
        """Tell the layers around the job that this outcome has been written. ``job_finished`` of those that want to
        hear more of it, innermost first. The job's task may be unknown here.
        """
        try:
            told = self.plan(resolve(job.task_path), job).followers
        except UnknownTask:
            told = followers(project_layers())
        return [each.finished for each in told if each.wants(job, outcome) and each.finished]

    def context_after(self, run: Run) -> JobContext:
        """The context of an attempt that is over, which may never have begun here."""
        task = task_of(run.job, self.backend_of(run.job))
        return self.context(run.job, task, lambda: run.stop_reason)

    def backend_of(self, job: Job) -> JobQueueBackend:
        """The backend that enqueued the job; ours, if its alias is no longer in TASKS."""
        if (known := self._backends.get(job.backend)) is not None:
            return known  # to ask Django takes longer
        try:
            found = task_backends[job.backend]
        except Exception:
            return self.backend
        self._backends[job.backend] = known = found if isinstance(found, JobQueueBackend) else self.backend
        return known

    # -- what an exception means -----------------------------------------------------------------

    def classify(self, error: BaseException, run: Run, context: JobContext) -> Outcome:
        match error := meaning_of(error):
            case Skip():
                return skipped(error)
            case Snooze():
                return Outcome(
                    state=State.SNOOZED,
                    status="READY",
                    delay=seconds(error.delay or 0.0),
                    run_after=error.at,
                    message=str(error) or "Snoozed.",
                )
            case JobCancelled():
                return cancelled(error)
            case WorkerShutdown():
                return interrupted()
            case JobTimeout():
                timeout = TaskTimeout(f"The task ran longer than {self._timeout(run.job, context.task)} seconds.")
                timeout.__cause__ = error.__cause__
                return self._failed(timeout.with_traceback(error.__traceback__), run, context, State.TIMED_OUT)
            case _ if run.stop_reason == "cancel":
                return cancelled(error)
        return self._failed(error, run, context)

    def _failed(self, error: BaseException, run: Run, context: JobContext, state: State = State.FAILED) -> Outcome:
        message = describe(error)
        final = Outcome(state=state, status="FAILED", exception=error, message=message)
        if run.job.tries >= run.job.max_attempts or not is_retried(error, context.task):
            return final
        delay = self._delay(error, run, context)
        if delay is None:
            return final
        again = State.RETRYING if state is State.FAILED else state
        moved: dict[str, Any] = {}
        if isinstance(error, Retry):
            moved = {"run_after": error.at, "queue_name": error.queue_name, "priority": error.priority}
        return Outcome(state=again, status="READY", exception=error, message=message, delay=delay, **moved)

    def _delay(self, error: BaseException, run: Run, context: JobContext) -> float | None:
        """Seconds before the next attempt; None for no further one."""
        if isinstance(error, Retry) and error.delay is not None:
            return seconds(error.delay)
        backoff = effective(context.task, "backoff", self.backend_of(run.job).config.backoff)
        result = counting_tries(self._result(run.job), run.job.tries)
        try:
            return delay_before_retry(backoff, error, result)
        except Exception:
            logger.exception("The backoff of %s raised; the default is used.", run.job.task_path)
            return delay_before_retry(DEFAULT_BACKOFF, error, result)


_SUCCEEDED = Outcome(state=State.SUCCEEDED, status="SUCCESSFUL")


def succeeded(value: Any) -> Outcome:
    if value is None:
        return _SUCCEEDED
    return Outcome(state=State.SUCCEEDED, status="SUCCESSFUL", result=normalise_result(value))


def skipped(error: Skip) -> Outcome:
    if error.result is Skip.NO_RESULT:
        return Outcome(state=State.SKIPPED, status="CANCELLED", message=str(error) or "Skipped.")
    try:
        result = normalise_result(error.result)
    except InvalidResult as bad:
        return Outcome(state=State.FAILED, status="FAILED", exception=bad, message=describe(bad))
    return Outcome(state=State.SKIPPED, status="SUCCESSFUL", result=result, message=str(error) or "Skipped.")


def cancelled(error: BaseException | None = None) -> Outcome:
    return Outcome(
        state=State.CANCELLED, status="CANCELLED", exception=error, message="Cancelled while it was running."
    )


def interrupted() -> Outcome:
    """The worker had to stop; the job starts anew elsewhere, and this attempt does not count."""
    return Outcome(state=State.INTERRUPTED, status="READY", message="The worker stopped before the task ended.")


def fail(run: Run, error: BaseException) -> None:
    """End a run that could not be run as it should: a row that is no call, a control exception full of nonsense, or
    a fault of ours. Such a job must neither be tried for ever nor stop the others.
    """
    logger.error("%s could not be run: %s", run.job, describe(error))
    run.ended = time.monotonic()
    run.started = run.ended if run.started is None else run.started
    run.outcome = Outcome(state=State.FAILED, status="FAILED", exception=error, message=describe(error))


# -- the handler ----------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def _handler(func: Callable[..., Any], takes_context: bool, coroutine: bool, around: tuple[Any, ...]) -> Handler:
    in_order, by_name = _parameters(func)

    def arguments(context: JobContext) -> tuple[list[Any], dict[str, Any]]:
        job = context.job
        args = [context, *job.args] if takes_context else job.args
        if not context.injected:
            return args, job.kwargs
        free = by_name | frozenset(in_order[len(args) :])  # what the job brings along wins
        wanted = {name: value for name, value in context.injected.items() if name in free}
        return args, {**wanted, **job.kwargs}

    # The layers see what a group means, as if the task had raised it. It is raised outside of the except clause, where
    # Python would note the group as its context instead of what it came from.

    def call(context: JobContext) -> Any:
        args, kwargs = arguments(context)
        try:
            result = func(*args, **kwargs)
        except BaseException as raised:
            if copies.is_copy:
                copies.leave(raised)
            if not isinstance(raised, BaseExceptionGroup):
                raise
            error = meaning_of(raised)
        else:
            if copies.is_copy:
                copies.leave()
            return result
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    async def acall(context: JobContext) -> Any:
        args, kwargs = arguments(context)
        try:
            result = await func(*args, **kwargs)
        except BaseException as raised:
            if copies.is_copy:
                copies.leave(raised)
            if not isinstance(raised, BaseExceptionGroup):
                raise
            error = meaning_of(raised)
        else:
            if copies.is_copy:
                copies.leave()
            return result
        try:
            raise error
        finally:
            del error  # its traceback holds this frame

    if coroutine:
        return compose(around, acall, is_async=True)
    return compose(_with_watch(around), call, is_async=False)


def _with_watch(around: tuple[Any, ...]) -> tuple[Any, ...]:
    """The layers of a sync task, each run of async ones inside a watched one."""
    found: list[Any] = []
    in_loop = False
    for layer in reversed(around):
        if (own := hook_for(layer, want_async=in_loop)) is not None and is_coroutine_callable(own) != in_loop:
            if in_loop:
                found.append(watched)
            in_loop = not in_loop
        found.append(layer)
    if in_loop:
        found.append(watched)
    return tuple(reversed(found))


def layers_of(task: AnyTask) -> tuple[Any, ...]:
    """The layers around this task's jobs, outermost first. A class that the project has is not used a second time."""
    own: tuple[Any, ...] = getattr(task, "middleware", ())
    if not own:
        return project_layers()
    there = {type(layer) for layer in project_layers() if isinstance(layer, Middleware)}
    return (*project_layers(), *(layer for layer in layers(own) if type(layer) not in there))


def plan_for(task: AnyTask, around: tuple[Any, ...] | None = None) -> Plan:
    """How this task's jobs are run inside these layers; None: inside all that the task has."""
    around = layers_of(task) if around is None else around
    return Plan(
        handler=_handler(task.func, task.takes_context, is_async(task), around),
        prepare=hooks(around, "process_prepare"),
        complete=hooks(around, "process_complete"),
        followers=followers(around),
        atomic=getattr(task, "atomic", False),
    )


def _parameters(func: Callable[..., Any]) -> tuple[tuple[str, ...], frozenset[str]]:
    """The names of the function's positional parameters in their order, and of those that only go by name."""
    parameters = signature(func).parameters.values()
    in_order = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return (
        # one that only goes by place cannot be injected, but takes a place
        tuple("" if item.kind is item.POSITIONAL_ONLY else item.name for item in parameters if item.kind in in_order),
        frozenset(item.name for item in parameters if item.kind is Parameter.KEYWORD_ONLY),
    )


class OwnThread(ThreadSensitiveContext):
    """One thread for all sync code under an async job; its database connections are closed when the job ends."""

    async def __aexit__(self, *error: Any) -> None:
        executor = SyncToAsync.context_to_thread_executor.get(self)
        if executor is not None:
            executor.submit(connections.close_all)
        await super().__aexit__(*error)  # type: ignore[no-untyped-call]
