"""RateLimit: at most so many jobs of a key start in any period, over all workers."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.db import connections

from ..dialects import Drawn, Terms, get_dialect
from ..exceptions import Snooze
from ..keys import clean_key, limit_key, name_of
from .base import Middleware
from .context import JobContext

UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
RATE = re.compile(r"(\d{1,6})/(\d{0,5})([smhd])")
#: Limits that nobody has used for twice as long are forgotten.
LONGEST_PERIOD = UNITS["d"]
#: Starts may be drawn in advance: such a part of those that are allowed at once, and no more than so many.
PART, MOST = 100, 1000
#: And kept for such a part of the period, for no longer than so many seconds.
PART_OF_PERIOD, LONGEST_HOLD = 20, 0.1


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

    def applies(self, option: Callable[[str], Any]) -> bool:
        return option("rate_limit") is not None

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        if (rate := context.option("rate_limit")) is not None:
            start = Start(context, rate)
            if not start.is_free():
                start.draw()
        return call_next()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        if (rate := context.option("rate_limit")) is not None:
            start = Start(context, rate)
            if not start.is_free():
                await sync_to_async(start.draw)()
        return await call_next()


class Rule(NamedTuple):
    """What the options say of all keys alike."""

    text: str
    rate: Rate
    burst: int
    #: How many starts may be drawn at once.
    most: int
    #: How long they may be kept, in seconds.
    hold: float
    #: Of the names of the keys. What one rate has no use for any more, another one with a longer period might need: so
    #: they do not share.
    prefix: str

    @classmethod
    def of(cls, text: str, burst: int | None) -> Rule:
        rate = Rate.parse(text)
        burst = min(burst or rate.starts, rate.starts)
        hold = min(rate.period / PART_OF_PERIOD, LONGEST_HOLD)
        return cls(text, rate, burst, min(MOST, burst // PART), hold, f"rate/{rate.period:g}s ")


_rule = lru_cache(maxsize=4096)(Rule.of)  # asked for each job


class Start:
    """A job that wants to start under a rate limit."""

    def __init__(self, context: JobContext, text: str) -> None:
        self.job, self.rule = context.job, _rule(text, context.option("rate_burst"))
        name = limit_key(context.task, context.job, "rate_key")
        #: Does the rate count for this call?
        self.is_limited = name is not None
        self.key = f"{self.rule.prefix}{name}"
        self.using = context.job._state.db or "default"
        self.stock = stock_of(self.key, self.using) if self.rule.most > 1 and self.is_limited else None

    def is_free(self) -> bool:
        """May the job start without asking the database?"""
        return not self.is_limited or (self.stock is not None and self.stock.take())

    def draw(self) -> None:
        """Ask the database. Raise ``Snooze`` if it is too early."""
        # In a transaction it must not wait for somebody who may be waiting for that.
        if self.stock is None or connections[self.using].in_atomic_block:
            self._draw()
            return
        with self.stock.drawing:
            if not self.stock.take():  # somebody else has filled it meanwhile
                drawn = self._draw(self.stock.wanted(self.rule.most), self.rule.hold)
                self.stock.fill(drawn.number - 1, drawn.asked_at + self.rule.hold)

    def _draw(self, number: int = 1, hold: float = 0.0) -> Drawn:
        terms = Terms(*self.rule.rate, self.rule.burst, number, hold)
        draw = partial(get_dialect(self.using).draw, self.key, self.job.pk, self.job.fence, terms)
        drawn = _apart(self.using, draw)
        if drawn.held_until is not None:
            raise Snooze(at=drawn.held_until, reason=f"Waits until {name_of(self.key)!r} is resumed, which is paused.")
        if not drawn.number:
            raise Snooze(drawn.wait, f"Waits for its turn in {name_of(self.key)!r}, which has {self.rule.text}.")
        return drawn


def _apart(using: str, draw: Callable[[], Drawn]) -> Drawn:
    """An atomic task is in its transaction already, and would keep the key locked until it ends: so another connection
    asks. SQLite has no second writer, and needs none: it has no second transaction beside this one either.
    """
    connection = connections[using]
    if not connection.in_atomic_block or not connection.features.has_select_for_update:
        return get_dialect(using).again_if_dead(draw)

    def alone() -> Drawn:
        try:
            return draw()
        finally:
            connections[using].close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(alone).result()


# -- starts in stock ------------------------------------------------------------------------------


class Stock:
    """Starts of one key that this process has drawn and not used.

    To take one needs no lock: a thread that has to give way while it holds one keeps all others that run jobs waiting.
    """

    def __init__(self) -> None:
        #: Held by whoever draws more.
        self.drawing = threading.Lock()
        self._portion = Portion(bytearray(), 0.0)
        self._size = 1  # of the portion when it was drawn

    def take(self) -> bool:
        left, until = self._portion
        if time.monotonic() >= until:
            return False
        try:
            left.pop()
        except IndexError:
            return False
        return True

    def wanted(self, most: int) -> int:
        """How many to draw: more than before if those were used in time, else as many as were."""
        left = len(self._portion.left)
        return max(1, min(most, self._size - left if left else self._size * 4))

    def fill(self, number: int, until: float) -> None:
        """``number`` are left of those that were drawn: whoever drew them has used one."""
        self._portion, self._size = Portion(bytearray(number), until), number + 1


class Portion(NamedTuple):
    #: A byte for each: all threads see it as one step when the last one is taken off.
    left: bytearray
    #: By the monotonic clock.
    until: float


@lru_cache(maxsize=1000)
def stock_of(key: str, using: str) -> Stock:
    """One that has been forgotten is no loss: what it had is soon past use."""
    return Stock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=stock_of.cache_clear)  # what the parent has drawn is not drawn twice
