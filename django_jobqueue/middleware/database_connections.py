"""The connections of the threads that run jobs: which a thread has. And ``DatabaseConnections``, of earlier lists."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from .base import Middleware


class DatabaseConnections(Middleware):
    """Does nothing itself: the worker looks after the connections of every job, whatever stands in the list."""


# To ask Django for the connections of a thread takes longer than all else that is done around a short job.


class _Here(threading.local):
    #: The calling thread's connections by their aliases; None: it is not known when it began.
    opened: dict[str, BaseDatabaseWrapper] | None = None
    #: Called with each one that connects, after it is noted here.
    connected: Callable[[BaseDatabaseWrapper], None] | None = None


_here = _Here()


def begin_without(connected: Callable[[BaseDatabaseWrapper], None] | None = None) -> dict[str, BaseDatabaseWrapper]:
    """The calling thread, which is new, has no connection. Return those that it will have, by their aliases.

    ``connected`` is called with a connection each time that it connects.
    """
    _here.opened, _here.connected = {}, connected
    return _here.opened


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
        if _here.connected is not None:
            _here.connected(connection)


connection_created.connect(_connected, dispatch_uid="django_jobqueue.database_connections")
