"""DatabaseConnections: each job finds and leaves the database connections as a request would."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.db import connections, reset_queries
from django.db.backends.base.base import BaseDatabaseWrapper
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
    for connection in of_this_thread():
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


# To ask Django for the connections of a thread takes longer than all else that is done around a short job.


class _Here(threading.local):
    #: The calling thread's connections by their aliases; None: it is not known when it began.
    opened: dict[str, BaseDatabaseWrapper] | None = None


_here = _Here()


def begin_without() -> None:
    """The calling thread, which is new, has no connection."""
    _here.opened = {}


@contextmanager
def leaving_open() -> Iterator[None]:
    """Within the block the connections that the calling thread has are somebody else's: jobs leave them alone."""
    before, _here.opened = _here.opened, {}
    try:
        yield
    finally:
        _here.opened = before


def of_this_thread() -> Sequence[BaseDatabaseWrapper]:
    """The connections that the calling thread has, or has had."""
    return connections.all(initialized_only=True) if _here.opened is None else list(_here.opened.values())


def _connected(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    if _here.opened is not None:
        _here.opened[connection.alias] = connection


connection_created.connect(_connected, dispatch_uid="django_jobqueue.database_connections")
