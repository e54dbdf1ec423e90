"""Concurrency: at most so many jobs of a key run at the same time, over all workers."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from itertools import takewhile
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async

from ..keys import clean_key
from ..models import Job, Permit
from ..outcomes import State
from .base import Middleware
from .context import JobContext
from .limits import Gate, key_of, name_of, pass_or_snooze

#: Seconds that a slot is taken to be held while nothing is known of it.
GUESS = 0.1
#: A slot may become free earlier than anybody expects: nobody waits for longer than this many seconds at a time.
LONGEST = 30.0
#: By which factor it waits longer each time that it has waited for nothing.
SLOWER = 1.5
#: The share of the newest value in the mean.
NEWEST = 0.3


class Holder(NamedTuple):
    """A job that has a permit, as its row is now; all but its number None if the row is gone."""

    pk: int
    status: str | None = None
    token: int | None = None
    finished_at: datetime | None = None


class Concurrency(Middleware):
    """``concurrency``: how many jobs may run at once that have the same ``concurrency_key``: a template over the call's
    arguments, ``"tenant-{tenant_id}"``, or in ``@task`` a callable that gets them. Without one, all jobs of the task.

    A job that finds no free slot is put back for about as long as it takes until there is one; no attempt is counted.
    """

    options = {"concurrency": None, "concurrency_key": None}

    @classmethod
    def clean_option(cls, name: str, value: Any) -> Any:
        if name == "concurrency_key":
            return clean_key(value)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError("it must be a whole number from 1 on, or None")
        return value

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        if (most := context.option("concurrency")) is not None:
            self._take(context, most)
        return call_next()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        if (most := context.option("concurrency")) is not None:
            await sync_to_async(self._take)(context, most)
        return await call_next()

    def _take(self, context: JobContext, most: int) -> None:
        key = key_of(context, "concurrency", "concurrency_key")
        told = f"Waits for a slot of {name_of(key)!r}, which has {most}."
        pass_or_snooze(context, key, lambda gate: take_slot(gate, most), told)


def take_slot(gate: Gate, most: int) -> float | None:
    """Take one, or say in how many seconds to ask again."""
    job, limit = gate.job, gate.limit
    permits = list(Permit.objects.using(gate.using).filter(key=limit.key))
    holders = _holders({permit.job_id for permit in permits} | {job.pk}, gate.using)
    if not _holds(holders, job.pk, job.token):
        return 0.0  # a worker that was given up: others have the job, and nothing of this attempt will be written
    held = [permit for permit in permits if _holds(holders, permit.job_id, permit.token)]
    if any(permit.job_id == job.pk for permit in held):
        return None
    _free([permit for permit in permits if permit not in held], holders, gate)
    if len(held) < most:
        gate.admit()
        return None
    ages = [(gate.now - permit.taken_at).total_seconds() for permit in held]
    step = max(limit.hold or GUESS, sum(ages) / len(ages)) / most + 0.01
    if tries := waited(job):  # it came when it was told to, and was a little early: it need not queue again
        return min(LONGEST, step * SLOWER**tries) * random.uniform(0.5, 1.0)
    return gate.line_up(0.0, step, LONGEST)


def waited(job: Job) -> int:
    """How often in a row the job has been put back by now."""
    outcomes = [attempt.outcome for attempt in job.past_attempts]
    return sum(1 for _ in takewhile(State.SNOOZED.__eq__, reversed(outcomes)))


def _holders(ids: set[int], using: str) -> dict[int, Holder]:
    rows = Job.objects.using(using).filter(pk__in=ids).values_list("pk", "status", "token", "finished_at")
    return {row[0]: Holder(*row) for row in rows}


def _holds(holders: dict[int, Holder], pk: int, token: int | None) -> bool:
    holder = holders.get(pk)
    return holder is not None and holder.status == Job.Status.RUNNING and holder.token == token


def _free(permits: list[Permit], holders: dict[int, Holder], gate: Gate) -> None:
    """Delete permits that are not held any more, and learn for how long they were."""
    if not permits:
        return
    limit = gate.limit
    numbers = [permit.number for permit in permits]
    Permit.objects.using(gate.using).filter(key=limit.key, number__in=numbers).delete()
    for permit in permits:
        holder = holders.get(permit.job_id)
        if holder is not None and holder.finished_at is not None:
            took = max(0.0, (holder.finished_at - permit.taken_at).total_seconds())
            limit.hold = took if not limit.hold else limit.hold + NEWEST * (took - limit.hold)
