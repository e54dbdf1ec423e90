"""Completer: collects the runs that have ended and finishes them in batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from queue import Empty, SimpleQueue

from django.db import DatabaseError, InterfaceError

from ..dialects import get_dialect
from ..lifecycle import Run, finish
from ..lifecycle.finish import written_before
from ..logs import get_logger
from ..models import Job
from ..outcomes import State
from .pace import Pace
from .recovery import Recovery

logger = get_logger(__name__)

BATCH = 500
#: While more jobs are at work, an ended one may wait so long for company: a commit costs more than the wait. Where a
#: write takes long, it waits for a few times as long as that, within the second number: else writes of few outcomes
#: each would take most of the time of a busy process.
LINGER, LONGEST_LINGER, LINGER_PER_WRITE = 0.004, 0.02, 4
#: An outcome that the database refuses is tried again after a pause that doubles, up to so many seconds; after so many
#: tries the worker does not wait for it any more.
LONGEST_PAUSE, TRIES = 60.0, 5

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
        refused: Callable[[Run], None],
        fault: Callable[[], None],
        paces: Mapping[bool, Pace],
        recovery: Recovery | None = None,
    ) -> None:
        """``written`` is told what became of each run. ``refused`` is told of a run once the database has refused its
        outcome so often that nobody should wait for it; it is written later, or never. ``paces`` learn how long sync
        (False) and async (True) jobs take.
        """
        super().__init__(name="jobqueue-completer", daemon=True)
        self.using, self.busy, self.written, self.refused = using, busy, written, refused
        self.fault, self.paces = fault, paces
        self.counts: Counter[str] = Counter()
        #: Jobs that reached their final status here.
        self.done = 0
        self.recovery = recovery or Recovery(using)
        self._ended: SimpleQueue[Run | None] = SimpleQueue()
        self._in_hand = 0
        self._linger = LINGER
        self._refused = Refused()
        self._give_up = False

    def put(self, run: Run) -> None:
        self._ended.put(run)

    @property
    def unwritten(self) -> int:
        return self._ended.qsize() + self._in_hand + len(self._refused)

    def holds(self, job: Job) -> bool:
        """Is the end of this attempt among those that the database refuses for now?"""
        return job.fence in self._refused.tries

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
                began = time.monotonic()
                self._write(batch)
                took = time.monotonic() - began
                self._linger = min(LONGEST_LINGER, max(LINGER, took * LINGER_PER_WRITE))
            self._in_hand = 0
            if due := self._refused.due(all_of_them=closing):
                self._write(due, again=True)

    def _collect(self) -> tuple[list[Run], bool]:
        """The next batch, and whether it is the last one."""
        batch: list[Run] = []
        try:
            first = self._ended.get(timeout=self._refused.seconds_to_next)
        except Empty:
            return batch, False
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
                time.sleep(self._linger)
                lingered = True
                continue
            if run is None:
                return batch, True
            batch.append(run)
            self._in_hand = len(batch)
        return batch, False

    def _write(self, batch: list[Run], *, again: bool = False) -> None:
        if not again:
            self._learn(batch)
        # A job that ends while it is being interrupted comes twice; what came first counts.
        first = {(run.job.id, run.job.fence): run for run in reversed(batch) if not run.is_written}
        statuses = self._statuses(list(first.values()))
        statuses |= {id(run): run.status for run in batch if run.is_written and run.status}
        news: list[tuple[Run, str | None]] = []
        quiet = not logger.isEnabledFor(logging.DEBUG)
        for run in batch:
            status = statuses.get(id(run))
            if run.refused:
                self._put_off(run)
                continue
            if again:
                self._refused.forget(run)
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
        try:
            self.written(news)
        except Exception:  # the outcomes are written: who cannot be told of them must not keep the next ones
            logger.exception("%d outcomes have been written, but not everybody was told.", len(news))

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
        pause, in_doubt = 0.1, False
        while True:
            try:
                written = finish(batch, self.using)
                if in_doubt:
                    written |= written_before([run for run in batch if run.job.pk not in written], self.using)
                return written
            except (DatabaseError, InterfaceError) as error:
                logger.error("%d outcomes cannot be written yet: %s", len(batch), str(error).strip())
                get_dialect(self.using).connection.close()
                in_doubt = True
            if self._give_up:
                return {}
            self.recovery.pause(pause, lambda: self._give_up)
            pause = min(2.0, pause * 2)

    def _put_off(self, run: Run) -> None:
        tries = self._refused.add(run)
        if tries == TRIES:  # nobody waits for it from now on: neither the end of a drain nor that of the worker
            self.refused(run)

    def _learn(self, batch: list[Run]) -> None:
        times: tuple[list[float], list[float]] = [], []
        for run in batch:
            if run.ended is not None and run.started is not None:
                times[run.is_async].append(run.ended - run.started)
        for kind in (False, True):
            self.paces[kind].learn(times[kind])


class Refused:
    """Runs whose row the database refuses to change at all, though it is there: it may be locked, or a trigger forbids
    it. Each is tried again later and later, and delays none of the others.
    """

    def __init__(self) -> None:
        #: How often each has been tried, by the fence of its attempt.
        self.tries: dict[int | None, int] = {}
        self._runs: list[tuple[float, int, Run]] = []  # a heap, by when it is tried again

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: Run) -> int:
        """How often it has been tried."""
        run.refused = False
        tries = self.tries[run.job.fence] = self.tries.get(run.job.fence, 0) + 1
        heappush(self._runs, (time.monotonic() + min(LONGEST_PAUSE, 0.25 * 2**tries), id(run), run))
        return tries

    @property
    def seconds_to_next(self) -> float | None:
        return max(0.01, self._runs[0][0] - time.monotonic()) if self._runs else None

    def due(self, *, all_of_them: bool) -> list[Run]:
        found: list[Run] = []
        while self._runs and (all_of_them or self._runs[0][0] <= time.monotonic()):
            found.append(heappop(self._runs)[2])
        return found

    def forget(self, run: Run) -> None:
        self.tries.pop(run.job.fence, None)


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
