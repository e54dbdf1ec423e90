"""How long a job has waited for its attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils import timezone

if TYPE_CHECKING:
    from ..models import Job


def seconds_in_line(job: Job) -> float:
    """Seconds since the claimed job could have run: since it was enqueued, was due, or had its last attempt.

    The clocks are those of two machines; what would be less than nothing is nothing.
    """
    moments = [job.enqueued_at, job.run_after, *(attempt.finished_at for attempt in job.past_attempts)]
    now = timezone.now()
    since = max(moment for moment in moments if moment is not None)
    return max(0.0, (now - since).total_seconds())
