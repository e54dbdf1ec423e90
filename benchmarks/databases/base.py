"""What the measures need from a database."""

from __future__ import annotations

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager

Look = Callable[[str], int]


class Database(abc.ABC):
    """A database that exists inside the ``with`` block."""

    kind: str
    url: str
    #: The server's first process; None if there is none, or it is on another machine.
    pid: int | None = None

    def __init__(self, server: str, name: str) -> None:
        self.server, self.name = server, name

    @abc.abstractmethod
    def __enter__(self) -> Database: ...

    @abc.abstractmethod
    def __exit__(self, *exception: object) -> None: ...

    @abc.abstractmethod
    def settle(self) -> None:
        """Do the housekeeping of the enqueues now, so that it does not fall into what comes next."""

    @abc.abstractmethod
    def watch(self) -> AbstractContextManager[Look]:
        """A function that looks up one number; every call is a commit that ``counters`` counts, too."""

    @abc.abstractmethod
    def old_snapshot(self) -> AbstractContextManager[None]:
        """Another session whose transaction sees what was there when the block began, and keeps the database from
        clearing away what is newer."""

    def counters(self) -> tuple[int, int]:
        """Commits in the database and bytes of WAL, since the beginning of time, where they are counted."""
        return 0, 0

    def address(self) -> tuple[str, int] | str | None:
        """Where the server listens: host and port, or a socket's path; None if there is no server."""
        return None
