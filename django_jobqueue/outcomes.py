"""What an attempt came to: a value. Many may decide it, one place writes it down (``lifecycle.finish``).

The idea is Oban's: the executor classifies, the producer acknowledges.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from .exception_groups import leaves_of
from .moments import LONGEST_DELAY, check_moment
from .tracebacks import format_exception

MESSAGE_LENGTH = 500
#: Exceptions of a group that its message names.
DESCRIBED = 10


class State(StrEnum):
    """The words of ``Attempt.outcome``."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRYING = "retrying"
    SNOOZED = "snoozed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    LOST = "lost"


#: What a layer may change of an outcome.
CHANGEABLE = ("result", "message", "delay", "run_after", "queue_name", "priority")

#: An attempt that ends so does not count towards ``max_attempts``.
UNCOUNTED = frozenset({State.SNOOZED, State.INTERRUPTED, State.LOST})


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one attempt came to.

    ``status`` is the job's status afterwards, a word of ``Job.status``: READY where another attempt will come, in
    ``delay`` seconds by the database's clock (0: at once), or at the time ``run_after`` where that is set.
    ``result`` is data that JSON can hold. ``queue_name`` and ``priority`` move the job, where set.
    """

    state: State
    status: str
    result: Any = None
    exception: BaseException | None = None
    message: str = ""
    delay: float = 0.0
    run_after: Any = None
    queue_name: str | None = None
    priority: int | None = None

    @property
    def final(self) -> bool:
        """Will no further attempt come?"""
        return self.status != "READY"

    @property
    def counted(self) -> bool:
        return self.state not in UNCOUNTED

    @property
    def exception_class_path(self) -> str:
        if self.exception is None:
            return ""
        kind = type(self.exception)
        return f"{kind.__module__}.{kind.__qualname__}"

    @property
    def traceback(self) -> str:
        """The exception's traceback as a database can store it."""
        if self.exception is None or self.exception.__traceback__ is None:
            return ""
        try:
            return storable(format_exception(self.exception))
        except Exception as error:  # an exception whose __str__ raises is still a failure to record
            return f"{self.exception_class_path} (its traceback cannot be shown: {type(error).__name__})\n"

    def with_message(self, message: str) -> Outcome:
        return replace(self, message=message)

    def replace(self, **changes: Any) -> Outcome:
        """Another outcome with these changes: ``result``, ``message``, and where it is to run again also ``delay``,
        ``run_after``, ``queue_name`` and ``priority``. Raise ``TypeError`` for other names, and ``ValueError`` for a
        time that no job can start at.
        """
        if unknown := set(changes).difference(CHANGEABLE):
            raise TypeError(
                f"An outcome's {', '.join(sorted(unknown))} cannot be changed; {', '.join(CHANGEABLE)} can."
            )
        if isinstance(run_after := changes.get("run_after"), datetime):
            check_moment("run_after", run_after)
        return replace(self, **changes)


def storable(text: str) -> str:
    """The text without what no database takes: NUL characters and lone surrogates."""
    return text.replace("\x00", "␀").encode("utf-8", "replace").decode("utf-8")


def describe(exception: BaseException) -> str:
    """The exception in one line: ``ValueError: no such order``. A group names the exceptions in it."""
    line = _in_one_line(exception)
    if isinstance(exception, BaseExceptionGroup):
        line = f"{line}: {'; '.join(map(_in_one_line, leaves_of(exception)[:DESCRIBED]))}"
    return storable(line)[:MESSAGE_LENGTH]


def _in_one_line(exception: BaseException) -> str:
    try:
        text = str(exception)
    except Exception:
        text = "(cannot be shown)"
    first = text.strip().splitlines()[0] if text.strip() else ""
    name = type(exception).__name__
    return f"{name}: {first}" if first else name


def is_period(value: Any) -> bool:
    """Is it a number of seconds that something may take or last?"""
    # false for NaN too
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LONGEST_DELAY


def seconds(delay: float | timedelta) -> float:
    """A delay as seconds, never negative. Raise ``ValueError`` for one that no calendar holds."""
    value = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    if not value <= LONGEST_DELAY:  # false for NaN too
        raise ValueError(f"A delay must be at most {LONGEST_DELAY:.0f} seconds, but is {delay!r}.")
    return max(0.0, value)
