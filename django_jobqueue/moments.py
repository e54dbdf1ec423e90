"""Moments: which times all databases, all time zones and all sums with them can hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

#: A hundred years, in seconds.
LONGEST_DELAY = 100 * 365 * 86_400.0
#: A job may start from the first of these times on, and before the second. MariaDB knows the years from 1000 on,
#: Python those to 9999, and each time zone may be a day away from that.
EARLIEST, TOO_LATE = datetime(1900, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)


def check_moment(what: str, moment: datetime) -> None:
    """Raise ``ValueError`` for a time that not every database and time zone can hold. A naive one is taken for UTC."""
    at = moment if moment.utcoffset() is not None else moment.replace(tzinfo=UTC)
    if not EARLIEST <= at < TOO_LATE:
        raise ValueError(f"{what} must be from {EARLIEST:%Y-%m-%d} on and before {TOO_LATE:%Y-%m-%d}, not {moment}.")


def check_delay(what: str, delay: float | timedelta) -> None:
    """Raise ``ValueError`` for a delay that is no number, or longer than a hundred years."""
    value = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if not value <= LONGEST_DELAY:  # false for NaN too
        raise ValueError(f"{what} must be at most {LONGEST_DELAY:.0f} seconds, not {delay!r}.")
