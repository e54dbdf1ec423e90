"""Enqueue: save jobs in the caller's transaction."""

from __future__ import annotations

from ..dialects import get_dialect
from ..models import Job
from . import notify, unique
from .admit import put_under_key


def enqueue(jobs: list[Job], using: str, *, may_have_keys: bool = True) -> list[Job]:
    """Insert the jobs and give them their ids. They are there when the caller's transaction commits, or never.

    One whose unique key another job has becomes that job, unless its task says otherwise; one with a concurrency key
    waits until it is admitted. ``may_have_keys=False`` saves the look for such jobs.
    """
    for job in jobs if may_have_keys else ():
        if job.limited_task is not None:
            put_under_key(job)
    if may_have_keys and (keyed := [job for job in jobs if job.unique_task is not None]):
        changed = unique.save(jobs, keyed, using)
    elif len(jobs) == 1 and (lane := notify.lane_to_tell(jobs[0])):
        changed = [] if get_dialect(using).insert_telling(jobs[0], lane, notify.takes_turn) else jobs
    else:
        changed = jobs
        if jobs:
            get_dialect(using).insert(jobs)
    notify.enqueued(changed, using)
    return jobs
