"""ErrorContext: a failed attempt is logged with all that an error tracker wants to know of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from ..exceptions import Skip, Snooze
from ..logs import get_logger
from ..outcomes import Outcome, State
from .base import Middleware
from .context import JobContext

if TYPE_CHECKING:
    from ..models import Job

logger = get_logger(__name__)

ERRORS = frozenset({State.FAILED, State.RETRYING, State.TIMED_OUT, State.LOST})


class ErrorContext(Middleware):
    """Logs an attempt that ended in an error with its exception and the job's particulars: at ERROR if the job has
    failed, at WARNING if it will run again. And the exception itself gets a note that names the job.

    The job's arguments are left out unless the option ``log_arguments`` is true: they may be nobody's business.
    """

    options: ClassVar[Mapping[str, Any]] = {"log_arguments": False}

    @classmethod
    def clean_option(cls, name: str, value: Any) -> Any:
        if not isinstance(value, bool):
            raise ValueError("it must be True or False.")
        return value

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        try:
            return call_next()
        except Exception as error:
            add_note(error, context)
            raise

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        try:
            return await call_next()
        except Exception as error:
            add_note(error, context)
            raise

    def outcome_written(self, job: Job, outcome: Outcome) -> bool:
        return outcome.state in ERRORS

    def job_finished(self, context: JobContext, outcome: Outcome) -> None:
        """Here, and not around the task: only now is it known whether the job will run again."""
        if outcome.state not in ERRORS:  # for a subclass that follows others too
            return
        logger.log(
            logging.ERROR if outcome.final else logging.WARNING,
            "%s: attempt %d %s: %s",
            context.job,
            context.attempt,
            "failed" if outcome.final else "failed, the job will run again",
            outcome.message,
            exc_info=outcome.exception,
            extra=extra(context, outcome),
        )


#: Our notes begin so.
NOTE = "In attempt "


def add_note(error: Exception, context: JobContext) -> None:
    if isinstance(error, Skip | Snooze):
        return
    # A module may keep an exception and raise it again and again: it must not collect the notes of all its jobs.
    if notes := getattr(error, "__notes__", None):
        notes[:] = [note for note in notes if not str(note).startswith(NOTE)]
    job = context.job
    error.add_note(f"{NOTE}{context.attempt} of {job} ({job.task_path}, queue {job.queue_name}).")


def extra(context: JobContext, outcome: Outcome) -> dict[str, Any]:
    job = context.job
    found: dict[str, Any] = {
        "job_id": job.pk,
        "job_task": job.task_path,
        "job_queue": job.queue_name,
        "job_attempt": context.attempt,
        "job_max_attempts": job.max_attempts,
        "job_outcome": str(outcome.state),
    }
    if context.option("log_arguments"):
        found |= {"job_args": job.args, "job_kwargs": job.kwargs}
    return found
