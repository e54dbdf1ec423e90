"""Callbacks: tasks that are enqueued when a job has ended, by the transaction that ends it."""

from __future__ import annotations

import random
import sys
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any

from django.db import transaction

from ..compat import AnyTask, Task
from ..exceptions import Snooze, UnknownTask
from ..models import Job
from ..outcomes import Outcome, State, describe
from ..registry import is_retried, resolve
from .base import Middleware
from .context import JobContext

NAMES = ("on_success", "on_failure", "on_retry_exhausted")
#: Seconds that a job waits for a worker that knows its callbacks; with jitter.
UNKNOWN_DELAY = 30.0


class Callbacks(Middleware):
    """Each option is a task, or its dotted path. It is enqueued with the id of the job, which is a string, and

    * ``on_success``: what the task returned;
    * ``on_failure``: ``{"type": "ValueError", "message": "ValueError: no such order"}``, once, when the job has failed;
    * ``on_retry_exhausted``: ``{"attempts": 5, "max_attempts": 5}``, when it has failed for want of attempts.
    """

    options = dict.fromkeys(NAMES)

    def __init__(self) -> None:
        #: Attempts whose callbacks have been committed with their outcome; ``job_finished`` comes soon.
        self._told: set[tuple[Any, ...]] = set()

    @classmethod
    def clean_option(cls, name: str, value: Any) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str):
            raise TypeError("it must be a task, declared with @task, or the dotted path of one")
        check_path(value)
        return value

    def applies(self, option: Callable[[str], Any]) -> bool:
        return any(option(name) is not None for name in NAMES)

    # -- before: a worker that could not tell anybody must not run the job ------------------------

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        self._check(context)
        return call_next()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        self._check(context)
        return await call_next()

    def _check(self, context: JobContext) -> None:
        for name in NAMES:
            try:
                self._callback(context, name)
            except UnknownTask as error:  # of another version of the code, as a job's own task may be
                raise Snooze(UNKNOWN_DELAY * random.uniform(0.5, 1.5), f"{name}: {error}") from error

    # -- after -----------------------------------------------------------------------------------

    def completes(self, context: JobContext) -> bool:
        return self.applies(context.option)

    def process_complete(self, context: JobContext, outcome: Outcome, call_next: Callable[..., Any]) -> Any:
        call_next()
        if not outcome.final:
            return
        job, using = context.job, context.job._state.db
        # as it has been written: an inner layer may have changed the result, and somebody may have cancelled the job
        status, result = Job.objects.using(using).values_list("status", "result").get(pk=job.pk)
        if status == Job.Status.SUCCESSFUL:
            self._enqueue(context, "on_success", result)
        elif status == Job.Status.FAILED:
            self._enqueue_for_failure(context, outcome)
        transaction.on_commit(lambda: self._told.add(attempt_of(job)), using=using)

    def job_finished(self, context: JobContext, outcome: Outcome) -> None:
        """Where nothing could be done in the transaction: the task's thread is stuck, or its worker gone."""
        attempt = attempt_of(context.job)
        if outcome.status == Job.Status.FAILED and attempt not in self._told:
            self._enqueue_for_failure(context, outcome)
        self._told.discard(attempt)

    def _enqueue_for_failure(self, context: JobContext, outcome: Outcome) -> None:
        job, error = context.job, outcome.exception
        kind = outcome.exception_class_path.removeprefix("builtins.") or str(outcome.state)
        message = outcome.message or (describe(error) if error else "")
        self._enqueue(context, "on_failure", {"type": kind, "message": message})
        used_up = job.tries >= job.max_attempts and outcome.state is not State.LOST
        if used_up and (error is None or is_retried(error, context.task)):
            self._enqueue(context, "on_retry_exhausted", {"attempts": job.tries, "max_attempts": job.max_attempts})

    def _enqueue(self, context: JobContext, name: str, what: Any) -> None:
        if (callback := self._callback(context, name)) is not None:
            callback.enqueue(str(context.job.pk), what)

    def _callback(self, context: JobContext, name: str) -> AnyTask | None:
        value = context.option(name)
        return value if value is None or isinstance(value, Task) else resolve(value)


def attempt_of(job: Job) -> tuple[Any, ...]:
    return job._state.db, job.pk, job.attempts


def check_path(path: str) -> None:
    """Raise ``ValueError`` unless a task stands there, or may come to stand there.

    Nothing is imported for it: tasks name each other in circles, and modules that are being imported do not know all
    of their own tasks yet.
    """
    module_path, _, name = path.rpartition(".")
    module = sys.modules.get(module_path)
    if module is None:
        try:
            found = find_spec(module_path) if module_path else None
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise ValueError("there is no such module")
        return
    is_coming = getattr(module.__spec__, "_initializing", False)
    if not isinstance(getattr(module, name, None), Task) and not (is_coming and not hasattr(module, name)):
        raise ValueError(f"there is no task {name!r} in {module_path}")
