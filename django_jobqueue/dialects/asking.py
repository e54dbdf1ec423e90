"""Asking: whether the database is there and can be written to, and whether an error is the fault of the data.

What an exception's class says of that differs between drivers: for text that a column cannot hold PyMySQL raises a
``DataError`` and mysqlclient an ``OperationalError``, as for a server that is gone. So the database itself is asked.
"""

from __future__ import annotations

import threading
from enum import Enum, auto
from random import getrandbits
from typing import Any

from django.db import DatabaseError, InterfaceError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .session import Session, without_pool
from .tables import ATTEMPT

#: Seconds after which a database that says nothing counts as away, and those that a driver waits for a connection.
PATIENCE, CONNECT_TIMEOUT = 8.0, 5
#: Writes what the end of an attempt writes, and is rolled back: it shows whether there is room for that.
LITTLE = (
    f"INSERT INTO {ATTEMPT} (job_id, number, started_at, finished_at, outcome, message, exception_class_path, "
    "traceback) VALUES (0, %s, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, 'lost', '', '', '')"
)


def problem_of(using: str) -> Exception | None:
    """Why the database takes no outcome now, whatever is in it; None: it would take one.

    It is asked over a connection of its own, in a thread of its own: a driver may wait for an answer for very long.
    """
    answer: list[Exception | None] = []

    def ask() -> None:
        try:
            answer.append(_ask(using))
        except Exception as error:
            answer.append(error)

    thread = threading.Thread(target=ask, name="jobqueue-asking", daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answer[0] if answer else TimeoutError(f"The database has not answered within {PATIENCE:g} seconds.")


class Verdict(Enum):
    """What an error means."""

    #: The database is away, or the transaction is the caller's: nothing can be tried again now.
    AWAY = auto()
    #: The connection was cut, and the database is there. It may have been cut for what was sent over it.
    CUT = auto()
    #: The database is there, and refuses this; the error does not say whether it always will.
    UNSURE = auto()
    #: It refuses this very data.
    REFUSED = auto()


def judge(error: Exception, dialect: Session) -> Verdict:
    """What the error of a statement means. Unless it is ``AWAY`` the connection may be used again."""
    connection = dialect.connection
    is_ours = not connection.in_atomic_block
    if dialect.is_refusal(error):
        # Drivers stumble over a connection that was cut with errors of all kinds.
        is_told_by_server = isinstance(error, DatabaseError) or connection.connection is None
        if is_told_by_server or not is_ours or not dialect.was_cut():
            return Verdict.REFUSED
    if not is_ours:
        return Verdict.AWAY if isinstance(error, DatabaseError | InterfaceError) else Verdict.REFUSED
    was_cut = dialect.was_cut()
    dialect.close()
    if problem_of(dialect.using) is not None:
        return Verdict.AWAY
    return Verdict.CUT if was_cut else Verdict.UNSURE


# -- the question --------------------------------------------------------------------------------


def _ask(using: str) -> Exception | None:
    connection = _fresh(using)
    try:
        connection.connect()
        connection.set_autocommit(False)
        with connection.cursor() as cursor:
            try:
                cursor.execute(LITTLE, [getrandbits(30)])
            except DatabaseError as error:
                # A trigger of the project may refuse this row: that says nothing of others.
                return error if _is_want_of_means(error) else None
        connection.rollback()
        return None
    finally:
        connection.close()


def _fresh(using: str) -> BaseDatabaseWrapper:
    connection = connections.create_connection(using)
    settings: dict[str, Any] = connection.settings_dict
    options = without_pool(settings)
    if connection.vendor in ("postgresql", "mysql"):
        options.setdefault("connect_timeout", CONNECT_TIMEOUT)
    elif connection.vendor == "sqlite":
        options["timeout"] = min(options.get("timeout", CONNECT_TIMEOUT), CONNECT_TIMEOUT)
    connection.settings_dict = {**settings, "OPTIONS": options}
    return connection


#: PostgreSQL: the connection, a read-only transaction, insufficient resources, intervention by an operator, errors of
#: the system.
CLASSES = ("08", "25006", "53", "57", "58")
#: MySQL and MariaDB: no room on the disk or in memory, a full table, read-only, the server ends or is gone.
NUMBERS = frozenset(
    {3, 5, 28, 126, 1005, 1021, 1026, 1037, 1038, 1040, 1041, 1053, 1114, 1290, 1792, 1836, 2006, 2013, 2055}
)
WORDS = ("full", "readonly", "read-only", "i/o error", "locked", "unable to open", "no such table", "malformed")


def _is_want_of_means(error: DatabaseError) -> bool:
    """Would the database refuse any row for this reason?"""
    state = getattr(error.__cause__, "sqlstate", None)
    if isinstance(state, str):
        return state.startswith(CLASSES)
    if error.args and isinstance(error.args[0], int):
        return error.args[0] in NUMBERS
    return any(word in str(error).lower() for word in WORDS)
