"""Supervisor: the parent of workers. It runs no jobs; it starts worker processes, and replaces those that end.

Its children are new processes, not copies of it: nothing is inherited but two pipes (see ``link``). A copy would share
database connections and TLS state with its siblings, and lack the threads that libraries have started.
"""

from __future__ import annotations

import logging
import os
import random
import selectors
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..logs import get_logger
from .children import Child, command_line, how_it_ended
from .completer import human
from .link import RECYCLE
from .loss_reporter import LossReporter
from .signals import ENDING, SignalPipe

logger = get_logger(__name__)

#: Where a child has ended before it had settled, the next waits for 1, 2, 4, … seconds, and no more than this.
LONGEST_PAUSE = 30.0
#: Seconds beyond the time for a graceful stop, and after a stop at once, until what is left is killed.
KILL_AFTER = 10.0
#: Seconds that the supervisor itself may be late before it takes that for a standstill of the machine.
STANDSTILL = 1.0
#: Seconds that the end of the supervisor waits for the jobs of the dead to be given back.
LAST_REPORT = 5.0


@dataclass(slots=True, eq=False)
class Place:
    """Where there is to be a child: now, or at a time, or never again."""

    child: Child | None = None
    due: float | None = field(default_factory=time.monotonic)
    #: How many children in a row have ended here too soon.
    failures: int = 0

    def pause(self, child: Child) -> float:
        """Seconds until the next child: none after one that had settled, longer after each that had not."""
        if child.is_settled or (child.code == RECYCLE and child.worker_id is not None):
            self.failures = 0
            return 0.0
        return self.pause_after_failure()

    def pause_after_failure(self) -> float:
        self.failures += 1
        return float(min(LONGEST_PAUSE, 2.0 ** min(self.failures - 1, 10)) * random.uniform(0.75, 1.0))


class Supervisor:
    """``run()`` it in the main thread: it works by signals, and sleeps until there is one."""

    def __init__(
        self,
        processes: int,
        using: str,
        *,
        shutdown_timeout: float,
        drain: bool,
        lease: float = 30.0,
        command: Sequence[str] | None = None,
    ) -> None:
        """``drain``: a child that ends well and by itself is not replaced. ``lease``: how long it may be silent."""
        self.using, self.shutdown_timeout, self.drain, self.lease = using, shutdown_timeout, drain, lease
        self.command = command or command_line()
        self.places = [Place() for _ in range(processes)]
        self.reporter = LossReporter(using)
        self.exit_code = 0
        self._selector = selectors.DefaultSelector()
        self._signals = self._heeded = 0
        #: When this process meant to look at its children again, at the latest.
        self._looks_by = float("inf")
        #: When to kill what has not stopped; None: nobody has been told to.
        self._deadline: float | None = None
        #: Has any child ever registered?
        self._proved = False

    def run(self) -> int:
        """Until told to stop, or drained; what the process should end with."""
        logger.info("Supervisor: process %d keeps %d workers.", os.getpid(), len(self.places))
        with self._awake_on_signals():
            while self._tend():
                self._wait()
            self.reporter.join(LAST_REPORT)
        logger.info("Supervisor: stopped.")
        return self.exit_code

    def _tend(self) -> bool:
        """Do what is to be done now; False when nothing will be any more."""
        self._heed_signals()
        self._bury_the_dead()
        self._kill_the_silent()
        self._kill_the_late()
        self._start_the_due()
        return any(place.child is not None or place.due is not None for place in self.places)

    # -- sleep -----------------------------------------------------------------------------------

    @contextmanager
    def _awake_on_signals(self) -> Iterator[None]:
        """Each signal ends the sleep: also one that comes just before it."""
        with SignalPipe([*ENDING, signal.SIGCHLD]) as signals:
            self._selector.register(signals, selectors.EVENT_READ, signals)
            try:
                yield
            finally:
                self._selector.close()

    def _wait(self) -> None:
        left = self._time_left()
        self._looks_by = float("inf") if left is None else time.monotonic() + left
        for key, _ in self._selector.select(left):
            if isinstance(key.data, SignalPipe):
                self._signals += sum(number in ENDING for number in key.data.read())
            elif not key.data.listen():
                self._selector.unregister(key.fd)

    def _time_left(self) -> float | None:
        """Seconds until there is something to do even if nothing happens."""
        times = [place.due for place in self.places if place.due is not None]
        if self._deadline is not None and any(not child.killed for child in self._children()):
            times.append(self._deadline)
        times += [at for child in self._children() if (at := child.silent_at(self.lease)) is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _children(self) -> list[Child]:
        return [place.child for place in self.places if place.child is not None]

    # -- start -----------------------------------------------------------------------------------

    def _start_the_due(self) -> None:
        for place in self.places:
            if place.due is not None and place.due <= time.monotonic():
                self._start(place)

    def _start(self, place: Place) -> None:
        try:
            child = Child(self.command)
        except OSError as error:
            pause = place.pause_after_failure()
            place.due = time.monotonic() + pause
            logger.error("Supervisor: cannot start a process: %s; tries again in %s.", error, human(pause))
            return
        place.child, place.due = child, None
        self._selector.register(child.reports, selectors.EVENT_READ, child)
        logger.debug("Supervisor: started %s.", child)

    # -- end -------------------------------------------------------------------------------------

    def _bury_the_dead(self) -> None:
        for place in self.places:
            if place.child is not None and place.child.code is not None:
                self._bury(place, place.child)

    def _bury(self, place: Place, child: Child) -> None:
        place.child = None
        if child.reports in self._selector.get_map():
            self._selector.unregister(child.reports)
        child.bury()
        self._proved |= any(other.worker_id is not None for other in (child, *self._children()))
        if child.worker_id is not None and not child.signed_off:
            self.reporter.report(child.worker_id)
        then = self._follow_up(place, child)
        level = logging.INFO if child.ended_well or child.code == RECYCLE else logging.ERROR
        logger.log(level, "Supervisor: %s %s; %s.", child, how_it_ended(child), then)

    def _follow_up(self, place: Place, child: Child) -> str:
        """Decide what becomes of the place; the words for it."""
        if self._deadline is not None:
            self.exit_code = self.exit_code or int(not child.ended_well)
            return "stopping"
        if not self._proved and child.code is not None and child.code >= 0:
            # As a single worker would: whoever started it wants to see it fail.
            self.exit_code = 1
            self._stop(at_once=False)
            return "no worker has come so far as to register, so there will be no other"
        if self.drain and child.code == 0 and child.signed_off:
            return "drained"
        pause = place.pause(child)
        place.due = time.monotonic() + pause
        return f"the next starts in {human(pause)}" if pause else "the next starts at once"

    def _heed_signals(self) -> None:
        while self._heeded < self._signals:
            self._heeded += 1
            self._stop(at_once=self._heeded > 1)

    def _stop(self, *, at_once: bool) -> None:
        patience = KILL_AFTER if at_once else self.shutdown_timeout + KILL_AFTER
        deadline = time.monotonic() + patience
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        logger.info("Supervisor: stops %d workers%s.", len(self._children()), " at once" if at_once else "")
        for place in self.places:
            place.due = None
            if place.child is not None:
                place.child.stop(at_once=at_once)

    def _kill_the_silent(self) -> None:
        """A worker whose interpreter is held, by a regular expression say, keeps no time limit, loses its lease, and
        never ends by itself.
        """
        self._forgive_standstill()
        for child in self._children():
            if not self._is_silent(child) or (child.listen() and not self._is_silent(child)):
                continue
            if child.is_held():
                child.heard_at = time.monotonic()
                continue
            if child.signed_off:
                logger.error("Supervisor: %s has signed off and does not end; it is killed.", child)
            else:
                silent = human(time.monotonic() - child.heard_at)
                logger.error("Supervisor: %s has not been heard of for %s; it is killed.", child, silent)
            child.kill()

    def _is_silent(self, child: Child) -> bool:
        until = child.silent_at(self.lease)
        return until is not None and until <= time.monotonic()

    def _forgive_standstill(self) -> None:
        """What stopped this process, or the whole machine, has likely stopped the children too."""
        late = time.monotonic() - self._looks_by
        if late > STANDSTILL:
            for child in self._children():
                child.heard_at += late

    def _kill_the_late(self) -> None:
        if self._deadline is None or time.monotonic() < self._deadline:
            return
        for child in self._children():
            if not child.killed:
                logger.error("Supervisor: %s has not stopped in time; it is killed.", child)
                child.kill()
