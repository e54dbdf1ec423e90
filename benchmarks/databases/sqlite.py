"""SQLite: a file in a temporary directory. It has no server, and counts nothing."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from .base import Database, Look


class SQLite(Database):
    """``sqlite`` in the system's temporary directory, ``sqlite:///folder`` in another."""

    kind = "sqlite"

    def __enter__(self) -> SQLite:
        folder = urlsplit(self.server).path if "://" in self.server else None
        self.directory = tempfile.TemporaryDirectory(dir=folder or None)
        self.path = Path(self.directory.name, "db.sqlite3").resolve()
        self.url = f"sqlite://{self.path}"
        return self

    def __exit__(self, *exception: object) -> None:
        self.directory.cleanup()

    def _connect(self) -> contextlib.closing[sqlite3.Connection]:
        return contextlib.closing(sqlite3.connect(self.path, isolation_level=None, timeout=20))

    def settle(self) -> None:
        with self._connect() as connection:
            connection.execute("analyze")
            connection.execute("pragma wal_checkpoint(truncate)")

    @contextlib.contextmanager
    def watch(self) -> Iterator[Look]:
        with self._connect() as connection:
            yield lambda sql: connection.execute(sql).fetchone()[0]

    @contextlib.contextmanager
    def old_snapshot(self) -> Iterator[None]:
        with self._connect() as connection:
            connection.execute("begin")
            connection.execute("select count(*) from sqlite_master").fetchone()
            yield
