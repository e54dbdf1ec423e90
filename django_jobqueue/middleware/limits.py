"""Limits: a rate limit's key, its row's lock, and what becomes of a job that comes too early."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connections
from django.db.models import Exists, F, Value
from django.db.models.functions import Now

from ..dialects import get_dialect
from ..exceptions import Snooze
from ..models import Job, Limit, Pause, Permit
from ..models.limit import USED
from ..models.pause import HOLD, HOLD_LEFT
from .context import JobContext


@dataclass(frozen=True, slots=True)
class Gate:
    """A limit's row, locked, at a time by the database's clock that is later than whatever was done to it before."""

    limit: Limit
    now: datetime
    job: Job
    using: str
    #: Has somebody paused the key?
    is_paused: bool = False

    def admit(self) -> None:
        limit = self.limit
        Permit.objects.using(self.using).create(
            key=limit.key, number=limit.started, job_id=self.job.pk, token=self.job.token, taken_at=self.now
        )
        limit.started += 1

    def line_up(self, first: float, step: float, longest: float) -> float:
        """In how many seconds the job should come back, if the next start is to be expected in ``first`` seconds, and
        further ones ``step`` seconds apart: behind those that wait already. At most about ``longest``.
        """
        line = 0.0 if self.limit.line_until is None else (self.limit.line_until - self.now).total_seconds()
        wait = max(first, line) + step * random.uniform(1.0, 1.2)
        if wait > longest:
            return longest * random.uniform(0.7, 1.0)
        self.limit.line_until = self.now + timedelta(seconds=wait)
        return wait


def pass_or_snooze(context: JobContext, key: str, decide: Callable[[Gate], float | None], told: str) -> None:
    """Ask ``decide`` in a transaction of its own, one at a time for each key. If it says for how many seconds to wait,
    raise ``Snooze``. If the key is paused, nobody is asked.
    """
    job, using = context.job, context.job._state.db or "default"

    def ask() -> float | datetime | None:
        gate = _gate(key, job, using)
        wait: float | datetime | None = hold(gate) if gate.is_paused else None
        if wait is None:
            wait = decide(gate)
        gate.limit.save(using=using)
        return wait

    wait = _apart(using, lambda: get_dialect(using).transact(ask))
    if isinstance(wait, datetime):
        raise Snooze(at=wait, reason=f"Waits until {name_of(key)!r} is resumed, which is paused.")
    if wait is not None:
        raise Snooze(wait, told)


def hold(gate: Gate) -> datetime | None:
    """The moment to which jobs under the paused key are put off: one for all, so that resuming can find them. None: it
    has been resumed just now.
    """
    pause = Pause.objects.using(gate.using).keys().filter(name=name_of(gate.limit.key))
    over = pause.filter(held_until__lt=gate.now + HOLD_LEFT)
    if over.exists():
        over.update(held_until=gate.now + HOLD)  # asked again in the update: then it was another job
    return pause.values_list("held_until", flat=True).first()


def _gate(key: str, job: Job, using: str) -> Gate:
    limit = _locked(key, using)
    if limit is None:
        Limit.objects.using(using).bulk_create([Limit(key=key)], ignore_conflicts=True)
        limit = _locked(key, using)
    if limit is None:  # others have made it, and this transaction sees only what was there when it began
        raise Snooze(random.uniform(0.0, 0.1), f"{key!r} is new.")
    # A statement of its own: that of the lock had its time before it had to wait.
    paused = Exists(Pause.objects.using(using).keys().filter(name=Value(name_of(key))))
    row = Limit.objects.using(using).annotate(now=Now(), is_paused=paused)
    now, is_paused = row.values_list("now", "is_paused").get(pk=key)
    if limit.used_at is None or limit.used_at < now - USED:
        limit.used_at = now
    return Gate(limit, now, job, using, is_paused)


def _locked(key: str, using: str) -> Limit | None:
    """The row, ours until the transaction ends. It comes first: what is read after it is the newest there is."""
    row = Limit.objects.using(using).filter(pk=key)
    if connections[using].features.has_select_for_update:
        return row.select_for_update().first()
    row.update(started=F("started"))  # SQLite: the one lock of all, before anything is read
    return row.first()


def _apart(using: str, ask: Callable[[], float | datetime | None]) -> float | datetime | None:
    """An atomic task is in its transaction already, and would keep the key locked until it ends: so another connection
    asks. SQLite has no second writer, and needs none: it has no second transaction beside this one either.
    """
    connection = connections[using]
    if not connection.in_atomic_block or not connection.features.has_select_for_update:
        return ask()

    def alone() -> float | datetime | None:
        try:
            return ask()
        finally:
            connections[using].close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(alone).result()


# -- keys -----------------------------------------------------------------------------------------


def name_of(key: str) -> str:
    """What people call the key, without the kind of limit that is before it."""
    return key.partition(" ")[2]
