"""Stop: how a worker ends: what waits goes back, what runs gets its grace, what has ended is written."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError, connections

from ..dialects import get_dialect
from ..interrupts import WorkerShutdown
from ..lifecycle import Run
from ..logs import get_logger
from .completer import human
from .execution import interrupted
from .interrupting import interrupt

if TYPE_CHECKING:
    from .worker import Worker

logger = get_logger(__name__)

#: Seconds that tasks have for their end once the worker's own grace is over and it has interrupted them.
LETTING_GO = 1.0
#: Seconds that receivers of signals have at least, for ends of jobs that have not been announced.
ANNOUNCING = 1.0


class Stop:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def carry_out(self) -> bool:
        """True if all jobs have ended well; False if some had to be left running in threads."""
        worker = self.worker
        deadline = time.monotonic() + worker.shutdown_timeout
        worker.wakeup.stop()
        worker.claimer.stop()
        if worker.claimer.is_alive():
            worker.claimer.join(10)
        with get_dialect(worker.using).session():  # this thread's own connection may have died since the start
            self._give_back_waiting()
        running = self._interrupt(self._wait_for_running())
        self._write_off(running)
        self._wait_for_writing(running)
        worker.threads.close()
        worker.loop.close()
        worker.completer.close(give_up=worker.desk.at_once.is_set())
        worker.completer.join(30)
        worker.follower.stop()
        worker.follower.join(10)
        worker.maintenance.stop()
        worker.maintenance.join(10)
        if worker.scheduler is not None:
            worker.scheduler.stop()
            worker.scheduler.join(10)
        left = 0.0 if worker.desk.at_once.is_set() else deadline - time.monotonic()
        worker.announcer.finish(max(ANNOUNCING, left))
        worker.heartbeat.stop()
        worker.heartbeat.join(10)
        if worker.wakeup.is_alive():
            worker.wakeup.join(10)
        worker.timekeeper.close()
        return not running and not worker.stuck

    def _give_back_waiting(self) -> None:
        waiting = [*self.worker.threads.take_back(), *self.worker.loop.take_back()]
        desk, using = self.worker.desk, self.worker.using
        desk.keep_to_return(waiting)
        for is_last in (False, True):
            try:
                desk.give_back()
                return
            except (DatabaseError, InterfaceError) as error:
                connections[using].close()
                if is_last or self.worker.recovery.is_away():
                    left = desk.abandon_returns()
                    logger.error("%d jobs cannot be given back: %s; the lease will tell.", left, str(error).strip())
                    return

    def _wait_for_running(self) -> list[Run]:
        """Wait for the running jobs, within the grace; those that did not make it."""
        running = self._running()
        for run in running:
            self.worker.desk.ask_to_stop(run.job.pk, "shutdown")
        if running:
            logger.info("Waiting up to %s for %d running jobs.", human(self.worker.shutdown_timeout), len(running))
        deadline = time.monotonic() + self.worker.shutdown_timeout
        while (running := self._running()) and time.monotonic() < deadline:
            self._notify(running)  # each time: a task that has only just begun may want it too
            if self.worker.desk.at_once.wait(0.02):
                break
        return running

    def _notify(self, running: Iterable[Run]) -> None:
        """Interrupt the tasks that want to know of the stop at once; what they make of it is theirs, in the grace."""
        for run in running:
            if run.interrupt_on_stop and interrupt(run, WorkerShutdown):
                logger.info("%s is notified of the stop.", run.job)

    def _wait_for_writing(self, interrupted: Sequence[Run]) -> None:
        """Until all that has ended is written, also what ended this very moment; not for ever: the lease covers us."""
        void, refuses = {id(run) for run in interrupted}, self.worker.completer.holds

        def is_awaited(run: Run) -> bool:
            return id(run) not in void and not refuses(run.job)

        deadline = time.monotonic() + 10
        while any(map(is_awaited, self.worker.desk.runs.copy().values())) and time.monotonic() < deadline:
            if self.worker.desk.at_once.wait(0.005):
                break

    def _running(self) -> list[Run]:
        """What is held and has not ended: also a job that a thread has taken this very moment."""
        return [run for run in self.worker.desk.runs.copy().values() if run.ended is None]

    def _interrupt(self, running: Sequence[Run]) -> list[Run]:
        """Interrupt what still runs, and give it a moment; what has not ended by then."""
        for run in running:
            logger.warning("%s is interrupted; it will run again.", run.job)
            interrupt(run, WorkerShutdown)
        deadline = time.monotonic() + LETTING_GO
        while (running := self._running()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return list(running)

    def _write_off(self, running: Iterable[Run]) -> None:
        """Record running jobs as interrupted. If one ends meanwhile, whichever is written first holds."""
        for run in running:
            self.worker.completer.put(replace(run, ended=time.monotonic(), outcome=interrupted()))
