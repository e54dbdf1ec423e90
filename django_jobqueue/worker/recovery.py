"""Recovery: whether the database is there, for all threads of a process: one asks, and tells the others.

While each thread tried for itself with pauses of its own, the last one came back long after the database. So a thread
that has an error asks here whether the database is away. As long as it is, one thread asks again and again, at short
intervals, and all others wait for its answer.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from ..dialects.asking import PATIENCE, problem_of
from ..logs import get_logger

logger = get_logger(__name__)

#: Seconds between two questions while the database is away: the first while it has not been for long, as when it is
#: restarted.
SOON, LATER = 0.25, 1.0
#: They grow with the time that it has been away, by this part of it.
SHARE = 0.05
#: How often a thread that waits sees whether it has to stop.
GLANCE = 0.25


class Recovery:
    """For one database. Any thread may use it."""

    def __init__(self, using: str) -> None:
        self.using = using
        #: Is the database away, as far as is known?
        self.away = False
        #: Called when it is back, by the thread that has found that.
        self.came_back: list[Callable[[], None]] = []
        self._changed = threading.Condition()
        self._asked = self._answered = self._found_away = 0  # numbers of questions
        self._is_asking = False

    def is_away(self) -> bool:
        """Ask the database, with a question that begins now. For who has an error and must know what it means.

        True also if it has come back since: the error is explained.
        """
        with self._changed:
            self._asked += 1
            mine = self._asked
            if not self._is_asking:
                self._is_asking = True
                threading.Thread(target=self._ask, name="jobqueue-recovery", daemon=True).start()
            if not self._changed.wait_for(lambda: self._answered >= mine, 2 * PATIENCE):
                self.away, self._found_away = True, self._asked
            return self._found_away >= mine

    def pause(self, seconds: float, stopping: Callable[[], bool]) -> None:
        """After an error of the database: wait until it is back, or for so long if it is there, or until ``stopping``
        says so.
        """
        if self.is_away():
            self.wait(stopping)
        else:
            end = time.monotonic() + seconds
            while not stopping() and (left := end - time.monotonic()) > 0:
                time.sleep(min(left, GLANCE))

    def wait(self, stopping: Callable[[], bool]) -> None:
        """Until the database is not away any more."""
        with self._changed:
            while self.away and not stopping():
                self._changed.wait(GLANCE)

    def note_there(self) -> None:
        """A statement has succeeded. For those who do not wait while the database is away."""
        if self.away:
            with self._changed:
                self._tell(None)

    # -- the thread that asks --------------------------------------------------------------------

    def _ask(self) -> None:
        since = time.monotonic()
        while True:
            with self._changed:
                asked = self._asked
            problem = problem_of(self.using)
            with self._changed:
                self._tell(problem)
                self._answered = max(self._answered, asked)
                if problem is not None:
                    self._found_away = asked
                self._changed.notify_all()
                if problem is None and self._answered >= self._asked:
                    self._is_asking = False
                    return
            if problem is not None:
                longest = min(LATER, max(SOON, SHARE * (time.monotonic() - since)))
                time.sleep(longest * random.uniform(0.75, 1.25))

    def _tell(self, problem: Exception | None) -> None:
        was, self.away = self.away, problem is not None
        if self.away and not was:
            logger.error("The database is away: %s", str(problem).strip())
        elif was and not self.away:
            logger.info("The database is back.")
            self._changed.notify_all()
            for call in self.came_back:
                call()
