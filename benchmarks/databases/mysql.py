"""MariaDB, and MySQL as far as it is the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from benchmarks import processes

from .base import Database, Look


class MariaDB(Database):
    kind = "mariadb"

    def __enter__(self) -> MariaDB:
        self.url = urlsplit(self.server)._replace(scheme="mysql", path=f"/{self.name}").geturl()
        with self._connect(None) as cursor:
            cursor.execute(f"drop database if exists {self.name}")
            cursor.execute(f"create database {self.name} character set utf8mb4")
        self.pid = self._find_server()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._connect(None) as cursor:
            cursor.execute(f"drop database if exists {self.name}")

    @contextlib.contextmanager
    def _connect(self, database: str | None) -> Iterator[Any]:
        import pymysql

        host, port = self.address()
        parts = urlsplit(self.server)
        user, password = unquote(parts.username or "root"), unquote(parts.password or "")
        with (
            pymysql.connect(
                host=host, port=port, user=user, password=password, database=database, autocommit=True
            ) as connection,
            connection.cursor() as cursor,
        ):
            yield cursor

    def _find_server(self) -> int | None:
        if self.address()[0] not in ("localhost", "127.0.0.1", "::1"):
            return None
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        found = [pid for pid in pids if processes.name_of(pid) in ("mariadbd", "mysqld")]
        return found[0] if len(found) == 1 else None

    def settle(self) -> None:
        """InnoDB keeps its own house; new tables have no statistics, though."""
        with self._connect(self.name) as cursor:
            cursor.execute("show tables")
            for (table,) in cursor.fetchall():
                cursor.execute(f"analyze table {table}")

    @contextlib.contextmanager
    def watch(self) -> Iterator[Look]:
        with self._connect(self.name) as cursor:

            def look(sql: str) -> int:
                cursor.execute(sql)
                return cursor.fetchone()[0]

            yield look

    @contextlib.contextmanager
    def old_snapshot(self) -> Iterator[None]:
        with self._connect(self.name) as cursor:
            cursor.execute("start transaction with consistent snapshot")
            yield

    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.server)
        return parts.hostname or "127.0.0.1", parts.port or 3306
