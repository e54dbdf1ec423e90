"""Limits: what RateLimit and Concurrency share: a key, its row's lock, and what becomes of a job that waits."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connections
from django.db.models import F
from django.db.models.functions import Now

from ..dialects import get_dialect
from ..exceptions import Snooze
from ..keys import filled, shortened
from ..models import Job, Limit, Permit
from .context import JobContext

#: How exactly ``Limit.used_at`` is kept.
USED = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Gate:
    """A limit's row, locked, at a time by the database's clock that is later than whatever was done to it before."""

    limit: Limit
    now: datetime
    job: Job
    using: str

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
    raise ``Snooze``.
    """
    job, using = context.job, context.job._state.db or "default"

    def ask() -> float | None:
        gate = _gate(key, job, using)
        wait = decide(gate)
        gate.limit.save(using=using)
        return wait

    wait = _apart(using, lambda: get_dialect(using).transact(ask))
    if wait is not None:
        raise Snooze(wait, told)


def _gate(key: str, job: Job, using: str) -> Gate:
    limit = _locked(key, using)
    if limit is None:
        Limit.objects.using(using).bulk_create([Limit(key=key)], ignore_conflicts=True)
        limit = _locked(key, using)
    if limit is None:  # others have made it, and this transaction sees only what was there when it began
        raise Snooze(random.uniform(0.0, 0.1), f"{key!r} is new.")
    # A statement of its own: that of the lock had its time before it had to wait.
    now = Limit.objects.using(using).annotate(now=Now()).values_list("now", flat=True).get(pk=key)
    if limit.used_at is None or limit.used_at < now - USED:
        limit.used_at = now
    return Gate(limit, now, job, using)


def _locked(key: str, using: str) -> Limit | None:
    """The row, ours until the transaction ends. It comes first: what is read after it is the newest there is."""
    row = Limit.objects.using(using).filter(pk=key)
    if connections[using].features.has_select_for_update:
        return row.select_for_update().first()
    row.update(started=F("started"))  # SQLite: the one lock of all, before anything is read
    return row.first()


def _apart(using: str, ask: Callable[[], float | None]) -> float | None:
    """An atomic task is in its transaction already, and would keep the key locked until it ends: so another connection
    asks. SQLite has no second writer, and needs none: it has no second transaction beside this one either.
    """
    connection = connections[using]
    if not connection.in_atomic_block or not connection.features.has_select_for_update:
        return ask()

    def alone() -> float | None:
        try:
            return ask()
        finally:
            connections[using].close()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(alone).result()


# -- keys -----------------------------------------------------------------------------------------


def key_of(context: JobContext, kind: str, option: str) -> str:
    """The key that the option makes of the call; without one, the task's path.

    Raise ``ValueError`` for a template that does not fit the call.
    """
    made, job = context.option(option), context.job
    if made is None:
        made = job.task_path
    elif callable(made):
        made = str(made(*job.args, **job.kwargs))
    else:
        made = filled(made, option, context.task, job)
    return f"{kind} {shortened(made)}"
