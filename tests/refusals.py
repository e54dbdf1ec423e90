"""Databases that refuse single rows, or all of them: by triggers, time limits, and as a read-only copy does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from django.db import OperationalError, connection
from django.db.models import Model

from django_jobqueue.dialects.channel import connect
from django_jobqueue.models import Attempt, Job

TRIGGERS = {
    "postgresql": (
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF {condition} THEN {act} END IF; RETURN NEW; END $$; "
        "CREATE TRIGGER refuse BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()"
    ),
    "sqlite": (
        "CREATE TRIGGER refuse BEFORE {event} ON {table} WHEN {condition} BEGIN SELECT RAISE(ABORT, 'refused'); END"
    ),
    "mysql": (
        "CREATE TRIGGER refuse BEFORE {event} ON {table} FOR EACH ROW BEGIN IF {condition} THEN "
        "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'refused'; END IF; END"
    ),
}
DROP = {
    "postgresql": "DROP FUNCTION IF EXISTS refuse CASCADE",
    "sqlite": "DROP TRIGGER IF EXISTS refuse",
    "mysql": "DROP TRIGGER IF EXISTS refuse",
}


@contextmanager
def refusing(
    condition: str, *, event: str = "UPDATE", model: type[Model] = Job, act: str = "RAISE 'refused';"
) -> Iterator[None]:
    """The database refuses rows for which this holds, which says ``NEW`` for the row."""
    sql = TRIGGERS[connection.vendor].format(condition=condition, event=event, table=model._meta.db_table, act=act)
    execute(sql)
    try:
        yield
    finally:
        execute(DROP[connection.vendor])


def execute(sql: str, *params: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, params or None)
        return list(cursor.fetchall()) if cursor.description else []


@contextmanager
def setting_of_database(name: str, value: str) -> Iterator[None]:
    """Sessions of PostgreSQL that begin meanwhile have this setting."""
    database = connection.ops.quote_name(connection.settings_dict["NAME"])
    execute(f"ALTER DATABASE {database} SET {name} = '{value}'")
    try:
        yield
    finally:
        execute("SET default_transaction_read_only = off")
        execute(f"ALTER DATABASE {database} RESET {name}")


@contextmanager
def charset_of_attempts(charset: str) -> Iterator[None]:
    """MariaDB's texts of attempts in this character set."""
    table = Attempt._meta.db_table
    execute(f"ALTER TABLE {table} CONVERT TO CHARACTER SET {charset}")
    try:
        yield
    finally:
        execute(f"ALTER TABLE {table} CONVERT TO CHARACTER SET utf8mb4")


def cut_connections(where: str = "TRUE") -> int:
    """End the other sessions at the test's database for which this holds, as a restart of the server does; how many."""
    if connection.vendor == "postgresql":
        return len(
            execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND {where}"
            )
        )
    found = execute("SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()")
    for (number,) in found:
        with suppress(OperationalError):  # it may have gone by itself
            execute(f"KILL {number}")
    return len(found)


def cut_own() -> None:
    """End the calling thread's own session, so that its next statement finds the connection cut."""
    if connection.connection is None:
        return
    is_postgresql = connection.vendor == "postgresql"
    number = connection.connection.info.backend_pid if is_postgresql else connection.connection.thread_id()
    other = connect(connection.alias)
    with closing(other), other.cursor() as cursor:
        cursor.execute(f"SELECT pg_terminate_backend({number}, 5000)" if is_postgresql else f"KILL {number}")


class Cutting:
    """A function that finds its connection cut, so many times; and until then that it is there."""

    def __init__(self, function: Callable[..., Any], times: int, when: Callable[[], bool] = lambda: True) -> None:
        self.function, self.left, self.when, self.cuts = function, times, when, 0
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            cuts = self.left > 0 and self.when()
            if cuts:
                self.left, self.cuts = self.left - 1, self.cuts + 1
        if cuts:
            connection.ensure_connection()
            cut_own()
        return self.function(*args, **kwargs)
