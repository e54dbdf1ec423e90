"""Enqueue: save jobs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from django.db.models.base import ModelState

from ..dialects import Dialect, get_dialect
from ..dialects.base import forget_insert
from ..models import Job
from . import notify, unique
from .admit import put_under_key

T = TypeVar("T")


def enqueue(jobs: list[Job], using: str, *, may_have_keys: bool = True) -> list[Job]:
    """Insert the jobs and give them their ids. They are there when the caller's transaction commits, or never.

    One whose unique key another job has becomes that job, unless its task says otherwise; one with a concurrency key
    waits until it is admitted. ``may_have_keys=False`` saves the look for such jobs. In no transaction of the caller's
    the insert is tried again after a deadlock or a serialization failure.
    """
    for job in jobs if may_have_keys else ():
        if job.limited_task is not None:
            put_under_key(job)
    if may_have_keys and (keyed := [job for job in jobs if job.unique_task is not None]):
        changed = unique.save(jobs, keyed, using)
    elif jobs:
        dialect = get_dialect(using)
        changed = dialect.again_after_collision(lambda: _insert(jobs, dialect), lambda: forget_insert(jobs))
    else:
        changed = jobs
    notify.enqueued(changed, using)
    return jobs


def _insert(jobs: list[Job], dialect: Dialect) -> list[Job]:
    """Those of the jobs of which workers are still to be told."""
    if len(jobs) == 1 and (lane := notify.lane_to_tell(jobs[0])):
        return [] if dialect.insert_telling(jobs[0], lane, notify.takes_turn) else jobs
    dialect.insert(jobs)
    return jobs


def together(jobs: Sequence[Job], using: str, write: Callable[[], T]) -> T:
    """``write()``, which saves these jobs and what belongs to them, in one transaction.

    Again after a collision, unless the transaction is the caller's, and then with the jobs as they are now.
    """
    before = [dict(job.__dict__) for job in jobs]

    def attempt() -> T:
        for job, columns in zip(jobs, before, strict=True):
            job.__dict__ = {**columns, "_state": ModelState()}
        return write()

    return get_dialect(using).transact(attempt)
