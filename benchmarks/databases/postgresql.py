"""PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg

from benchmarks import processes

from .base import Database, Look


class PostgreSQL(Database):
    kind = "postgresql"

    def __enter__(self) -> PostgreSQL:
        parts = urlsplit(self.server)
        self.url = parts._replace(scheme="postgresql", path=f"/{self.name}").geturl()
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(f"drop database if exists {self.name} with (force)")
            connection.execute(f"create database {self.name}")
            self.pid = processes.parent_of(connection.info.backend_pid, "postgres")
        return self

    def __exit__(self, *exception: object) -> None:
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(f"drop database if exists {self.name} with (force)")

    def settle(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("vacuum analyze")
            connection.execute("checkpoint")

    @contextlib.contextmanager
    def watch(self) -> Iterator[Look]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            # A table that has just been filled may look small enough to be read from end to end, every time.
            connection.execute("set enable_seqscan = off; set jit = off")
            yield lambda sql: connection.execute(sql).fetchone()[0]

    @contextlib.contextmanager
    def old_snapshot(self) -> Iterator[None]:
        with psycopg.connect(self.url) as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.execute("select count(*) from pg_class")
            yield

    def counters(self) -> tuple[int, int]:
        sql = "select xact_commit, pg_current_wal_insert_lsn() - '0/0' from pg_stat_database where datname = %s"
        with psycopg.connect(self.server) as connection:
            commits, wal = connection.execute(sql, [self.name]).fetchone()
            return commits, int(wal)

    def address(self) -> tuple[str, int] | str:
        with psycopg.connect(self.server) as connection:
            host, port = connection.info.host, connection.info.port
        return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
