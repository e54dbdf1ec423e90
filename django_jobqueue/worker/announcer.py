"""Announcer: tells the receivers of ``task_finished``, after the outcome has been committed.

It has a thread of its own, because a slow or broken receiver must hold up neither the jobs nor their outcomes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from queue import SimpleQueue

from django.db import close_old_connections, connections

from ..backend import announce, is_heard
from ..compat import AnyResult, task_finished
from ..lifecycle import Run
from ..outcomes import Outcome, State
from ..results import Past, result_of, task_of
from .execution import Execution
from .leftovers import roll_back_leftovers

logger = logging.getLogger(__name__)


class Announcer(threading.Thread):
    def __init__(self, execution: Execution) -> None:
        super().__init__(name="jobqueue-announcer", daemon=True)
        self.execution = execution
        self._news: SimpleQueue[Sequence[tuple[Run, str | None]] | None] = SimpleQueue()

    def put(self, news: Sequence[tuple[Run, str | None]]) -> None:
        """Runs that have ended, each with the status that its job has now; None if its outcome was not written."""
        # An error is announced in any case: Django's receiver writes a line for it at another level.
        if (
            self.execution.has_followers
            or is_heard(task_finished)
            or any(run.outcome is None or run.outcome.exception for run, _ in news)
        ):
            self._news.put(news)

    def close(self) -> None:
        self._news.put(None)

    def run(self) -> None:
        while (news := self._news.get()) is not None:
            for run, status in news:
                if status is not None:
                    self._follow(run, status)
                    self._announce_end(run, status)
            close_old_connections()
        connections.close_all()

    def _follow(self, run: Run, status: str) -> None:
        """``job_finished`` of the layers, innermost first. What one raises keeps no other from its turn."""
        if not (followers := self.execution.followers(run.job)):
            return
        context, outcome = self.execution.context_after(run), as_written(run, status)
        for hook in followers:
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

    def _announce(self, run: Run, status: str) -> None:
        backend = self.execution.backend_of(run.job)
        result = self._result(run, status)
        error = run.outcome.exception if run.outcome is not None else None
        if error is None:
            self._tell(type(backend), result)
            return
        # Receivers take the exception from sys.exc_info(), as Django's own does for its log.
        try:
            raise error
        except BaseException:
            self._tell(type(backend), result)

    def _tell(self, sender: type, result: AnyResult) -> None:
        announce(task_finished, sender, result)
        roll_back_leftovers("A receiver of task_finished")

    def _result(self, run: Run, status: str) -> AnyResult:
        job, outcome = run.job, run.outcome
        assert outcome is not None and job.started_at is not None and run.ended is not None
        claimed_at = job.started_at
        began = claimed_at + timedelta(seconds=(run.started or run.claimed) - run.claimed)
        job.status, job.result = status, outcome.result
        job.finished_at = claimed_at + timedelta(seconds=run.ended - run.claimed)
        attempt = Past(
            worker_id=run.worker_id,
            started_at=began,
            exception_class_path=outcome.exception_class_path,
            message=outcome.message,
            traceback=outcome.traceback,
        )
        return result_of(job, (*job.past_attempts, attempt), task_of(job, self.execution.backend_of(job)))


def as_written(run: Run, status: str) -> Outcome:
    """The outcome as the database has it: a job that somebody cancelled meanwhile does not run again."""
    outcome = run.outcome
    assert outcome is not None
    if status == "CANCELLED" and not outcome.final:
        return replace(outcome, state=State.CANCELLED, status=status)
    return outcome
