"""Aside: what a process has once for each database, with a thread and a connection beside those of Django."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from django.db.backends.base.base import NO_DB_ALIAS, BaseDatabaseWrapper
from django.db.backends.signals import connection_created

from ..logs import get_logger

logger = get_logger(__name__)

T = TypeVar("T")


class PerDatabase(dict[str, T]):
    """By alias; made when it is first asked for. Those of the parent are not those of a child process."""

    def __init__(self, make: Callable[[str], T], let_go: Callable[[T], None]) -> None:
        super().__init__()
        self._make, self._let_go = make, let_go
        self._inherited: list[T] = []
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start_anew)
        connection_created.connect(self._connected)

    def __missing__(self, using: str) -> T:
        return self.setdefault(using, self._make(using))  # one for all, also where two threads come at once

    def _start_anew(self) -> None:
        """In a child process: the parent's thread is not here, and its connection is not ours. Nor is it ours to
        close, so what holds it is kept.
        """
        self._inherited.extend(self.values())
        self.clear()

    def _connected(self, connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
        """Who connects to no database at all is about to create one, or to drop one: as a test run does at its end."""
        if connection.alias == NO_DB_ALIAS:
            for one in list(self.values()):
                self._let_go(one)


def start_thread(serve: Callable[[], None], name: str) -> threading.Thread | None:
    """None if there can be none: the interpreter is on its way out, or the machine has no thread left."""
    thread = threading.Thread(target=serve, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        logger.debug("No thread %s, workers and those who wait will look by themselves: %s", name, error)
        return None
    return thread
