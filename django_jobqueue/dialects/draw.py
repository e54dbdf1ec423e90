"""Draw: starts under a rate limit, in portable SQL.

The start before the last N must have been a period ago: then there are never more than N in any period. So one row is
looked at, however many starts there were, and no more are kept than count. Starts that are drawn at once count as if
all were at the end of the time in which they may be used: so what is promised holds whenever they are.
"""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta

from django.db.models import Exists, Value
from django.db.models.functions import Now

from ..keys import name_of
from ..models import Limit, Pause, Permit
from ..models.pause import HOLD, HOLD_LEFT
from .records import Drawn, Terms

#: Nobody waits for longer than this many seconds at a time: jobs in front may have been cancelled.
LONGEST = 300.0
#: A job that must wait is rescheduled 1.0 to 1.2 intervals behind the job before it; an interval is period ÷ starts.
STEPS = (1.0, 1.2)
#: A job that would have to wait longer than ``LONGEST`` is rescheduled after this part of it.
PARTS = (0.7, 1.0)


class Draw:
    """For one key, which is locked."""

    def __init__(self, using: str, key: str, job_id: int, fence: int | None, terms: Terms) -> None:
        self.using, self.key, self.job_id, self.fence, self.terms = using, key, job_id, fence, terms
        self.permits = Permit.objects.using(using).filter(key=key)

    def carry_out(self) -> Drawn:
        asked_at = time.monotonic()
        paused = Exists(Pause.objects.using(self.using).keys().filter(name=Value(name_of(self.key))))
        limit = Limit.objects.using(self.using).annotate(now=Now(), is_paused=paused)
        columns = limit.values_list("started", "line_until", "now", "is_paused")
        started, line_until, now, is_paused = columns.get(pk=self.key)
        if is_paused and (held_until := self._held_until(now)) is not None:
            return Drawn(0, held_until=held_until)
        free_in = 0.0
        for number in sorted({self.terms.number, 1}, reverse=True):
            if (free_in := self._free_in(started + number - 1, now)) <= 0:
                self._give(number, started, now)
                return Drawn(number, asked_at)
        return Drawn(0, wait=self._line_up(free_in, line_until, now))

    def _held_until(self, now: datetime) -> datetime | None:
        """The moment to which jobs under the paused key are put off: one for all, so that resuming can find them. None:
        it has been resumed just now.
        """
        pause = Pause.objects.using(self.using).keys().filter(name=name_of(self.key))
        over = pause.filter(held_until__lt=now + HOLD_LEFT)
        if over.exists():
            over.update(held_until=now + HOLD)  # asked again in the update: then it was another job
        return pause.values_list("held_until", flat=True).first()

    def _free_in(self, last: int, now: datetime) -> float:
        """In how many seconds all up to the start with this number may be."""
        starts, period, burst, *_ = self.terms
        spans = {burst: period * burst / starts, starts: period}
        return max(self._is_past_in(last - most, span, now) for most, span in spans.items())

    def _is_past_in(self, number: int, span: float, now: datetime) -> float:
        """In how many seconds the start with this number is so long ago; it stands in the row of the last one that was
        drawn with it.
        """
        if number < 0:
            return 0.0
        row = self.permits.filter(number__gte=number).order_by("number")
        taken_at = row.values_list("taken_at", flat=True).first()
        return 0.0 if taken_at is None else (taken_at - now).total_seconds() + span

    def _give(self, number: int, started: int, now: datetime) -> None:
        last = now + timedelta(seconds=self.terms.hold if number > 1 else 0.0)
        Permit.objects.using(self.using).create(
            key=self.key, number=started + number - 1, job_id=self.job_id, fence=self.fence, taken_at=last
        )
        Limit.objects.using(self.using).filter(pk=self.key).update(started=started + number)
        if (first_that_counts := started + number - self.terms.starts) > 0:
            self.permits.filter(number__lt=first_that_counts).delete()

    def _line_up(self, free_in: float, line_until: datetime | None, now: datetime) -> float:
        """In how many seconds the job should come back, if there is a start in ``free_in``: behind those that wait."""
        line = 0.0 if line_until is None else (line_until - now).total_seconds()
        wait = max(free_in, line) + self.terms.period / self.terms.starts * random.uniform(*STEPS)
        if wait <= LONGEST:
            Limit.objects.using(self.using).filter(pk=self.key).update(line_until=now + timedelta(seconds=wait))
        return not_too_long(wait)


def not_too_long(wait: float) -> float:
    return wait if wait <= LONGEST else LONGEST * random.uniform(*PARTS)
