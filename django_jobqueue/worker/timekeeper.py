"""Timekeeper: interrupts what runs for too long, and reports what does not react to its interrupt.

One thread for a worker, and none before the first job that needs it. A table rather than a heap: there are never more
entries than running jobs, those that end in time leave nothing behind, and the thread wakes once in a time limit.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from ..interrupts import Interrupt, JobTimeout
from ..lifecycle import Run
from ..logs import get_logger
from .interrupting import interrupt

logger = get_logger(__name__)

#: Seconds that a task has for its end once it has been interrupted.
TIMEOUT_GRACE = 10.0
#: Deadlines that are closer to each other than this many seconds are seen to together.
RESOLUTION = 0.005

Moment = tuple[float, Run, Callable[[Run], None]]


class Timekeeper:
    def __init__(self, overdue: Callable[[Run], None], grace: float = TIMEOUT_GRACE) -> None:
        """``overdue`` is called for a run whose task still runs ``grace`` seconds after it has been interrupted."""
        self.overdue, self.grace = overdue, grace
        #: What is to be done when, by run.
        self.moments: dict[int, Moment] = {}
        self._wake = threading.Event()
        self._wakes_at = float("inf")
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def limit(self, run: Run, seconds: float) -> None:
        """The task is interrupted when it has run for so many seconds; ``forget`` it when it has ended."""
        assert run.started is not None
        self._at(run.started + seconds, run, self._time_out)

    def forget(self, run: Run) -> None:
        self.moments.pop(id(run), None)

    def interrupt(self, run: Run, kind: type[Interrupt]) -> bool:
        """As the function of this name, and see to it that the task reacts."""
        if not interrupt(run, kind):
            return False
        self._at(time.monotonic() + self.grace, run, self._report)
        if run.ended is not None:
            self.forget(run)  # it may have ended, and been forgotten, just before
        return True

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    def _time_out(self, run: Run) -> None:
        if self.interrupt(run, JobTimeout):
            logger.debug("%s has run for too long and is interrupted.", run.job)

    def _report(self, run: Run) -> None:
        if run.ended is None:
            self.overdue(run)

    # -- the thread ------------------------------------------------------------------------------

    def _at(self, when: float, run: Run, act: Callable[[Run], None]) -> None:
        self.moments[id(run)] = when, run, act
        if when < self._wakes_at:
            self._wake.set()
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="jobqueue-timekeeper", daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        while not self._closed:
            self._wake.clear()
            self._wakes_at = float("inf")  # what comes from now on wakes us again
            now = time.monotonic()
            moments = list(self.moments.values())
            for moment in moments:
                if moment[0] <= now:
                    self._see_to(moment)
            to_come = [moment[0] for moment in moments if moment[0] > now]
            if to_come:
                self._wakes_at = min(to_come)
            self._wake.wait(max(RESOLUTION, self._wakes_at - now) if to_come else None)

    def _see_to(self, moment: Moment) -> None:
        run = moment[1]
        if self.moments.get(id(run)) is not moment:
            return
        self.forget(run)
        try:
            moment[2](run)
        except Exception:
            logger.exception("%s has run for too long, and cannot be stopped.", run.job)
