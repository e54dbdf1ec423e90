"""DatabaseConnections: each job finds and leaves the database connections as a request would."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.db import connections, reset_queries
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
        close_old_ones()
        try:
            return call_next()
        finally:
            close_old_ones()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        # The database calls of an async job run in a thread that is made for it, and end with it.
        return await call_next()


def close_old_ones() -> None:
    """As at the end of a request; a transaction that is open belongs to an atomic task or to an outer layer."""
    if has_none():
        return
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


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
