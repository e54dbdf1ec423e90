"""How long a job has waited for its attempt."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..models import Job


def seconds_in_line(job: Job) -> float:
    """Seconds since the claimed job could have run: since it was enqueued, was due, or had its last attempt.

    The clocks are those of two machines; what would be less than nothing is nothing.
    """
    since = job.enqueued_at
    if job.run_after is not None:
        since = max(since, job.run_after)
    for attempt in job.past_attempts:
        if attempt.finished_at is not None:
            since = max(since, attempt.finished_at)
    return max(0.0, (datetime.now(since.tzinfo) - since).total_seconds())
