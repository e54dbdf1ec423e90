"""Exception groups: what the exceptions mean that ``asyncio.TaskGroup`` and others collect in one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from .exceptions import Control, Fail, Retry, Skip, Snooze
from .interrupts import Interrupt


def leaves_of(error: BaseException) -> list[BaseException]:
    """Return the exceptions of a group and of the groups in it, in their order; ``[error]`` for any other exception."""
    leaves: list[BaseException] = []
    open_ones = [error]
    while open_ones:  # no recursion: groups may be nested as deep as somebody likes
        one = open_ones.pop()
        if isinstance(one, BaseExceptionGroup):
            open_ones += reversed(one.exceptions)
        else:
            leaves.append(one)
    return leaves


def failures_in(error: BaseException) -> list[BaseException]:
    """Return the exceptions of a group that are failures, not control exceptions other than ``Fail``."""
    return [leaf for leaf in leaves_of(error) if isinstance(leaf, Fail) or not isinstance(leaf, Control)]


def meaning_of(error: BaseException) -> BaseException:
    """Return the exception that the attempt ends with: for a group of one meaning the exception that has it.

    An interrupt in a group counts before all others, then failures, then ``Retry``, ``Snooze`` and ``Skip``. Of several
    retries or snoozes the latest time counts. A group of several failures is returned as it is.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = leaves_of(error)
    for leaf in leaves:
        if isinstance(leaf, Interrupt):
            return leaf
    if failures := failures_in(error):
        if len(leaves) == 1 or all(isinstance(failure, Fail) for failure in failures):
            return failures[0]
        return error
    for kind in (Retry, Snooze, Skip):
        if alike := [leaf for leaf in leaves if isinstance(leaf, kind)]:
            return max(alike, key=_seconds)  # the first one, where all are alike
    return leaves[0]


def _seconds(error: Any) -> float:
    """In how many seconds the job is to run again, as the exception says; 0 where it says nothing that can be."""
    at, delay = getattr(error, "at", None), getattr(error, "delay", None)
    try:
        if isinstance(at, datetime):
            return (at - datetime.now(UTC if at.tzinfo else None)).total_seconds()
        return delay.total_seconds() if isinstance(delay, timedelta) else float(delay or 0.0)
    except (OverflowError, ValueError):
        return 0.0
