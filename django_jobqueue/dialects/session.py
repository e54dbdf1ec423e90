"""Session: how statements reach a database: in transactions, again after collisions, in sessions of a worker's own."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model, QuerySet

T = TypeVar("T")
M = TypeVar("M", bound=Model)
Row = Sequence[Any]

COLLISION_RETRIES = 20
#: A caller who is not one of the worker's threads is not kept longer than that by tries that may each wait for a lock.
PATIENCE = 10.0
#: Seconds that the server has for a statement of a worker's own, unless the worker says otherwise; and for how long it
#: has more, after a statement that took longer: it may have been at work, and would never come to an end.
ANSWER_WITHIN, LESS_HASTE, MOST_PATIENCE = 10.0, 600.0, 600.0


class Session:
    """Of one database alias; it holds no connection, so threads may share it."""

    #: The database's name in Django's words.
    name: ClassVar[str] = ""
    #: Error codes of collisions with another connection: the write was rolled back and is worth trying again.
    collisions: ClassVar[frozenset[Any]] = frozenset()

    #: A process that stalls must not keep what it has locked from the others: the server ends its session when a
    #: transaction has been idle for so many seconds. Nothing of ours waits that long between two statements.
    idle_in_transaction: ClassVar[int] = 10

    #: Seconds that the server has for a statement of a worker's own, before its connection counts as dead. A firewall
    #: that has forgotten it, or a server that has moved, says nothing: the system would wait for hours.
    patience = ANSWER_WITHIN

    #: Does a connection lead to one session of the server, no pooler in between? The worker says so, when it knows.
    direct = False

    def __init__(self, using: str) -> None:
        self.using = using
        self._own = threading.local()  # what a thread of the worker knows of its own session

    @property
    def connection(self) -> BaseDatabaseWrapper:
        return connections[self.using]

    def _rows(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            rows: list[Row] = cursor.fetchall()
            return rows

    # -- transactions ----------------------------------------------------------------------------

    def transact(self, write: Callable[[], T]) -> T:
        """``write()`` in a transaction; again after a collision, or once on another connection where this one turns out
        to be dead, if the transaction is ours alone.
        """
        is_written = False

        def in_transaction() -> T:
            nonlocal is_written
            is_written = False
            self.is_own()
            is_outermost = not self.connection.in_atomic_block
            with transaction.atomic(using=self.using):
                if is_outermost:
                    self.note_connection()
                result = write()
                is_written = True  # from here on nobody knows whether it was committed
            if is_outermost:
                self._own.connection = None
            return result

        return self.again_if_dead(lambda: self.again_after_collision(in_transaction), unless=lambda: is_written)

    def again_if_dead(self, do: Callable[[], T], unless: Callable[[], bool] = lambda: False) -> T:
        """``do()``; once more, on a new connection, if the one that it found turns out to be dead, unless it was in a
        transaction of the caller's.
        """
        connection = self.connection
        if connection.connection is None or connection.in_atomic_block:
            return do()
        try:
            return do()
        except (OperationalError, InterfaceError):
            if unless() or not self.was_cut():
                raise
            self.close()
        return do()

    def note_connection(self) -> None:
        """Remember the connection that the calling thread's transaction is in: if it is cut, Django opens another one
        at the end of the transaction, and nothing can be seen of the cut.
        """
        self._own.connection = self.connection.connection

    def was_cut(self) -> bool:
        """Was the calling thread's connection lost in the transaction that has just failed, or since?"""
        connection, noted = self.connection, getattr(self._own, "connection", None)
        if connection.connection is None or (noted is not None and connection.connection is not noted):
            return True
        try:
            return not connection.is_usable()
        except Exception:  # some drivers raise where others return False
            return True

    def close(self) -> None:
        """Close the calling thread's connection: the next statement opens another one."""
        self._own.connection = None
        self.connection.close()

    def transact_by_index(self, do: Callable[[], T]) -> T:
        """``transact`` for statements whose index is known, whatever the planner believes of the table."""
        return self.transact(do)

    def again_after_collision(self, write: Callable[[], T], before_retry: Callable[[], object] | None = None) -> T:
        """``write()``, which is one transaction of its own; again, a few times, if it collided with another.

        Never in a transaction of the caller's: it has been rolled back, or may have been, with what else is in it.
        """
        started, tries = time.monotonic(), 0
        while True:
            try:
                return write()
            except DatabaseError as error:
                tries += 1
                if not (self._may_try_again(tries, started) and self.is_collision(error)):
                    raise
            time.sleep(random.uniform(0.002, 0.05))  # two that collided must not come back in step
            if before_retry is not None:
                before_retry()

    def _may_try_again(self, tries: int, started: float) -> bool:
        connection = self.connection
        if tries > COLLISION_RETRIES or connection.in_atomic_block or not connection.autocommit:
            return False
        return getattr(self._own, "active", False) or time.monotonic() - started < PATIENCE

    def is_collision(self, error: DatabaseError) -> bool:
        """Was the write rolled back only because of another connection?"""
        return bool(error.args) and error.args[0] in self.collisions

    def is_locked_out(self, error: DatabaseError) -> bool:
        """Does somebody else hold the row, so that it may be written later?"""
        return self.is_collision(error)

    def is_refusal(self, error: Exception) -> bool:
        """Does the database refuse this very data, now and for ever?"""
        return isinstance(error, DataError | IntegrityError | ValueError | TypeError | ArithmeticError | AttributeError)

    def newest(self, rows: QuerySet[M]) -> QuerySet[M]:
        """The rows as they are now, in a transaction that may have begun long ago and waited for a lock."""
        return rows

    # -- a worker's own connections --------------------------------------------------------------

    @contextmanager
    def session(self) -> Iterator[None]:
        """Around all that one of the worker's own threads does; closes its connection at the end."""
        found = self.connection
        connections[self.using] = self._make_own(found)
        self._own.active = True
        try:
            yield
        finally:
            self._own.active = False
            self.connection.close()
            connections[self.using] = found

    def _make_own(self, like: Any) -> Any:
        """A connection that is nobody else's: it comes out of no pool, and does not wait for ever."""
        own: Any = type(like)(own_settings(like.settings_dict, self._defaults()), self.using)
        connect, patience, file = own.get_new_connection, Patience(self.patience), None

        def get_new_connection(params: dict[str, Any]) -> Any:
            nonlocal file
            if (file := file_of(own)) == MISSING:
                raise OperationalError(f"the database file {own.settings_dict['NAME']} is not there")
            raw = connect(self._with_limits(params, patience))
            self._watch_over(own, raw, patience)
            return raw

        def close_if_replaced() -> None:
            """In place of Django's check, and like that called for each cursor."""
            if own.connection is not None and file is not None and not own.in_atomic_block and file != file_of(own):
                own.close()

        own.get_new_connection, own.close_if_health_check_failed = get_new_connection, close_if_replaced
        return own

    def _defaults(self) -> dict[str, Any]:
        """Options of the driver for a worker's own connections, where the project's settings say nothing."""
        return {}

    def _with_limits(self, params: dict[str, Any], patience: Patience) -> dict[str, Any]:
        """What the driver is to connect with."""
        return params

    def _watch_over(self, connection: Any, raw: Any, patience: Patience) -> None:
        """See to it that nothing waits on this connection of the driver for longer than ``patience``."""

    def is_own(self) -> bool:
        """Has the calling thread a session of the server to itself? It is set up for us when that is asked first."""
        if not getattr(self._own, "active", False) or self._is_pooled():
            return False
        connection = self.connection
        connection.ensure_connection()
        if getattr(self._own, "set_up", None) is not connection.connection:
            if connection.in_atomic_block or not self._may_set_up():
                return False
            self._set_up(connection.connection)
            self._own.set_up = connection.connection
        return True

    def _is_pooled(self) -> bool:
        """Does a pooler stand in between, as far as is known? It may turn out at any time, so each statement asks."""
        return False

    def _may_set_up(self) -> bool:
        """Do the settings leave the session to us? Asked once for each connection."""
        return True

    def _set_up(self, raw: Any) -> None:
        """Prepare the session behind this connection of the driver."""


# -- connections that are replaced, or die without a word ------------------------------------------

#: In place of a file's identity.
MISSING = (0, 0)


def own_settings(settings: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    options = {**defaults, **without_pool(settings)}
    return {**settings, "OPTIONS": options, "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": False}


def without_pool(settings: dict[str, Any]) -> dict[str, Any]:
    """The project's options of the driver, for a connection that is nobody else's."""
    return {name: value for name, value in settings["OPTIONS"].items() if name != "pool"}


def file_of(connection: Any) -> tuple[int, int] | None:
    """The file that is now under the name of a SQLite database; None for one in memory, and for all other databases.

    Somebody may delete it and make another one: who has the old one open goes on with that, and nobody else sees it.
    """
    if connection.vendor != "sqlite":
        return None
    name = str(connection.settings_dict["NAME"])
    if name.startswith((":memory:", "file:")):
        return None
    try:
        found = os.stat(name)
    except OSError:
        return MISSING
    return found.st_dev, found.st_ino


class Patience:
    """For how long to wait on one connection; twice as long after each time that it was not long enough, for a while:
    a statement that is only slow must come to its end some time.
    """

    def __init__(self, seconds: float) -> None:
        self._least = self._seconds = seconds
        self._ran_out_at = 0.0

    @property
    def seconds(self) -> float:
        if self._seconds > self._least and time.monotonic() - self._ran_out_at > LESS_HASTE:
            self._seconds = self._least
        return self._seconds

    def run_out(self) -> None:
        self._seconds, self._ran_out_at = min(MOST_PATIENCE, self._seconds * 2), time.monotonic()


def limit(raw: Any, patience: Patience) -> None:
    """Let nothing wait for longer on this connection of psycopg's. It is closed when the time has run out."""
    wait = raw.wait

    def wait_a_while(generator: Any, *args: Any, **kwargs: Any) -> Any:
        return wait(_until(generator, raw, patience), *args, **kwargs)

    raw.wait = wait_a_while


@contextmanager
def limited(raw: Any, seconds: float) -> Iterator[None]:
    """``limit`` inside the block; nothing for other drivers."""
    if not hasattr(raw, "pgconn"):
        yield
        return
    limit(raw, Patience(seconds))
    try:
        yield
    finally:
        del raw.wait


def _until(generator: Any, raw: Any, patience: Patience) -> Generator[Any, Any, Any]:
    """What the driver's own generator yields and returns, while the time lasts. It is asked ten times a second."""
    end = time.monotonic() + patience.seconds
    try:
        wanted = next(generator)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > end:
                import psycopg

                seconds = patience.seconds
                patience.run_out()
                raw.pgconn.finish()
                raise psycopg.OperationalError(f"the server has not answered for {seconds:.0f} s")
            wanted = generator.send(ready)
    except StopIteration as end_of_it:
        return end_of_it.value
