"""Timing: the times that a cron expression or a period means, on which clocks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import TypeAlias
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from django.conf import settings
from django.utils import timezone

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
SOME_DAY = datetime(2024, 1, 1, tzinfo=UTC)
LONGEST_PERIOD = timedelta(days=3660)
UNITS = {"week": 604_800, "day": 86_400, "hour": 3600, "minute": 60, "second": 1}
NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
#: cronsim knows months and days by the first three letters of their names.
_NAMES = re.compile(
    r"\b(?:sunday|monday|tuesday|wednesday|thursday|friday|saturday"
    r"|january|february|march|april|june|july|august|september|october|november|december)\b",
    re.IGNORECASE,
)
_EVERY = re.compile(r"every(?: ([\d.]+))? ?(w|week|d|day|h|hour|m|min|minute|s|sec|second)s?")


@dataclass(frozen=True, slots=True)
class Cron:
    """Times on the clocks of a time zone. Raise ``ValueError`` for an expression or a zone that cannot be.

    As with Debian's cron, a fixed time (minute and hour do not begin with ``*``) happens once a day, also on the days
    when the clocks change: right after the change if they jump over it, the first time if they show it twice. All
    others happen whenever the clocks show them.
    """

    expression: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        if not isinstance(self.expression, str):
            raise ValueError(f"a cron expression is text such as '*/5 * * * *', not {self.expression!r}")
        object.__setattr__(self, "expression", _in_fields(self.expression))
        zone_of(self.zone)
        try:
            first = next(self._walls(SOME_DAY), None)
        except (CronSimError, IndexError, AssertionError, TypeError, ValueError) as error:
            raise ValueError(f"{self.expression!r} is no cron expression: {error}") from None
        if first is None:
            raise ValueError(f"{self.expression!r} never comes")
        if len(self.text) > 100:
            raise ValueError(f"{self.expression!r} is longer than 100 characters")

    @property
    def text(self) -> str:
        return self.expression

    def describe(self) -> str:
        """``At 02:30 every day, Europe/Berlin``"""
        return f"{CronSim(self.expression, SOME_DAY).explain()}, {self.zone}"

    def after(self, moment: datetime, anchor: datetime | None = None) -> datetime | None:
        """The first such time that is later than ``moment``; None if there is none in fifty years."""
        at = moment.astimezone(UTC).replace(microsecond=0)
        return self._once(at) if self._is_fixed else self._each_time(at)

    @property
    def _is_fixed(self) -> bool:
        minute, hour = self.expression.split()[-5:-3]
        return not (minute.startswith("*") or hour.startswith("*"))

    def _walls(self, wall: datetime) -> Iterator[datetime]:
        """Without a zone: what the clock on the wall shows. (With one, cronsim 2.8 leaves out times of a day on which
        the clocks change by half an hour.)
        """
        return CronSim(self.expression, wall)

    def _once(self, at: datetime) -> datetime | None:
        zone = zone_of(self.zone)
        for wall in self._walls(_wall(at, zone)):
            found = wall.replace(tzinfo=zone).astimezone(UTC)
            if _wall(found, zone) != wall:  # the clocks have jumped over it
                found = _change(zone, found - DAY, found) or found
            if found > at:
                return found
        return None

    def _each_time(self, at: datetime) -> datetime | None:
        zone, back = zone_of(self.zone), timedelta(0)
        while True:
            wall = _wall(at, zone)
            shown = next(self._walls(wall - back), None)
            if shown is None:
                return None
            found = at + (shown - wall)  # if nobody touches the clocks until then
            if (changed := _change(zone, at, min(found, at + DAY))) is not None:
                at, back = changed, SECOND
            elif found - at <= DAY:
                return found
            else:
                at, back = found - DAY, timedelta(0)


@dataclass(frozen=True, slots=True)
class Every:
    """Times of equal distance, whatever the clocks show. Raise ``ValueError`` for a period that cannot be."""

    period: timedelta
    zone: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.period, timedelta):
            raise ValueError(f"every() takes a timedelta, not {self.period!r}")
        if not SECOND <= self.period <= LONGEST_PERIOD:
            raise ValueError(f"the period must be from one second to ten years, not {self.period!s}")

    @property
    def text(self) -> str:
        seconds = self.period.total_seconds()
        unit, size = next(item for item in UNITS.items() if seconds % item[1] == 0 or item[1] == 1)
        number = f"{seconds / size:.6f}".rstrip("0").rstrip(".")
        return f"every {unit}" if number == "1" else f"every {number} {unit}s"

    def describe(self) -> str:
        """``Every 5 minutes``"""
        return self.text.capitalize()

    def after(self, moment: datetime, anchor: datetime | None = None) -> datetime | None:
        """The first time later than ``moment`` that is a whole number of periods away from ``anchor``, or from it."""
        anchor = anchor or moment
        return anchor + ((moment - anchor) // self.period + 1) * self.period


def _in_fields(expression: str) -> str:
    """The expression as cronsim takes it. Raise ``ValueError`` for a word with an ``@`` that is none."""
    text = " ".join(expression.split())
    if not text.startswith("@"):
        return _NAMES.sub(lambda name: name[0][:3], text)
    try:
        return NICKNAMES[text.lower()]
    except KeyError:
        raise ValueError(f"{expression!r} is no cron expression; there are {', '.join(NICKNAMES)}") from None


Timing: TypeAlias = Cron | Every


def parse(text: str, zone: str = "") -> Timing:
    """A timing from its text: ``30 2 * * *``, or ``every 5 minutes``. Raise ``ValueError`` for what is none."""
    words = " ".join(text.split())
    if not words.lower().startswith("every"):
        return Cron(words, zone or default_zone())
    found = _EVERY.fullmatch(words.lower())
    if found is None:
        raise ValueError(f"{text!r} is no period; write it as 'every 90 seconds', 'every 5 minutes', 'every 2 hours'")
    size = next(size for unit, size in UNITS.items() if unit[0] == found[2][0])
    return Every(timedelta(seconds=float(found[1] or 1) * size))


def latest(timing: Timing, first: datetime, until: datetime, most: int) -> list[datetime]:
    """The ticks from ``first`` on, which is one, up to ``until``; of many, the latest ``most`` at least, and in no more
    time than it takes to look at a few times as many.
    """
    span = timedelta(minutes=1)
    while True:
        begin = max(first, until - span)
        found = [first] if begin == first <= until else []
        tick = timing.after(begin, first)
        while tick is not None and tick <= until:
            found.append(tick)
            tick = timing.after(tick, first)
        if begin == first or len(found) >= most:
            return found
        span *= 4


# -- clocks ---------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def zone_of(name: str) -> tzinfo:
    """The time zone. Raise ``ValueError`` if this machine knows none of that name."""
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError, TypeError):
        raise ValueError(f"there is no time zone {name!r}; write it as 'Europe/Berlin' or 'UTC'") from None


def default_zone() -> str:
    return settings.TIME_ZONE or "UTC"


def aware(moment: datetime) -> datetime:
    """A naive one is meant on Django's clocks; with ``USE_TZ = False`` all those of columns are."""
    return timezone.make_aware(moment) if timezone.is_naive(moment) else moment


def _wall(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _change(zone: tzinfo, start: datetime, end: datetime) -> datetime | None:
    """The moment after ``start``, up to ``end``, from which on the clocks are put otherwise; there is one at most."""
    before = start.astimezone(zone).utcoffset()
    if end <= start or end.astimezone(zone).utcoffset() == before:
        return None
    least, most = 0, int((end - start).total_seconds())
    while most - least > 1:
        middle = (least + most) // 2
        if (start + timedelta(seconds=middle)).astimezone(zone).utcoffset() == before:
            least = middle
        else:
            most = middle
    return start + timedelta(seconds=most)
