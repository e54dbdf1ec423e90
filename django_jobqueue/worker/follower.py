"""Follower: tells the jobs that wait of the ends of others, as soon as there are any."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection

from django.db import DatabaseError, InterfaceError

from ..dialects import Lane, get_dialect
from ..lifecycle import follow_up

logger = logging.getLogger(__name__)

#: Seconds until the next try when something went wrong.
RETRY = 1.0


class Follower(threading.Thread):
    """A thread and a connection of its own: what waits for ten thousand jobs must not hold up their outcomes."""

    def __init__(self, using: str, ready: Callable[[Collection[Lane]], None]) -> None:
        """``ready`` is called with the lanes in which jobs are in line now; with none too: a drain waits for that."""
        super().__init__(name="jobqueue-follower", daemon=True)
        self.using, self.ready = using, ready
        self._wake = threading.Event()
        self._stopping = threading.Event()

    def look(self) -> None:
        """There may be an end to tell of. Callable from any thread."""
        self._wake.set()

    def stop(self) -> None:
        """Have a last look, and end."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        with get_dialect(self.using).session():
            while not self._stopping.is_set():
                self._wake.wait()
                self._wake.clear()
                try:
                    self.ready(follow_up(self.using))
                except (DatabaseError, InterfaceError) as error:
                    logger.error("Jobs that wait cannot be told yet: %s", str(error).strip())
                    get_dialect(self.using).connection.close()
                    self._try_again()
                except Exception:
                    logger.exception("The follower stumbled; it goes on.")
                    self._try_again()

    def _try_again(self) -> None:
        self._stopping.wait(RETRY)
        self._wake.set()
