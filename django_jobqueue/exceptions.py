"""What we raise, and what tasks and middlewares raise to steer their job."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from .moments import check_delay, check_moment


class JobQueueError(Exception):
    """Base class of this package's errors."""


class MiddlewareError(JobQueueError):
    """A middleware broke the rules of the chain: ``call_next`` must be called exactly once."""


class InvalidResult(JobQueueError, TypeError):
    """A task returned what JSON or the database cannot hold. The job fails; the task is not run again for it."""


class TaskTimeout(JobQueueError, TimeoutError):
    """The task ran longer than its ``timeout``. The name is that of Django's own proposal."""


class JobLost(JobQueueError):
    """The worker vanished while it had the job."""


class ArchiveFailed(JobQueueError):
    """``OPTIONS["ARCHIVE"]`` raised: the jobs that it was given are not deleted. The cause is what it raised."""


class JobFailed(JobQueueError):
    """Raised by ``result.get()`` for a job that has failed or was cancelled. ``result`` is its ``TaskResult``."""

    def __init__(self, result: Any) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        errors = self.result.errors
        last = errors[-1].traceback.strip().splitlines()[-1:] if errors else []
        return f"{self.result.task.name} #{self.result.id} has failed: {last[0] if last else 'no error is on record'}"


class WaitInTransaction(JobQueueError, RuntimeError):
    """``result.get()`` in a transaction in which the job's end could not be seen."""


class Cancelled(JobQueueError):
    """Somebody cancelled the job. Never raised in a task; it stands in the errors of a cancelled job's result."""


class UnknownTask(JobQueueError, LookupError):
    """This process knows no task by that path."""


class Control(Exception):
    """Base class of the exceptions that say how an attempt ends."""


def _check_delay(name: str, delay: Any) -> None:
    if delay is not None and (isinstance(delay, bool) or not isinstance(delay, int | float | timedelta)):
        raise TypeError(f"{name} takes a delay in seconds or a timedelta, not {delay!r}.")
    if delay is not None:
        check_delay(f"The delay of {name}", delay)


def _check_at(name: str, at: Any) -> None:
    if at is not None and not isinstance(at, datetime):
        raise TypeError(f"{name}(at=…) takes a datetime, not {at!r}.")
    if at is not None:
        check_moment(f"{name}(at=…)", at)


class Retry(Control):
    """Run the job again, although (or because) this attempt did not succeed. It counts as an attempt.

    ``delay`` is seconds or a timedelta; ``at`` an aware datetime instead. Without either the task's backoff decides.
    ``queue_name`` and ``priority`` move the job. When the attempts are used up, the job fails.
    """

    def __init__(
        self,
        reason: str = "",
        *,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        queue_name: str | None = None,
        priority: int | None = None,
    ) -> None:
        if delay is not None and at is not None:
            raise TypeError("Retry takes delay= or at=, not both.")
        _check_delay("Retry", delay)
        _check_at("Retry", at)
        if queue_name is not None and not (isinstance(queue_name, str) and 1 <= len(queue_name) <= 100):
            raise ValueError(f"Retry(queue_name=…) takes a string of 1 to 100 characters, not {queue_name!r}.")
        if priority is not None and not (isinstance(priority, int) and -100 <= priority <= 100):
            raise ValueError(f"Retry(priority=…) takes a whole number from -100 to 100, not {priority!r}.")
        super().__init__(reason)
        self.delay, self.at, self.queue_name, self.priority = delay, at, queue_name, priority


class Snooze(Control):
    """Run the job again after ``delay`` (seconds or a timedelta), or ``at`` an aware datetime instead. It does not
    count as an attempt.
    """

    def __init__(self, delay: float | timedelta | None = None, reason: str = "", *, at: datetime | None = None) -> None:
        if (delay is None) == (at is None):
            raise TypeError("Snooze takes a delay or at=, one of them.")
        _check_delay("Snooze", delay)
        _check_at("Snooze", at)
        super().__init__(reason)
        self.delay, self.at = delay, at


class Skip(Control):
    """Do not run the job: it ends CANCELLED, or SUCCESSFUL if a ``result`` is given."""

    #: Tells "no result given" from the result None.
    NO_RESULT: Any = object()

    def __init__(self, reason: str = "", *, result: Any = NO_RESULT) -> None:
        super().__init__(reason)
        self.result = result


class Fail(Control):
    """The job has failed for good; no retry, whatever ``max_attempts`` says."""


class Dropped(JobQueueError):
    """A middleware left the job out when it was enqueued. Stands in the errors of the result that the caller got."""


class DependencyFailed(JobQueueError):
    """A job that this one waits for has not succeeded. Never raised in a task; it stands in the result's errors."""
