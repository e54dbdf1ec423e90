"""DatabaseConnections: each job finds and leaves the database connections as a request would."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.db import close_old_connections, reset_queries
from django.db.backends.signals import connection_created

from .base import Middleware
from .context import JobContext


class DatabaseConnections(Middleware):
    """Closes connections that are broken or past ``CONN_MAX_AGE`` before and after the job, and forgets logged queries.

    Without it a worker keeps a connection that the server has dropped, and the next job pays for it.
    """

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        if settings.DEBUG:  # else nothing was logged
            reset_queries()
        if not has_none():
            close_old_connections()
        try:
            return call_next()
        finally:
            if not has_none():
                close_old_connections()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        # The database calls of an async job run in a thread that is made for it, and end with it.
        return await call_next()


# Looking for connections in a thread that has none takes longer than all else that is done around a short job.

_without: set[int] = set()


def begin_without() -> None:
    """The calling thread, which is new, has no connection."""
    _without.add(threading.get_ident())


def has_none() -> bool:
    """Is it sure that the calling thread has never had a connection?"""
    return threading.get_ident() in _without


def _connected(**kwargs: Any) -> None:
    _without.discard(threading.get_ident())


connection_created.connect(_connected, dispatch_uid="django_jobqueue.database_connections")
