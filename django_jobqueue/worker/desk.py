"""Desk: what the parts of a worker share: who it is, what it holds, and whether it has to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from django.db import DatabaseError

from ..dialects import get_dialect
from ..lifecycle import Progress, Run, release
from ..lifecycle.parts import in_parts
from ..logs import get_logger
from ..models import Job
from .interrupting import ask_to_stop

logger = get_logger(__name__)


class Desk:
    """One for each worker. Every part may use it from its own thread."""

    def __init__(self, using: str) -> None:
        self.using = using
        #: The number and the name of the worker's row.
        self.id, self.name = 0, ""
        #: The runs that are ours, by job: from their claim until they have been written or given back.
        self.runs: dict[int, Run] = {}
        self.stop_requested = threading.Event()
        self.at_once = threading.Event()
        #: What is to be given back, by job and fence; until that is written they are ours.
        self._returning: dict[tuple[int, int | None], tuple[Run, float]] = {}
        #: Called with a run that cannot be given back, and why: nobody will run it.
        self.refused: Callable[[Run, Exception], None] = lambda run, error: self.let_go(run)
        #: Until when others believe in this worker, by the monotonic clock; the heartbeat moves it on.
        self.believed_until = 0.0
        #: How far the running jobs say they are, by job: what has not been written yet.
        self._progress: dict[int, Progress] = {}

    @property
    def believed(self) -> bool:
        """Is the lease sure to hold? False after a stall: the heartbeat must first learn what has become of it."""
        return time.monotonic() < self.believed_until

    def is_ours(self, run: Run) -> bool | None:
        """May the run start? None while the lease is in doubt: the heartbeat will know."""
        if run.stop_reason == "lost":
            return False
        if not self.believed:
            return None
        # A claim may come back while its number is being given up, too late for those who look for what is lost: that
        # nobody has marked it is not enough. The new number is there before it is believed.
        return run.worker_id == self.id

    def may_start(self, run: Run) -> bool:
        """``is_ours``, but waits for the heartbeat; in vain if everything is to end at once."""
        while (ours := self.is_ours(run)) is None and not self.at_once.wait(0.05):
            pass
        return ours is True

    @property
    def idle(self) -> bool:
        """Is nothing claimed here that has not been written?"""
        return not self.runs

    def stop(self) -> None:
        self.stop_requested.set()

    def stop_at_once(self) -> None:
        self.at_once.set()
        self.stop_requested.set()

    def hold(self, run: Run) -> None:
        self.runs[run.job.pk] = run

    def let_go(self, run: Run) -> None:
        if self.runs.get(run.job.pk) is run:
            del self.runs[run.job.pk]

    def note_progress(self, job: Job, done: float, total: float | None, message: str) -> None:
        if job.fence is not None:
            self._progress[job.pk] = Progress(job.pk, job.fence, done, total, message)

    def interrupt_on_stop(self, job: Job) -> None:
        """The task wants to know at once that the worker stops."""
        run = self.runs.get(job.pk)
        if run is not None and run.job is job:
            run.interrupt_on_stop = True

    def take_progress(self) -> list[Progress]:
        """What is new of the jobs that are still held here."""
        news, self._progress = self._progress, {}
        return [progress for pk, progress in news.items() if pk in self.runs]

    def is_held(self, pk: int, fence: int | None) -> bool:
        """Is this very attempt of the job ours?"""
        return ((run := self.runs.get(pk)) is not None and run.job.fence == fence) or (pk, fence) in self._returning

    def keep_to_return(self, runs: Iterable[Run], delay: float = 0.0) -> None:
        """These have not started and are to be given back, by the next ``give_back``."""
        for run in runs:
            self.hold(run)
            self._returning.setdefault((run.job.pk, run.job.fence), (run, delay))

    def give_back(self, runs: Iterable[Run] = (), delay: float = 0.0) -> int:
        """Give claimed jobs back that have not started, and those that are kept for that; how many were still ours.

        ``delay``: seconds before they may be claimed again. What raises keeps those for the next call that have not
        been given back.
        """
        self.keep_to_return(runs, delay)
        if not self._returning:
            return 0
        by_delay: dict[float, list[Run]] = {}
        for run, seconds in list(self._returning.values()):
            by_delay.setdefault(seconds, []).append(run)
        return sum(self._give_back(some, seconds) for seconds, some in by_delay.items())

    def _give_back(self, runs: Sequence[Run], delay: float) -> int:
        def write(some: Sequence[Run]) -> int:
            given = release([run.job for run in some], self.using, delay)
            for run in some:
                self._has_returned(run)
                self.let_go(run)
            return given

        return sum(in_parts(runs, write, self.using, self._refuse_return))

    def _refuse_return(self, run: Run, error: Exception) -> int:
        if isinstance(error, DatabaseError) and get_dialect(self.using).is_locked_out(error):
            raise error  # later
        self._has_returned(run)
        self.refused(run, error)
        return 0

    def abandon_returns(self) -> int:
        """Keep nothing any more for ``give_back``; how many there were."""
        left = list(self._returning.values())
        for run, _ in left:
            self._has_returned(run)
            self.let_go(run)
        return len(left)

    def _has_returned(self, run: Run) -> None:
        self._returning.pop((run.job.pk, run.job.fence), None)

    def let_go_in_copy(self) -> None:
        """In a process that a job has forked: hold nothing, start nothing."""
        self.runs, self._progress = {}, {}
        self.stop_requested, self.at_once = threading.Event(), threading.Event()  # another thread may have locked them
        self.stop_at_once()
        self.believed_until = 0.0

    def ask_to_stop(self, pk: int, reason: str) -> Run | None:
        """Let the running task know, if it asks: ``context.should_stop()``. Its run, if we hold it."""
        run = self.runs.get(pk)
        if run is not None and ask_to_stop(run, reason):
            level = logging.INFO if reason == "cancel" else logging.DEBUG
            logger.log(level, "%s is asked to stop: %s.", run.job, reason)
        return run
