"""Channel: how a sleeping worker learns that there may be jobs. PostgreSQL's NOTIFY, SQLite's data_version.

What is told is a hint and nothing more: a worker looks for itself, and looks now and then without being told.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector
from socket import socketpair
from typing import Any, NamedTuple, Protocol

from django.db import OperationalError, connections

from ..models import Job
from .records import Lane
from .session import without_pool
from .tables import FOR_A_SLOT

CHANNEL = "django_jobqueue"
#: Where those listen who wait for the end of a job.
DONE = "django_jobqueue_done"
#: PostgreSQL takes less than 8000 bytes.
PAYLOAD_LIMIT = 7900
PING = "ping "
#: In front of the numbers of jobs that somebody waits for.
AWAITED = "awaited "
#: So many numbers fit into one payload.
NUMBERS = 350
#: Seconds between two looks at SQLite's file: half of it is what a job waits on average.
LOOK = 0.04
#: Nanoseconds within which a file's time may stand still.
COARSE = 50_000_000
#: A job that is scheduled for so soon wakes workers as well: none of them sleeps longer without looking.
SOON = 10.0


class News(NamedTuple):
    """What a worker is told: the lanes that got jobs (none: look at all of them), or its own ping back, or the jobs
    that somebody waits for.
    """

    lanes: frozenset[Lane] = frozenset()
    ping: str = ""
    awaited: frozenset[int] = frozenset()


class Listener(Protocol):
    """The worker's end. Used by one thread."""

    #: Does it have to prove, by an answer to ``ping``, that it hears anything?
    answers: bool

    def __init__(self, using: str) -> None: ...

    def wait(self, seconds: float) -> list[News]:
        """The news, as soon as there are any; none if there were none for so long. Raise if the line is dead."""

    def close(self) -> None: ...


class Sender(Protocol):
    """The other end. Used by one thread at a time."""

    def __init__(self, using: str) -> None: ...

    def send(self, lanes: Collection[Lane]) -> None:
        """Wake the workers for these lanes; for none: for all."""

    def post(self, lanes: Collection[Lane]) -> None:
        """The same without waiting for the answer; ``settle`` has to follow."""

    def settle(self) -> None:
        """Wait for the answer to what was posted. Raise if it is an error."""

    def close(self) -> None: ...


def connect(using: str) -> Any:
    """The driver's own connection, not Django's: it belongs to no thread and to no test, and comes out of no pool."""
    wrapper = connections.create_connection(using)
    options = without_pool(wrapper.settings_dict)
    wrapper.settings_dict = {**wrapper.settings_dict, "OPTIONS": options}
    return wrapper.get_new_connection(wrapper.get_connection_params())


# -- PostgreSQL ----------------------------------------------------------------------------------


class NotifyListener:
    answers = True

    def __init__(self, using: str) -> None:
        self._connection = connect(using)
        self._connection.autocommit = True
        self._connection.execute(f"LISTEN {CHANNEL}")
        self._selector = DefaultSelector()
        self._selector.register(self._connection.fileno(), EVENT_READ)

    def wait(self, seconds: float) -> list[News]:
        # psycopg would wake up ten times a second to see whether somebody has pressed Ctrl-C.
        if not self._selector.select(seconds):
            return []
        return [decode(notify.payload) for notify in self._connection.notifies(timeout=0.1, stop_after=1)]

    def close(self) -> None:
        self._selector.close()
        self._connection.close()


class NotifySender:
    def __init__(self, using: str) -> None:
        self._connection = connect(using)
        self._connection.autocommit = True
        psycopg: Any = connections[using].Database  # type: ignore[attr-defined]
        self._escaping = psycopg.pq.Escaping(self._connection.pgconn)
        self._selector = DefaultSelector()
        self._selector.register(self._connection.fileno(), EVENT_READ)

    def send(self, lanes: Collection[Lane]) -> None:
        self.post(lanes)
        self.settle()

    def post(self, lanes: Collection[Lane]) -> None:
        # Not through a cursor, and no SELECT pg_notify(), which the server would have to plan: this goes on beside the
        # caller's own work, and somebody waits for it. It writes nothing, so its commit waits for no disk.
        connection = self._connection.pgconn
        payload = self._escaping.escape_literal(encode(lanes).encode())
        connection.send_query(b"NOTIFY %s, %s" % (CHANNEL.encode(), payload))
        if connection.flush():
            raise OperationalError("the connection takes nothing")  # it was idle, and this is short

    def settle(self) -> None:
        connection, error = self._connection.pgconn, b""
        while True:
            while connection.is_busy():
                self._selector.select()
                connection.consume_input()
            if (result := connection.get_result()) is None:
                break
            error = error or result.error_message
        if error:
            raise OperationalError(error.decode(errors="replace"))

    def close(self) -> None:
        self._selector.close()
        self._connection.close()


def ping(using: str, token: str) -> None:
    """Send the token to all listeners, over the calling thread's own connection."""
    with connections[using].cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, %s)", [CHANNEL, PING + token])


def encode(lanes: Collection[Lane]) -> str:
    payload = json.dumps(sorted(lanes), separators=(",", ":")) if lanes else ""
    return payload if len(payload) <= PAYLOAD_LIMIT else ""


def decode(payload: str) -> News:
    if payload.startswith(PING):
        return News(ping=payload.removeprefix(PING))
    try:
        if payload.startswith(AWAITED):
            return News(awaited=frozenset(map(int, payload.removeprefix(AWAITED).split())))
        return News(frozenset(Lane(str(name), int(priority)) for name, priority in json.loads(payload)))
    except (ValueError, TypeError, RecursionError):  # too many lanes for one payload, or not from us
        return News()


# -- SQLite --------------------------------------------------------------------------------------

# Any commit moves the counter, also those of the worker itself. So this connection looks before it wakes anybody.
ANYTHING = f"""
SELECT EXISTS (SELECT 1 FROM {Job._meta.db_table} WHERE status = 'READY' AND place IS NOT NULL)
    OR EXISTS (SELECT 1 FROM {Job._meta.db_table} WHERE status = 'READY' AND place IS NULL
               AND run_after < STRFTIME('%Y-%m-%d %H:%M:%f', 'NOW', '+{SOON} seconds'))
    OR EXISTS (SELECT 1 FROM {Job._meta.db_table} WHERE {FOR_A_SLOT})
"""


class DataVersionListener:
    """Looks at the file's time every few milliseconds, and at the counter when it has changed.

    The counter is exact, but to read it takes and frees locks: an idle worker would do little else.
    """

    answers = False

    def __init__(self, using: str) -> None:
        self._connection = connect(using)
        ((_, _, path), *_) = self._connection.execute("PRAGMA database_list").fetchall()
        log = "-wal" if self._ask("PRAGMA journal_mode") == "wal" else ""
        self._file = path and path + log  # there is none in memory
        self._written = 0
        self._seen = self._ask("PRAGMA data_version")

    def wait(self, seconds: float) -> list[News]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(LOOK)
            if self._is_touched() and self._is_news():
                return [News()]
        return [News()] if self._is_news() else []  # whatever the files say

    def _is_touched(self) -> bool:
        before = self._written
        try:
            self._written = os.stat(self._file).st_mtime_ns
        except OSError:
            return True
        # Such a time is some milliseconds long: what was written just now may be followed by more with the same time.
        return before != self._written or time.time_ns() - before < COARSE

    def _is_news(self) -> bool:
        before, self._seen = self._seen, self._ask("PRAGMA data_version")
        return before != self._seen and bool(self._ask(ANYTHING))

    def _ask(self, sql: str) -> Any:
        # all rows: a cursor that was not read to its end would hold on to a snapshot
        return self._connection.execute(sql).fetchall()[0][0]

    def close(self) -> None:
        self._connection.close()


# -- the end of jobs -----------------------------------------------------------------------------


class EndListener(Protocol):
    """The end of those who wait for jobs. ``interrupt`` may be called by any thread, the others by one."""

    def __init__(self, using: str) -> None: ...

    def announce(self, ids: Collection[int]) -> None:
        """Let the workers know that somebody waits for these jobs."""

    def wait(self, seconds: float) -> list[int]:
        """The jobs that are said to have ended, as soon as there are any, or after an ``interrupt``."""

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class NotifyEndListener:
    def __init__(self, using: str) -> None:
        self._connection = connect(using)
        self._connection.autocommit = True
        self._connection.execute(f"LISTEN {DONE}")
        self._here, self._there = socketpair()
        self._here.setblocking(False)
        self._selector = DefaultSelector()
        for each in (self._connection, self._here):
            self._selector.register(each.fileno(), EVENT_READ)

    def announce(self, ids: Collection[int]) -> None:
        for payload in _numbers(ids):
            self._connection.execute("SELECT pg_notify(%s, %s)", [CHANNEL, AWAITED + payload])

    def wait(self, seconds: float) -> list[int]:
        self._selector.select(seconds)
        with suppress(BlockingIOError):
            self._here.recv(4096)
        # with a timeout of 0 psycopg takes what has arrived, also with the answer to another statement
        told = [notify.payload.split() for notify in self._connection.notifies(timeout=0)]
        return [int(number) for numbers in told for number in numbers if number.isdecimal()]

    def interrupt(self) -> None:
        with suppress(OSError):
            self._there.send(b"x")

    def close(self) -> None:
        self._selector.close()
        self._here.close()
        self._there.close()
        self._connection.close()


def tell_end(using: str, ids: Collection[int]) -> None:
    """Say that these jobs have ended, over the calling thread's own connection."""
    with connections[using].cursor() as cursor:
        for payload in _numbers(ids):
            cursor.execute("SELECT pg_notify(%s, %s)", [DONE, payload])


def _numbers(ids: Collection[int]) -> list[str]:
    rest = sorted(ids)
    return [" ".join(map(str, rest[start : start + NUMBERS])) for start in range(0, len(rest), NUMBERS)]


END_LISTENERS: dict[str, type[EndListener]] = {"postgresql": NotifyEndListener}
LISTENERS: dict[str, type[Listener]] = {"postgresql": NotifyListener, "sqlite": DataVersionListener}
SENDERS: dict[str, type[Sender]] = {"postgresql": NotifySender}
