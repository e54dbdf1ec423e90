"""Completer: collects the runs that have ended and finishes them in batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue

from django.db import DatabaseError, InterfaceError

from ..dialects import get_dialect
from ..lifecycle import Run, finish
from ..outcomes import State
from .pace import Pace

logger = logging.getLogger(__name__)

BATCH = 500
#: While more jobs are at work, an ended one may wait so long for company: a commit costs more than the wait.
LINGER = 0.004

Written = Callable[[Sequence[tuple[Run, str | None]]], None]


class Completer(threading.Thread):
    """One thread, one connection. At rest it writes each outcome at once; under load in groups.

    While the database is away the outcomes stay here, and the worker claims nothing more (``unwritten``).
    """

    def __init__(
        self,
        using: str,
        busy: Callable[[], bool],
        written: Written,
        fault: Callable[[], None],
        paces: Mapping[bool, Pace],
    ) -> None:
        """``paces`` learn how long sync (False) and async (True) jobs take."""
        super().__init__(name="jobqueue-completer", daemon=True)
        self.using, self.busy, self.written, self.fault, self.paces = using, busy, written, fault, paces
        self.counts: Counter[str] = Counter()
        #: Jobs that reached their final status here.
        self.done = 0
        self._ended: SimpleQueue[Run | None] = SimpleQueue()
        self._in_hand = 0
        self._give_up = False

    def put(self, run: Run) -> None:
        self._ended.put(run)

    @property
    def unwritten(self) -> int:
        return self._ended.qsize() + self._in_hand

    def let_go_in_copy(self) -> None:
        """In a process that a job has forked: its parent writes what has ended."""
        self._ended = SimpleQueue()

    def close(self, *, give_up: bool = False) -> None:
        """Write what is there, then end. ``give_up``: do not wait for a database that is away."""
        self._give_up = give_up
        self._ended.put(None)

    def run(self) -> None:
        try:
            with get_dialect(self.using).session():
                self._serve()
        except Exception:
            # A worker that cannot write must not go on: it would hold its jobs for as long as it lives.
            logger.critical("Outcomes cannot be written; the worker stops.", exc_info=True)
            self.fault()

    def _serve(self) -> None:
        closing = False
        while not closing:
            batch, closing = self._collect()
            if batch:
                self._write(batch)
            self._in_hand = 0

    def _collect(self) -> tuple[list[Run], bool]:
        """The next batch, and whether it is the last one."""
        batch: list[Run] = []
        first = self._ended.get()
        self._in_hand = 1  # before more is taken: ``unwritten`` must never overlook one
        if first is None:
            return batch, True
        batch.append(first)
        lingered = False
        while len(batch) < BATCH:
            try:
                run = self._ended.get_nowait()
            except Empty:
                if lingered or not self.busy():
                    break
                time.sleep(LINGER)
                lingered = True
                continue
            if run is None:
                return batch, True
            batch.append(run)
            self._in_hand = len(batch)
        return batch, False

    def _write(self, batch: list[Run]) -> None:
        self._learn(batch)
        # A job that ends while it is being interrupted comes twice; what came first counts.
        first = {(run.job.id, run.job.token): run for run in reversed(batch) if not run.is_written}
        statuses = self._statuses(list(first.values()))
        statuses |= {id(run): run.status for run in batch if run.is_written and run.status}
        news: list[tuple[Run, str | None]] = []
        quiet = not logger.isEnabledFor(logging.DEBUG)
        for run in batch:
            status = statuses.get(id(run))
            news.append((run, status))
            assert run.outcome is not None
            if status is None:
                self.counts["lost"] += 1
                logger.warning("%s had been given to another worker; its outcome was not written.", run.job)
                continue
            self.counts[run.outcome.state] += 1
            self.done += run.outcome.final
            if not quiet or run.outcome.state is not State.SUCCEEDED:
                log_end(run)
        self.written(news)

    def _statuses(self, runs: list[Run]) -> dict[int, str]:
        """What became of the job, by run. A job that was lost here and claimed again is written once for each claim."""
        statuses: dict[int, str] = {}
        while runs:
            some = {run.job.id: run for run in reversed(runs)}
            written = self._finish(list(some.values()))
            statuses |= {id(run): written[pk] for pk, run in some.items() if pk in written}
            runs = [run for run in runs if some[run.job.id] is not run]
        return statuses

    def _finish(self, batch: list[Run]) -> dict[int, str]:
        pause = 0.1
        while True:
            try:
                return finish(batch, self.using)
            except (DatabaseError, InterfaceError) as error:
                logger.error("%d outcomes cannot be written yet: %s", len(batch), error)
                get_dialect(self.using).connection.close()
                if self._give_up:
                    return {}
            time.sleep(pause)
            pause = min(2.0, pause * 2)

    def _learn(self, batch: list[Run]) -> None:
        times: tuple[list[float], list[float]] = [], []
        for run in batch:
            if run.ended is not None and run.started is not None:
                times[run.is_async].append(run.ended - run.started)
        for kind in (False, True):
            self.paces[kind].learn(times[kind])


def log_end(run: Run) -> None:
    """A line for the operator: what went wrong as a warning, what went well for those who want to see it."""
    outcome, took = run.outcome, (run.ended or 0.0) - (run.started or run.ended or 0.0)
    assert outcome is not None
    if outcome.state is State.SUCCEEDED:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s succeeded in %s", run.job, human(took))
    elif outcome.state in (State.FAILED, State.TIMED_OUT, State.RETRYING):
        attempt = f"attempt {run.job.tries} of {run.job.max_attempts}"
        then = "no further attempt" if outcome.final else f"next attempt in {human(outcome.delay)}"
        logger.warning("%s failed after %s (%s): %s; %s", run.job, human(took), attempt, outcome.message, then)
    else:
        logger.info("%s %s after %s: %s", run.job, outcome.state, human(took), outcome.message)


def human(seconds: float) -> str:
    """A duration as people write it: ``12 ms``, ``3.4 s``, ``5 min 2 s``, ``7 d``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    units = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    size, unit, part, small = next(each for each in units if whole >= each[0])
    rest = whole % size // part
    return f"{whole // size} {unit} {rest} {small}" if rest else f"{whole // size} {unit}"
