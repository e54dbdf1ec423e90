"""Enqueue: save jobs in the caller's transaction."""

from __future__ import annotations

from ..dialects import get_dialect
from ..models import Job
from . import notify


def enqueue(jobs: list[Job], using: str) -> list[Job]:
    """Insert the jobs and give them their ids. They are there when the caller's transaction commits, or never."""
    if jobs:
        get_dialect(using).insert(jobs)
    notify.enqueued(jobs, using)
    return jobs
