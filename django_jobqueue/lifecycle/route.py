"""Route: the database that jobs are written to, also by verbs that are not told which."""

from __future__ import annotations

from typing import Any

from django.db import router

from ..conf import backend_aliases, config_of
from ..models import Job


def write_route(using: str | None, jobs: Any = None) -> str:
    """The alias of the database to write to: ``using``; else the one that the queryset ``jobs`` was given with
    ``.using(…)``; else the ``DATABASE`` of our backends in TASKS, where they have one; else what the project's routers
    say of writes. Never what they say of reads: that may be a replica.
    """
    given = using or getattr(jobs, "_db", None)
    if given is not None:
        return str(given)
    databases = {config_of(alias).database for alias in backend_aliases()}
    return databases.pop() if len(databases) == 1 else router.db_for_write(Job)
