"""Copies: what a process that a job forks takes along of the worker: nothing.

A copy of the process has all that the worker has in memory, jobs claimed ahead among it, and of its threads the one
that forked. That thread must not go on with the next job, write outcomes, or end the database connections of the
worker, whose sockets the two share. So a copy starts with signals as any process has them, and without connections; it
ends where the function of the job does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, TextIO

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.signals import connection_created

#: Is this process a copy that a job of a worker has forked?
is_copy = False

#: Seconds that what a copy has written may take to leave it.
FLUSH = 1.0
#: What a worker handles, and its copies must not miss in the moment before they do not any more.
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]

_workers = 0
_clean_ups: list[Callable[[], None]] = []
#: By identity: a plain dictionary, which can be copied while another thread adds to it.
_wrappers: dict[int, weakref.ref[BaseDatabaseWrapper]] = {}
#: By thread, while it forks: the signals that it blocked before, and all connections, so that none is freed.
_forking: dict[int, tuple[Any, list[tuple[BaseDatabaseWrapper, Any]]]] = {}
#: The parent's connections, kept for ever: to free one may tell the server that it ends.
_inherited: list[Any] = []
_registered = False


@contextlib.contextmanager
def of_a_worker() -> Iterator[None]:
    """Around the life of a worker: what this process forks meanwhile is a copy that has to be let go."""
    global _workers, is_copy, _registered
    is_copy = False  # a copy may well run a worker of its own
    for connection in connections.all(initialized_only=True):
        _connected(connection)
    if not _registered and hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_copy)
        _registered = True
    _workers += 1
    try:
        yield
    finally:
        _workers -= 1
        if not _workers:
            _clean_ups.clear()


def in_copies(clean_up: Callable[[], None]) -> None:
    """Call this in each copy of the process. It may take no lock that another thread may have had."""
    _clean_ups.append(clean_up)


def _connected(connection: BaseDatabaseWrapper, **kwargs: Any) -> None:
    key = id(connection)
    if key not in _wrappers:
        _wrappers[key] = weakref.ref(connection, lambda _: _wrappers.pop(key, None))


connection_created.connect(_connected, dispatch_uid="django_jobqueue.copies")


# -- around a fork --------------------------------------------------------------------------------


def _before() -> None:
    if not _workers:
        return
    for stream in (sys.stdout, sys.stderr):  # or both write what waits there
        with contextlib.suppress(Exception):
            stream.flush()
    # A signal in between would be told to the parent, through the descriptor that both have.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    kept = [(one, one.connection) for ref in list(_wrappers.values()) if (one := ref()) is not None]
    _forking[threading.get_ident()] = blocked, kept


def _in_parent() -> None:
    blocked, _ = _forking.pop(threading.get_ident(), (None, None))
    if blocked is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _in_copy() -> None:
    global is_copy, _workers
    blocked, kept = _forking.get(threading.get_ident(), (None, []))
    if blocked is None:
        return
    is_copy, _workers = True, 0
    _inherited.append(dict(_forking))  # the connections of other threads that were forking too
    _forking.clear()
    _reset_signals()
    for connection, raw in kept:
        _detach(connection, raw)
    for clean_up in _clean_ups:
        with contextlib.suppress(Exception):
            clean_up()
    _clean_ups.clear()
    _leave_after_function()
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        if callable(signal.getsignal(number)) or signal.getsignal(number) is None:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)


def _detach(connection: BaseDatabaseWrapper, raw: Any) -> None:
    """Leave the connection to the parent, without a word to the server; the next use opens one of the copy's own."""
    pools = getattr(connection, "_connection_pools", None)
    _inherited.append((connection, raw, dict(pools or {})))
    if pools:
        pools.clear()
    connection.connection = None
    connection.savepoint_ids, connection.atomic_blocks, connection.run_on_commit = [], [], []
    connection.in_atomic_block = connection.needs_rollback = connection.closed_in_transaction = False


def _leave_after_function() -> None:
    """Of a thread of a pool, ``asyncio.to_thread`` for one: it would wait for the next function, for ever."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        item: Any = frame.f_locals.get("self") if frame.f_code.co_name == "run" else None
        if type(item).__name__ == "_WorkItem" and hasattr(item, "future"):
            item.future.set_result = lambda result: leave()
            item.future.set_exception = leave
            return
        frame = frame.f_back


# -- the end of a copy ----------------------------------------------------------------------------


def leave(error: BaseException | None = None) -> NoReturn:
    """End this process, as one ends whose main program returns or raises this; without what is only the parent's."""
    code = 1
    try:
        code = _code_of(error)
    finally:
        flush(FLUSH)
        os._exit(code)


def _code_of(error: BaseException | None) -> int:
    if error is None:
        return 0
    if not isinstance(error, SystemExit):
        traceback.print_exception(error)
        return 1
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    sys.stderr.write(f"{error.code}\n")
    return 1


def flush(seconds: float) -> None:
    """Write out what waits in the standard streams, if that can be done in so many seconds."""
    thread = threading.Thread(target=_flush, args=[(sys.stdout, sys.stderr)], daemon=True)
    with contextlib.suppress(RuntimeError):  # no thread can be started any more
        thread.start()
        thread.join(seconds)


def _flush(streams: tuple[TextIO | None, ...]) -> None:
    for stream in streams:
        if stream is not None:
            with contextlib.suppress(Exception):
                stream.flush()
