"""Retention: how long finished jobs are kept, by what they came to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from .moments import LONGEST_DELAY
from .outcomes import seconds

#: What people write: seconds, a timedelta, None for ever; or that for each status that is meant.
Keep: TypeAlias = "float | timedelta | Mapping[str, float | timedelta | None] | None"
#: What is kept of it: seconds by status. A status that is not there has nothing said of it.
Kept: TypeAlias = Mapping[str, "float | None"]

#: The statuses that a job can be kept in: ``Job.status`` of finished ones.
STATUSES = ("SUCCESSFUL", "FAILED", "CANCELLED")
#: What is kept for ever is deleted in a thousand years, so that all databases can tell the time of it.
FOREVER = 1000 * 365.25 * 86_400.0


def is_for_ever(moment: datetime | None) -> bool:
    """Is that when a job is deleted that is kept for ever?"""
    return moment is not None and moment.year > 2500


def as_kept(keep: Any) -> dict[str, float | None]:
    """Seconds by status. Raise ``TypeError`` or ``ValueError`` for what cannot be, in words that follow the name."""
    if not isinstance(keep, Mapping):
        return dict.fromkeys(STATUSES, _seconds(keep))
    for status in keep:
        if status not in STATUSES:
            raise ValueError(f"has {status!r}, but the statuses of finished jobs are {', '.join(STATUSES)}")
    return {str(status): _seconds(value) for status, value in keep.items()}


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError(f"must be seconds, a timedelta, None for ever, or these by status, not {value!r}")
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0 <= number <= LONGEST_DELAY:  # false for NaN too
        raise ValueError(f"must be from 0 to {LONGEST_DELAY:.0f} seconds, or None for ever, not {value!r}")
    return seconds(value)
