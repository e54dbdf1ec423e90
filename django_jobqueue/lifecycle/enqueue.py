"""Enqueue: save jobs in the caller's transaction."""

from __future__ import annotations

from ..dialects import get_dialect
from ..models import Job
from . import notify, unique


def enqueue(jobs: list[Job], using: str, *, may_have_keys: bool = True) -> list[Job]:
    """Insert the jobs and give them their ids. They are there when the caller's transaction commits, or never.

    One whose unique key another job has becomes that job, unless its task says otherwise. ``may_have_keys=False`` saves
    the look for such jobs.
    """
    if may_have_keys and (keyed := [job for job in jobs if job.unique_task is not None]):
        changed = unique.save(jobs, keyed, using)
    else:
        changed = jobs
        if jobs:
            get_dialect(using).insert(jobs)
    notify.enqueued(changed, using)
    return jobs
