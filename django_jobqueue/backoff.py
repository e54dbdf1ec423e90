"""How long to wait before the next attempt: strategies for ``backoff=``, and the one resolver.

A strategy is any callable ``(exception, task_result) -> seconds | timedelta | None``; None means: do not retry. That
is the signature of Django's own proposal, so a function written for it works here. A plain number is a fixed delay.

``task_result.attempts`` is here the number of attempts that count towards ``max_attempts``, 1 after the first failure:
attempts that were snoozed, interrupted or lost are not among them, nor those before somebody retried the job.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .outcomes import seconds

if TYPE_CHECKING:
    from .compat import AnyResult

Delay = float | int | timedelta
Backoff = Delay | Callable[[BaseException, "AnyResult"], Delay | None]


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same delay, in seconds."""

    delay: float

    def __call__(self, exception: BaseException, task_result: AnyResult) -> float:
        return self.delay


@dataclass(frozen=True, slots=True)
class Linear:
    """``step`` seconds after the first attempt, twice that after the second, never more than ``maximum``."""

    step: float = 60.0
    maximum: float = 3600.0

    def __call__(self, exception: BaseException, task_result: AnyResult) -> float:
        return min(self.maximum, self.step * max(1, task_result.attempts))


@dataclass(frozen=True, slots=True)
class Exponential:
    """``first`` seconds after the first attempt, then ``factor`` times as long each time, at most ``maximum``.

    ``jitter`` is the share that is drawn at random: 0.5 means between half and the whole of the delay. Without it all
    jobs that fell over one outage come back in the same second.
    """

    first: float = 2.0
    factor: float = 2.0
    maximum: float = 3600.0
    jitter: float = 0.5

    def __call__(self, exception: BaseException, task_result: AnyResult) -> float:
        exponent = min(max(0, task_result.attempts - 1), 64)  # beyond that a float would overflow, not grow
        delay = min(self.maximum, self.first * self.factor**exponent)
        return delay * (1 - self.jitter * random.random())


DEFAULT_BACKOFF = Exponential()


def check_backoff(value: Any) -> None:
    """Raise ``TypeError`` or ``ValueError`` if this cannot be a backoff."""
    if callable(value):
        return
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise TypeError(
            f"backoff must be a number of seconds, a timedelta or a callable (exception, task_result), not {value!r}"
        )
    if (value.total_seconds() if isinstance(value, timedelta) else value) < 0:
        raise ValueError(f"backoff must not be negative, but is {value!r}")


def delay_before_retry(backoff: Backoff, exception: BaseException, task_result: AnyResult) -> float | None:
    """Seconds until the next attempt; None if the strategy says that there should be none."""
    delay = backoff(exception, task_result) if callable(backoff) else backoff
    return None if delay is None else seconds(delay)
