"""Session: how statements reach a database: in transactions, again after collisions, in sessions of a worker's own."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

from django.db import DatabaseError, DataError, IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Model, QuerySet

T = TypeVar("T")
M = TypeVar("M", bound=Model)
Row = Sequence[Any]

COLLISION_RETRIES = 20
#: A caller who is not one of the worker's threads is not kept longer than that by tries that may each wait for a lock.
PATIENCE = 10.0


class Session:
    """Of one database alias; it holds no connection, so threads may share it."""

    #: The database's name in Django's words.
    name: ClassVar[str] = ""
    #: Error codes of collisions with another connection: the write was rolled back and is worth trying again.
    collisions: ClassVar[frozenset[Any]] = frozenset()

    #: A process that stalls must not keep what it has locked from the others: the server ends its session when a
    #: transaction has been idle for so many seconds. Nothing of ours waits that long between two statements.
    idle_in_transaction: ClassVar[int] = 10

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
        """``write()`` in a transaction; again after a collision, if the transaction is ours alone."""

        def in_transaction() -> T:
            self.is_own()
            is_outermost = not self.connection.in_atomic_block
            with transaction.atomic(using=self.using):
                if is_outermost:
                    self.note_connection()
                result = write()
            if is_outermost:
                self._own.connection = None
            return result

        return self.again_after_collision(in_transaction)

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
        self._own.active = True
        try:
            yield
        finally:
            self._own.active = False
            self.connection.close()

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
