"""Link: what a supervisor and the worker in its child process tell each other.

Two pipes. The supervisor's end of the one asks to stop, and says by being closed, however the supervisor ended, that it
is gone. Through the other the worker tells who it is, so that its jobs can be given back at once if it dies, and now
and then that it is alive.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from ..logs import get_logger
from .copies import in_copies

if TYPE_CHECKING:
    from .worker import Worker

logger = get_logger(__name__)

#: Marks a supervisor's child, and names the ends of its pipes.
ENVIRONMENT = "DJANGO_JOBQUEUE_LINK"
#: With this exit code (EX_TEMPFAIL) a process asks for a fresh one in its place.
RECYCLE = 75

STOP, STOP_AT_ONCE = b"s", b"q"
LISTENING, REGISTERED, SIGNED_OFF, ALIVE = "listening", "registered", "signed_off", "alive"
#: How often a worker tells that it is alive: so many times in a lease.
BEATS_IN_A_LEASE = 6


class Link:
    """The worker's side."""

    def __init__(self, orders: int, reports: int) -> None:
        """``orders`` is where the supervisor writes, ``reports`` where it reads: file descriptors."""
        self._orders, self._reports = orders, reports
        os.set_blocking(reports, False)  # a supervisor that stands still must not hold up its workers

    @classmethod
    def from_environment(cls) -> Self | None:
        """The link of this process to its supervisor, if it has one."""
        # Taken out: a process that a job starts is nobody's child but the job's.
        ends = os.environ.pop(ENVIRONMENT, None)
        if ends is None:
            return None
        orders, reports = map(int, ends.split(","))
        for end in (orders, reports):
            os.set_inheritable(end, False)
        return cls(orders, reports)

    def attach(self, worker: Worker) -> None:
        """From now on the worker stops when the supervisor says so or is gone."""
        in_copies(self._let_go)
        threading.Thread(target=self._follow, args=[worker], name="jobqueue-link", daemon=True).start()
        self._tell(LISTENING)

    def registered(self, worker_id: int) -> None:
        self._tell(f"{REGISTERED} {worker_id}")

    def signed_off(self, worker_id: int) -> None:
        self._tell(f"{SIGNED_OFF} {worker_id}")

    def _follow(self, worker: Worker) -> None:
        """Hear orders, and tell between them that this thread gets its turn."""
        orders, pause = select.poll(), 1000 * worker.backend.config.lease / BEATS_IN_A_LEASE
        orders.register(self._orders, select.POLLIN)
        while True:
            if not orders.poll(pause):
                self._tell(ALIVE)
            elif order := os.read(self._orders, 1):
                (worker.stop_at_once if order == STOP_AT_ONCE else worker.stop)()
            else:
                break
        logger.warning("The supervisor is gone; the worker stops.")
        worker.stop()

    def _tell(self, line: str) -> None:
        # Nobody is left who wants to know, and the other pipe will say so; or nobody has read for very long.
        with suppress(BrokenPipeError, BlockingIOError):
            os.write(self._reports, f"{line}\n".encode())

    def _let_go(self) -> None:
        """In a copy of this process, which a job has forked: it is nobody the supervisor knows."""
        os.close(self._orders)
        os.close(self._reports)
