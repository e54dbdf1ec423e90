"""RateLimit: at most so many jobs of a key start in any period, over all workers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async

from ..keys import clean_key, limit_key
from ..models import Permit
from .base import Middleware
from .context import JobContext
from .limits import Gate, name_of, pass_or_snooze

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
RATE = re.compile(r"(\d{1,6})/(\d{0,5})([smhd])")
#: Limits that nobody has used for twice as long are forgotten.
LONGEST_PERIOD = UNITS["d"]
#: Nobody waits for longer than this many seconds at a time: jobs in front may have been cancelled.
LONGEST = 300.0


class Rate(NamedTuple):
    starts: int
    period: float

    @classmethod
    def parse(cls, text: Any) -> Rate:
        """From ``"100/m"`` or ``"10/30s"``. Raise ``ValueError`` for anything else."""
        found = RATE.fullmatch(text) if isinstance(text, str) else None
        rate = cls(int(found[1]), int(found[2] or 1) * UNITS[found[3]]) if found else cls(0, 0.0)
        if rate.starts < 1 or not 0 < rate.period <= LONGEST_PERIOD:
            raise ValueError("it must be a rate such as '5/s', '100/m', '1000/h' or '10/30s', over a day at most")
        return rate


class RateLimit(Middleware):
    """``rate_limit="100/m"``: in any minute at most 100 jobs start that have the same ``rate_key``: a template over the
    call's arguments, ``"tenant-{tenant_id}"``, or in ``@task`` a callable that gets them. Without one, all of the task.

    ``rate_burst=10``: and of those at most 10 in a tenth of a minute; 1 spreads them evenly. A job that comes too early
    is put back until its turn is expected; no attempt is counted. Each attempt is a start.
    """

    options = {"rate_limit": None, "rate_burst": None, "rate_key": None}

    @classmethod
    def clean_option(cls, name: str, value: Any) -> Any:
        if name == "rate_key":
            return clean_key(value)
        if value is None:
            return None
        if name == "rate_limit":
            Rate.parse(value)
        elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError("it must be a whole number from 1 on, or None")
        return value

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        if (rate := context.option("rate_limit")) is not None:
            self._start(context, rate)
        return call_next()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        if (rate := context.option("rate_limit")) is not None:
            await sync_to_async(self._start)(context, rate)
        return await call_next()

    def _start(self, context: JobContext, text: str) -> None:
        rate = Rate.parse(text)
        burst = min(context.option("rate_burst") or rate.starts, rate.starts)
        # What one rate has no use for any more, another one with a longer period might need: so they do not share.
        key = f"rate/{rate.period:g}s {limit_key(context.task, context.job, 'rate_key')}"
        told = f"Waits for its turn in {name_of(key)!r}, which has {text}."
        pass_or_snooze(context, key, lambda gate: draw(gate, rate, burst), told)


def draw(gate: Gate, rate: Rate, burst: int) -> float | None:
    """Start now, or say in how many seconds to ask again.

    The start before the last N must have been a period ago: then there are never more than N in any period. So one
    row is looked at, however many starts there were, and N are kept.
    """
    limit = gate.limit
    permits = Permit.objects.using(gate.using).filter(key=limit.key)
    spans = {burst: rate.period * burst / rate.starts, rate.starts: rate.period}
    numbers = {limit.started - starts: span for starts, span in spans.items()}
    before = permits.filter(number__in=list(numbers)).values_list("number", "taken_at")
    free_at = [taken_at + timedelta(seconds=numbers[number]) for number, taken_at in before]
    first = max(((moment - gate.now).total_seconds() for moment in free_at), default=0.0)
    if first <= 0:
        permits.filter(number__lte=limit.started - rate.starts).delete()
        gate.admit()
        return None
    return gate.line_up(first, rate.period / rate.starts, LONGEST)
