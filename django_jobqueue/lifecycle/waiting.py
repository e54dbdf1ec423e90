"""Waiting: until a job is over.

Whoever waits looks at the job's row, often at first and less and less often. On PostgreSQL a thread of the process
also listens, and wakes those whose job is said to have ended: then they look at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections

from ..dialects import get_dialect
from ..dialects.channel import END_LISTENERS, EndListener
from ..exceptions import WaitInTransaction
from ..logs import get_logger
from ..models import Job
from ..models.job import FINISHED
from .aside import PerDatabase, start_thread

logger = get_logger(__name__)

#: Seconds between two looks: a tenth of the time that one has waited, within these bounds.
SHORTEST, LONGEST = 0.01, 1.0
#: How often the workers are reminded that somebody waits, and for how long the thread stays without anybody.
REMIND, IDLE = 5.0, 5.0
#: Seconds until the next try after the listener has failed.
RETRY = 30.0


def wait_for_end(pk: int, using: str, timeout: float | None = None) -> bool:
    """Wait until the job is over; False if it is not by then. Raise ``Job.DoesNotExist`` if there is none (any more),
    ``WaitInTransaction`` where its end could never be seen.
    """
    if _is_over(pk, using):
        return True
    told = threading.Event()
    with _listening(pk, using, told.set):
        for pause in _pauses(timeout):
            told.wait(pause)
            told.clear()
            if _is_over(pk, using):
                return True
    return False


async def await_for_end(pk: int, using: str, timeout: float | None = None) -> bool:
    """The same for async code."""
    is_over = sync_to_async(_is_over)
    if await is_over(pk, using):
        return True
    told, loop = asyncio.Event(), asyncio.get_running_loop()
    with _listening(pk, using, lambda: loop.call_soon_threadsafe(told.set)):
        for pause in _pauses(timeout):
            with suppress(TimeoutError):
                await asyncio.wait_for(told.wait(), pause)
            told.clear()
            if await is_over(pk, using):
                return True
    return False


def _is_over(pk: int, using: str) -> bool:
    status = Job.objects.using(using).values_list("status", flat=True).get(pk=pk)
    if status in FINISHED:
        return True
    connection = connections[using]
    if connection.in_atomic_block or not connection.get_autocommit():
        raise WaitInTransaction(
            f"Job #{pk} is {status}, and its end could not be seen in this transaction: a job that was enqueued in it "
            "cannot even begin. Wait after the commit, outside of atomic()."
        )
    return False


def _pauses(timeout: float | None) -> Iterator[float]:
    began = time.monotonic()
    while True:
        waited = time.monotonic() - began
        pause = min(LONGEST, max(SHORTEST, waited / 10))
        if timeout is None:
            yield pause
        elif waited < timeout:
            yield min(pause, timeout - waited)
        else:
            return


# -- being told -----------------------------------------------------------------------------------


@contextmanager
def _listening(pk: int, using: str, wake: Callable[[], Any]) -> Iterator[None]:
    if get_dialect(using).name not in END_LISTENERS:
        yield
        return
    ear = _ears[using]
    ear.add(pk, wake)
    try:
        yield
    finally:
        ear.remove(pk, wake)


class Ear:
    """Listens for all who wait in this process for jobs of one database. Its thread lasts while there are any."""

    def __init__(self, using: str) -> None:
        self.using = using
        self._waiting: dict[int, list[Callable[[], Any]]] = {}
        self._fresh: set[int] = set()  # not announced yet
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._line: EndListener | None = None
        self._rests_until = 0.0
        self._ending = False

    def add(self, pk: int, wake: Callable[[], Any]) -> None:
        with self._lock:
            self._waiting.setdefault(pk, []).append(wake)
            self._fresh.add(pk)
            if self._thread is None and time.monotonic() >= self._rests_until:
                self._ending = False
                self._thread = start_thread(self._serve, "jobqueue-waiting")
            elif self._line is not None:
                self._line.interrupt()

    def remove(self, pk: int, wake: Callable[[], Any]) -> None:
        with self._lock:
            wakes = self._waiting.get(pk, [])
            if wake in wakes:
                wakes.remove(wake)
            if not wakes:
                self._waiting.pop(pk, None)
                self._fresh.discard(pk)

    def _serve(self) -> None:
        try:
            with closing(END_LISTENERS[get_dialect(self.using).name](self.using)) as line:
                self._line = line
                self._listen(line)
        except Exception as error:
            logger.debug("Nobody is told of the end of jobs, those who wait look by themselves: %s", error)
            self._rests_until = time.monotonic() + RETRY
        finally:
            with self._lock:
                if self._thread is threading.current_thread():
                    self._line = self._thread = None

    def _listen(self, line: EndListener) -> None:
        reminded = needed = time.monotonic()
        while not self._ending:
            now = time.monotonic()
            with self._lock:
                ids, self._fresh = self._fresh, set()
                if now - reminded > REMIND:
                    ids, reminded = set(self._waiting), now
                needed = now if self._waiting else needed
                if now - needed > IDLE:
                    self._line = self._thread = None  # at once: who comes now needs another thread
                    return
            if ids:
                line.announce(ids)
            for pk in line.wait(1.0):
                self._wake(pk)

    def _wake(self, pk: int) -> None:
        with self._lock:
            wakes = list(self._waiting.get(pk, ()))
        for wake in wakes:
            try:
                wake()
            except RuntimeError:  # its event loop has been closed
                logger.debug("Who waited for job #%s is gone.", pk)

    def end(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._ending, thread = True, self._thread
            if self._line is not None:
                self._line.interrupt()
        if thread is not None:
            thread.join(1.0)


_ears = PerDatabase(Ear, Ear.end)
