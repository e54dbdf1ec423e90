"""Connections: how long those of a thread that runs jobs live, and what one job leaves in them for the next: nothing.

Django closes connections at the end of a request, for it knows no other moment. A worker keeps those of a thread for
``OPTIONS["CONN_MAX_AGE"]``, verifies them before a job uses them, and discards those in which a job has left something.
"""

from __future__ import annotations

import select
import time
import weakref
from contextlib import suppress
from functools import cache
from typing import Any

from django.conf import settings
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from ..dialects.session import file_of, limited
from ..middleware.database_connections import begin_without
from .leftovers import logger, roll_back_leftovers
from .session_state import changes_session

#: A connection that was used so many seconds ago is used again unseen; up to the second number it is enough that the
#: server has not hung up, which the socket tells; then the server is asked, for a firewall may have forgotten it.
TRUSTED, LIKELY = 0.05, 1.0

#: Seconds that the server has for its answer to that.
PATIENCE = 5.0

#: libpq's word for a session in no transaction.
IDLE = 0
#: What PostgreSQL tells of its own accord when it changes, also from within a function.
TOLD = (b"TimeZone", b"session_authorization", b"is_superuser", b"search_path", b"DateStyle", b"client_encoding")
#: What Django's own backends put on a connection when it connects.
LATE = frozenset({"isolation_level", "init_commands", "transaction_mode"})
#: Values that can be compared; others are objects that change inside.
SIMPLE = (str, int, float, bytes, tuple, type(None))


class Keeper:
    """Keeps the connections of one thread; made, and used, in that thread."""

    def __init__(self, max_age: float | None, *, with_cursors: bool = False) -> None:
        """``max_age`` in seconds; None: for ever; 0: as DATABASES says. ``with_cursors``: they matter to is_clean."""
        self.max_age, self.with_cursors = max_age, with_cursors
        self.kept: dict[str, Kept] = {}
        self._opened = begin_without(self._connected)
        # These may carry state of their own without ever having connected.
        self._foreign = [alias for alias in connections if not is_djangos(alias)]

    def before(self) -> None:
        """Before a job: what it uses is verified when it uses it."""
        for kept in self.kept.values():
            kept.connection.health_check_done = False

    def after(self, culprit: object) -> None:
        """After a job: nothing of it is left in a connection. It never raises."""
        if self.kept:
            for kept in self.kept.values():
                kept.spoil()
            roll_back_leftovers(culprit)
            for kept in [*self.kept.values()]:
                try:
                    if not kept.settle():
                        self._discard(kept.connection)
                except Exception:
                    logger.exception("The connection %r cannot be used after %s.", kept.connection.alias, culprit)
                    self._discard(kept.connection)
        if self._foreign:
            self._look_at_foreign()

    def is_clean(self) -> bool:
        """Could a job go on in another thread, as far as connections tell?"""
        return not any(kept.is_held() for kept in self.kept.values())

    def expires_in(self) -> float | None:
        """Seconds until the first connection has to be closed though nobody uses it; None: there is none such."""
        ends = [kept.closes_at for kept in self.kept.values() if kept.connection.connection is not None]
        known = [end for end in ends if end is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None

    def close_expired(self) -> None:
        for kept in self.kept.values():
            if kept.closes_at is not None and time.monotonic() >= kept.closes_at:
                with suppress(Exception):
                    kept.connection.close()

    def close(self) -> None:
        """The thread ends."""
        for connection in connections.all(initialized_only=True):
            with suppress(Exception):
                connection.close()

    def _connected(self, connection: BaseDatabaseWrapper) -> None:
        kept = self.kept.get(connection.alias)
        if kept is None or kept.connection is not connection:
            self.kept[connection.alias] = kept = Kept(connection, with_cursors=self.with_cursors)
        kept.connected(self.max_age)

    def _discard(self, connection: BaseDatabaseWrapper) -> None:
        """Close it, and forget what Django knows of it too: the next job makes another one."""
        alias = connection.alias
        if alias in self.kept:
            self.kept[alias].spoil(always=True)
        with suppress(Exception):
            connection.close()
        self.kept.pop(alias, None)
        self._opened.pop(alias, None)
        if connections[alias] is connection:
            del connections[alias]

    def _look_at_foreign(self) -> None:
        for connection in connections.all(initialized_only=True):
            if connection.alias not in self._foreign:
                continue
            try:
                if is_marked(connection):
                    self._discard(connection)
            except Exception:
                logger.exception("It is not known what is left in the connection %r.", connection.alias)
                self._discard(connection)


class Kept:
    """One connection of Django's, over all the sessions of the server that it has one after another."""

    def __init__(self, connection: Any, *, with_cursors: bool = False) -> None:
        self.connection = connection
        #: When it is to be closed, used or not, by the monotonic clock; None: never for its age.
        self.closes_at: float | None = None
        self._is_changed = False
        self._autocommit = connection.settings_dict["AUTOCOMMIT"]
        self._is_pooled = bool(pool_of(connection))
        self._used_at = 0.0
        self._told: tuple[Any, ...] = ()
        self._connecting: Any = None
        self._file: Any = None
        #: Of the job so far, where it may go on in another thread.
        self._cursors: list[weakref.ref[Any]] | None = [] if with_cursors else None
        self._attributes = 0  # not looked at yet: the job may have put something there before it connected
        connection.execute_wrappers.insert(0, self._watch)
        connection.close_if_health_check_failed = self._verify
        self._wrappers = [self._watch]

    def connected(self, max_age: float | None) -> None:
        """It has a new session, or is about to have: other receivers of the signal may still set it up."""
        connection = self.connection
        self._is_changed, self._used_at = False, time.monotonic()
        self._connecting = connection.run_on_commit  # connect() replaces the list as the last thing that it does
        self._file = file_of(connection)
        if max_age != 0 and not self._is_pooled:
            self.closes_at = connection.close_at = None if max_age is None else self._used_at + max_age

    def is_held(self) -> bool:
        """Has the job something here that it needs again: a transaction, a cursor, what it has set?"""
        connection = self.connection
        if self._cursors is not None:
            self._cursors = [cursor for cursor in self._cursors if cursor() is not None]
        if connection.connection is None:
            return False
        return bool(connection.in_atomic_block or self._is_changed or self._cursors or self._is_in_transaction())

    def spoil(self, *, always: bool = False) -> None:
        """Let the pool give a session to nobody else in which the job has changed something."""
        if self._is_pooled and (always or self._is_changed) and self.connection.connection is not None:
            with suppress(Exception):
                self.connection.connection.close()

    def settle(self) -> bool:
        """See to the session after a job. Return whether the next job may have it."""
        connection = self.connection
        if connection.execute_wrappers != self._wrappers or connection.force_debug_cursor:
            return False
        if len(vars(connection)) != self._attributes:
            self._attributes = len(vars(connection))
            if is_marked(connection):
                return False
        if connection.queries_log:
            connection.queries_log.clear()  # else those of all jobs pile up
        if connection.connection is None:
            return True
        now = time.monotonic()
        if connection.health_check_done:  # it was used
            self._used_at = now
            if self._cursors:
                self._cursors = []
            if (
                self._is_changed
                or is_closed(connection.connection)
                or self._is_in_transaction()
                or self._is_told_otherwise()
            ):
                return False
        if connection.errors_occurred and not self._has_recovered():
            return False
        if connection.close_at is not None and now >= connection.close_at:
            connection.close()
        return True

    def _watch(self, execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
        connection = self.connection
        if self._connecting is not None and self._connecting is not connection.run_on_commit:
            self._connecting, self._told = None, told_by(connection)
        if self._cursors is not None:
            self._cursors.append(weakref.ref(context["cursor"]))
        if not self._is_changed and self._connecting is None and changes_session(connection.vendor, sql):
            self._is_changed = True
        return execute(sql, params, many, context)

    def _is_in_transaction(self) -> bool:
        """In one that Django may know nothing of: a statement has begun it."""
        raw = self.connection.connection
        if (pgconn := getattr(raw, "pgconn", None)) is not None:
            return bool(self._autocommit and pgconn.transaction_status != IDLE)
        return bool(self._autocommit and getattr(raw, "in_transaction", False))

    def _is_told_otherwise(self) -> bool:
        return self._connecting is None and told_by(self.connection) != self._told

    def _has_recovered(self) -> bool:
        with limited(self.connection.connection, PATIENCE):
            usable = self.connection.is_usable()
        self.connection.errors_occurred = self.connection.errors_occurred and not usable
        return bool(usable)

    # -- before it is used -----------------------------------------------------------------------

    def _verify(self) -> None:
        """In place of Django's own check, which asks the server each time: called for each cursor."""
        connection = self.connection
        if connection.health_check_done or connection.connection is None:
            return
        connection.health_check_done = True
        if not connection.in_atomic_block and not self._is_fresh():
            with suppress(Exception):
                connection.close()
            connection.connection = None

    def _is_fresh(self) -> bool:
        connection = self.connection
        if self._file is not None or connection.vendor == "sqlite":
            return bool(self._file == file_of(connection))
        if self._is_pooled:  # which has its own checks
            return True
        idle = time.monotonic() - self._used_at
        if idle < TRUSTED or (idle < LIKELY and not has_news(connection.connection)):
            return True
        with limited(connection.connection, PATIENCE):
            return bool(connection.is_usable())


# -- what connections tell ------------------------------------------------------------------------


def pool_of(connection: Any) -> Any:
    """What its settings say of a pool: with one, a connection goes back to it after each job."""
    return connection.settings_dict["OPTIONS"].get("pool")


def is_closed(raw: Any) -> bool:
    """Has the job closed the driver's connection behind Django's back?"""
    return bool(getattr(raw, "closed", False)) or not getattr(raw, "open", True)


def has_news(raw: Any) -> bool:
    """Has the server sent something unasked, such as that it hangs up? True if that cannot be known."""
    try:
        number = raw.fileno() if hasattr(raw, "fileno") else raw._sock.fileno()
        poll = select.poll()
        poll.register(number, select.POLLIN)
        return bool(poll.poll(0))
    except Exception:
        return True


def told_by(connection: Any) -> tuple[Any, ...]:
    """What PostgreSQL tells of its own accord when it changes, also within a function; nothing elsewhere."""
    pgconn = getattr(connection.connection, "pgconn", None)
    return () if pgconn is None else tuple(map(pgconn.parameter_status, TOLD))


# -- Python's side of a connection -----------------------------------------------------------------


def is_djangos(alias: str) -> bool:
    """Is the database used through a backend of Django's own, which knows no state but the server's?"""
    return str(settings.DATABASES[alias]["ENGINE"]).startswith("django.")


def is_marked(connection: Any) -> bool:
    """Has somebody put something on the connection, the tenant for example, or changed what its backend put there?"""
    before = untouched(connection.alias)
    kind: Any = type(connection)
    own = _names_of(kind)
    for name, value in vars(connection).items():
        if name in own:
            continue
        if name not in before or (isinstance(before[name], SIMPLE) and before[name] != value):
            return True
    return False


@cache
def untouched(alias: str) -> dict[str, Any]:
    return dict(vars(connections.create_connection(alias)))


@cache
def _names_of(kind: Any) -> frozenset[str]:
    """The attributes that are Django's, or that a class computes when it is first asked."""
    names = {name for base in kind.__mro__ for name in vars(base)}
    djangos = next(base for base in kind.__mro__ if base.__module__.startswith("django."))
    instance = djangos(next(iter(connections.settings.values())), "default")
    return frozenset(names | set(vars(instance)) | LATE)
