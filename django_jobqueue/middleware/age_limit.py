"""AgeLimit: a job that has waited for too long is not run any more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..exceptions import Skip
from ..options import in_force, plain
from ..outcomes import State
from ..registry import resolve
from ..timing import aware
from .base import Middleware
from .context import JobContext

if TYPE_CHECKING:
    from ..models import Job


class AgeLimit(Middleware):
    """``expires``: seconds since the job was enqueued, or since the time that it was scheduled for; or a time.

    A job that comes to run later than that, for the first time or again, ends CANCELLED.
    """

    options = {"expires": None}

    @classmethod
    def clean_option(cls, name: str, value: Any) -> Any:
        if isinstance(value, str):
            if datetime.fromisoformat(value).tzinfo is None:
                raise ValueError("a time must be aware of its zone")
        elif value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
            raise ValueError("it must be a positive number of seconds, a timedelta or an aware datetime")
        return value

    def process_enqueue(self, jobs: list[Job], call_next: Callable[[list[Job]], list[Job]]) -> list[Job]:
        for job in jobs:
            if job.run_after is not None:
                self._note(job, job.run_after)
        return call_next(jobs)

    def _note(self, job: Job, scheduled: datetime) -> None:
        """A retry will overwrite the time that the job was scheduled for; so its end is worked out now."""
        expires = self._expires(in_force(job, resolve(job.task_path), "expires"))
        if isinstance(expires, int | float):
            job.options = {**(job.options or {}), "expires": plain(scheduled + timedelta(seconds=expires))}

    def applies(self, option: Callable[[str], Any]) -> bool:
        return option("expires") is not None

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        self._check(context)
        return call_next()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        self._check(context)
        return await call_next()

    def _check(self, context: JobContext) -> None:
        expires = self._expires(context.option("expires"))
        if expires is None:
            return
        job = context.job
        if isinstance(expires, str):
            end = datetime.fromisoformat(expires)
        else:
            end = _born(job, expires) + timedelta(seconds=expires)
        started_at = job.started_at  # by the database's clock: when the attempt was claimed
        if started_at is not None and aware(started_at) >= aware(end):
            raise Skip(f"Expired at {aware(end):%Y-%m-%d %H:%M:%S %Z}.")

    def _expires(self, value: Any) -> Any:
        """As JOBQUEUE_DEFAULTS may have it too: a timedelta, a datetime."""
        return self.clean_option("expires", plain(value))


def _born(job: Job, expires: float) -> datetime:
    """From when on the job ages. As a layer of the task alone this one has noted nothing when the job was enqueued."""
    if not job.past_attempts:
        return job.run_after or job.enqueued_at
    # It must have been scheduled, if it was too old already when it first ran; its time has been overwritten since.
    first = job.past_attempts[0]
    ran = first.outcome != State.SKIPPED
    scheduled = ran and first.started_at >= job.enqueued_at + timedelta(seconds=expires)
    return first.started_at if scheduled else job.enqueued_at
