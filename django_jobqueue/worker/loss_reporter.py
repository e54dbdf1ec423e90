"""Loss reporter: tells the database which workers have died, so that their jobs need not wait for the lease.

In a thread, because a database that is away holds up whoever asks it, and the supervisor must hear its signals.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from django.db import DatabaseError, InterfaceError

from ..dialects import get_dialect
from ..lifecycle import give_up, reap
from ..logs import get_logger
from .recovery import Recovery

logger = get_logger(__name__)

#: Seconds between two tries, at most.
LONGEST_PAUSE = 30.0
#: Dead workers that are remembered until they have been reported, at most.
MANY = 10_000


class LossReporter:
    """Its thread lives only while there is something to report, and so does its connection."""

    def __init__(self, using: str) -> None:
        self.using = using
        self.recovery = Recovery(using)
        self._dead: set[int] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def report(self, worker_id: int) -> None:
        with self._lock:
            if len(self._dead) < MANY:  # what it does not report ends with its lease
                self._dead.add(worker_id)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="jobqueue-loss-reporter", daemon=True)
                self._thread.start()

    def join(self, seconds: float) -> None:
        if (thread := self._thread) is not None:
            thread.join(seconds)
            if thread.is_alive():
                logger.error("Lost jobs could not be given back now; they will be when the lease is over.")

    def _run(self) -> None:
        failures = 0
        while dead := self._next():
            try:
                with get_dialect(self.using).session():
                    give_up(dead, self.using)
                    reap(self.using)
            except (DatabaseError, InterfaceError) as error:
                logger.error("The jobs of dead workers cannot be given back yet: %s", str(error).strip())
            except Exception:
                logger.exception("The jobs of dead workers cannot be given back yet.")
            else:
                self._forget(dead)
                failures = 0
                continue
            self.recovery.pause(min(LONGEST_PAUSE, 0.5 * 2.0 ** min(failures, 10)), lambda: False)
            failures += 1

    def _next(self) -> list[int]:
        with self._lock:
            if not self._dead:
                self._thread = None
            return sorted(self._dead)

    def _forget(self, dead: Sequence[int]) -> None:
        with self._lock:
            self._dead.difference_update(dead)
