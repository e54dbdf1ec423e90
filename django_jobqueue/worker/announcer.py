"""Announcer: sends ``task_finished`` and calls ``job_finished``, after the outcome has been committed.

It has a thread of its own, because a slow or broken receiver must hold up neither the jobs nor their outcomes. What
waits for it is bounded: while receivers are far behind, the worker claims no jobs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

from django.db import close_old_connections, connections

from ..lifecycle import Run
from ..logs import get_logger
from ..middleware.database_connections import begin_without
from ..outcomes import Outcome, State
from ..results import Past, PendingResult, task_of
from ..signals import FINISHED
from .execution import Execution
from .leftovers import roll_back_leftovers

logger = get_logger(__name__)

#: While more ends of attempts than this wait to be announced, the worker claims nothing.
MAX_UNANNOUNCED = 500

Hooks = Sequence[Callable[..., Any]]
#: Runs that have ended, each with the status that its job has now and the ``job_finished`` that are to be called.
News = Sequence[tuple[Run, str, Hooks]]


class Announcer(threading.Thread):
    def __init__(self, execution: Execution, caught_up: Callable[[], None] = lambda: None) -> None:
        """``caught_up`` is called when receivers that were far behind are no longer."""
        super().__init__(name="jobqueue-announcer", daemon=True)
        self.execution, self.caught_up = execution, caught_up
        self._news: SimpleQueue[News | None] = SimpleQueue()
        # each is written by one thread at a time: the first under the lock, the second by this thread
        self._put = self._done = 0
        self._lock = threading.Lock()
        self._is_behind = self._has_said_so = self._gives_up = False
        self._heard: dict[int, bool] = {}

    @property
    def unannounced(self) -> int:
        """How many ends of attempts wait, or are being announced."""
        return self._put - self._done

    @property
    def is_behind(self) -> bool:
        """Are the receivers so far behind that the worker has to wait for them?"""
        if self.unannounced <= MAX_UNANNOUNCED:
            return False
        self._is_behind = True
        if not self._has_said_so:
            self._has_said_so = True
            logger.warning(
                "Receivers of task_finished, or job_finished of middleware, are slower than the jobs: more than %d "
                "ends of jobs wait for them. The worker claims no jobs whenever they are so far behind.",
                MAX_UNANNOUNCED,
            )
        return True

    def put(self, news: Sequence[tuple[Run, str | None]]) -> None:
        """Runs that have ended, each with the status that its job has now; None if its outcome was not written."""
        told = self._of_interest(news)
        if told:
            with self._lock:  # several threads report ends
                self._put += len(told)
            self._news.put(told)

    def _of_interest(self, news: Sequence[tuple[Run, str | None]]) -> News:
        """Those of which a receiver or the ``job_finished`` of a layer is to be told."""
        has_followers, is_heard = self.execution.has_followers, FINISHED.is_heard()
        # Django's receiver logs failures at another level.
        failures_are_heard = is_heard or FINISHED.is_heard(logging.ERROR)
        found: list[tuple[Run, str, Hooks]] = []
        for run, status in news:
            if status is not None and run.outcome is not None:
                hooks = self.execution.followers(run.job, as_written(run, status)) if has_followers else ()
                heard = failures_are_heard if run.outcome.exception is not None else is_heard
                if hooks or (heard and status != "READY"):
                    found.append((run, status, hooks))
                    continue
            _forget_exception(run)
        return found

    def close(self) -> None:
        """Announce what is there, then end."""
        self._news.put(None)

    def finish(self, timeout: float) -> None:
        """Wait until all is announced, for so many seconds at most. What is left then is dropped, and its number is
        logged.
        """
        self.close()
        self.join(timeout)
        if self.is_alive():
            self._gives_up = True
            logger.error(
                "The ends of %d jobs were not announced: receivers of task_finished, or job_finished of middleware, "
                "took too long. The outcomes are in the database.",
                self.unannounced,
            )

    def run(self) -> None:
        if threading.current_thread() is self:
            begin_without()
        while (news := self._news.get()) is not None:
            self._heard = {}  # asked once for all of them
            for run, status, hooks in news:
                if self._gives_up:
                    return
                self._tell_all(run, status, hooks)
                self._done += 1
            if self._is_behind and self.unannounced <= MAX_UNANNOUNCED // 2:
                self._is_behind = False
                self.caught_up()
            close_old_connections()
        connections.close_all()

    def tell(self, run: Run, status: str) -> None:
        """Tell all who want to know of this end, in the calling thread."""
        for each in self._of_interest([(run, status)]):
            self._tell_all(*each)

    def _tell_all(self, run: Run, status: str, hooks: Hooks) -> None:
        if hooks:
            self._follow(run, status, hooks)
        self._announce_end(run, status)
        _forget_exception(run)

    def _follow(self, run: Run, status: str, hooks: Hooks) -> None:
        """``job_finished`` of the layers, innermost first. What one raises keeps no other from its turn."""
        context, outcome = self.execution.context_after(run), as_written(run, status)
        for hook in hooks:
            try:
                hook(context, outcome)
            except Exception:
                logger.exception("job_finished raised for %s; nothing is changed by that.", run.job)
            roll_back_leftovers("A layer's job_finished")

    def _announce_end(self, run: Run, status: str) -> None:
        if status == "READY":
            return
        try:
            self._announce(run, status)
        except Exception:
            logger.exception("Nobody could be told that %s has ended.", run.job)

    def _is_heard(self, level: int) -> bool:
        if (heard := self._heard.get(level)) is None:
            heard = self._heard[level] = FINISHED.is_heard(level)
        return heard

    def _announce(self, run: Run, status: str) -> None:
        if not self._is_heard(logging.INFO if status == "SUCCESSFUL" else logging.ERROR):
            return
        error = run.outcome.exception if run.outcome is not None else None
        if error is None:
            self._tell(run, status)
            return
        # Receivers take the exception from sys.exc_info(), as Django's own does for its log.
        try:
            raise error
        except BaseException:
            self._tell(run, status)
        finally:
            del error  # its traceback holds this frame

    def _tell(self, run: Run, status: str) -> None:
        job, outcome, backend = run.job, run.outcome, self.execution.backend_of(run.job)
        assert outcome is not None and job.started_at is not None and run.ended is not None
        result = PendingResult.of(
            job,
            lambda job: task_of(job, backend),
            lambda: (*job.past_attempts, _as_past(run, outcome)),
            status=status,
            result=outcome.result,
            finished_at=job.started_at + timedelta(seconds=run.ended - run.claimed),
        )
        FINISHED.send(type(backend), result)
        roll_back_leftovers("A receiver of task_finished")


def _as_past(run: Run, outcome: Outcome) -> Past:
    assert run.job.started_at is not None
    return Past(
        worker_id=run.worker_id,
        started_at=run.job.started_at + timedelta(seconds=(run.started or run.claimed) - run.claimed),
        exception_class_path=outcome.exception_class_path,
        message=outcome.message,
        traceback=outcome.traceback,
    )


def _forget_exception(run: Run) -> None:
    """An exception holds the frames that it passed, and one of them holds the run: else only Python's collector of
    cycles would free them.
    """
    run.outcome = None


def as_written(run: Run, status: str) -> Outcome:
    """The outcome as the database has it: a job that somebody cancelled meanwhile does not run again."""
    outcome = run.outcome
    assert outcome is not None
    if status == "CANCELLED" and not outcome.final:
        return replace(outcome, state=State.CANCELLED, status=status)
    return outcome
