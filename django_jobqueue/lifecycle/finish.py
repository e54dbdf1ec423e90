"""Finish: write down what attempts came to. The one place where an attempt's end reaches the database."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from django.db import DatabaseError, connections
from django.db.models import Q

from ..conf import LOSSES_TO_ISOLATE
from ..dialects import Dialect, Ending, Fields, Success, get_dialect
from ..models import Attempt, Job
from ..outcomes import MESSAGE_LENGTH, UNCOUNTED, Outcome, State, storable
from ..timing import aware
from . import notify
from .keep import keep_of

logger = logging.getLogger(__name__)

#: So many attempts of a job stay that do not count towards ``max_attempts``: snoozed, interrupted and lost ones.
UNCOUNTED_KEPT = 100
#: Older ones are deleted when there are so many more, for so many jobs in one statement.
FOLDED_AT_ONCE, FOLDED_TOGETHER = 10, 50


@dataclass(slots=True)
class Run:
    """One claimed job on its way through a worker: when it was claimed, started and ended, and what it came to.

    The times are of ``time.monotonic``; only their differences are stored, added to the database's time of the claim.
    """

    job: Job
    worker_id: int
    claimed: float = field(default_factory=time.monotonic)
    started: float | None = None
    ended: float | None = None
    outcome: Outcome | None = None
    stop_reason: str | None = None
    is_async: bool = False
    #: Shall it be interrupted as soon as its worker begins to stop?
    interrupt_on_stop: bool = False
    #: Has its outcome been written already, by the thread that ran it? ``status`` is the job's then, None if it was
    #: not ours any more.
    is_written: bool = False
    status: str | None = None


def finish(runs: Sequence[Run], using: str) -> dict[int, str]:
    """Write the outcomes of these runs, each job's row and its attempt's together; ``{job id: status}``.

    A job that is missing from the answer was not ours any more: its attempt had been lost, nothing was written.
    A row that the database refuses does not hold up the others: the batch is halved until that row stands alone, and
    its attempt is then recorded as failed.
    """
    well: list[Run] = []
    others: list[Run] = []
    for run in runs:
        (well if _says_little(run) else others).append(run)
    written = _halving(_succeed, well, using) if well else {}
    if others:
        written |= _halving(_finish, others, using)
        again = [run.outcome for run in others if run.outcome and written.get(run.job.pk) == Job.Status.READY]
        notify.put_back(again, using)
        fold([run.job for run in others if _has_many_attempts(run) and run.job.pk in written], using)
    return written


def _has_many_attempts(run: Run) -> bool:
    """Has the job so many attempts that it is time to delete old ones? Asked after those that do not count."""
    number, outcome = run.job.attempts, run.outcome
    return number > UNCOUNTED_KEPT and number % FOLDED_AT_ONCE == 0 and outcome is not None and not outcome.counted


def fold(jobs: Sequence[Job], using: str) -> None:
    """Delete old attempts of these jobs that do not count: the latest hundred stay, the first one, and all that count.

    So a job that is snoozed again and again does not grow without end.
    """
    for start in range(0, len(jobs), FOLDED_TOGETHER):
        old = Q()
        for job in jobs[start : start + FOLDED_TOGETHER]:
            old |= Q(job_id=job.pk, number__gt=1, number__lte=job.attempts - UNCOUNTED_KEPT)
        try:
            Attempt.objects.using(using).filter(old, outcome__in=UNCOUNTED)._raw_delete(using)
        except DatabaseError:
            if connections[using].in_atomic_block:
                raise
            logger.warning("Old attempts cannot be deleted now; that is done later.", exc_info=True)


def _says_little(run: Run) -> bool:
    """Is it a success without a word, as nearly all are?"""
    outcome, job = run.outcome, run.job
    if outcome is None or outcome.state is not State.SUCCEEDED:
        return False
    if outcome.message or job.attempt_log or job.result_ttl is not None:
        return False
    return keep_of(job, "SUCCESSFUL") is None


Write = Callable[[Sequence[Run], Dialect], dict[int, str]]


def _succeed(runs: Sequence[Run], dialect: Dialect) -> dict[int, str]:
    return dict.fromkeys(dialect.succeed([success(run) for run in runs]), Job.Status.SUCCESSFUL.value)


def _finish(runs: Sequence[Run], dialect: Dialect) -> dict[int, str]:
    return dialect.finish([ending(run) for run in runs])


def _halving(write: Write, runs: Sequence[Run], using: str) -> dict[int, str]:
    dialect = get_dialect(using)
    try:
        return write(runs, dialect)
    except Exception as error:
        if not dialect.is_refusal(error):
            raise
        if len(runs) > 1:
            middle = len(runs) // 2
            return _halving(write, runs[:middle], using) | _halving(write, runs[middle:], using)
        return _finish_unstorable(runs[0], error, using)


def _finish_unstorable(run: Run, error: Exception, using: str) -> dict[int, str]:
    logger.exception("The outcome of job #%s cannot be stored; it is recorded as failed.", run.job.pk)
    message = f"The outcome cannot be stored: {type(error).__name__}"
    run.outcome = Outcome(state=State.FAILED, status=Job.Status.FAILED, exception=error, message=message)
    run.job.attempt_log = ""
    return get_dialect(using).finish([ending(run)])


def success(run: Run) -> Success:
    job, outcome, claimed = run.job, run.outcome, run.claimed
    assert outcome is not None and job.token is not None and job.started_at is not None
    ended = run.ended if run.ended is not None else time.monotonic()
    return Success(
        job.id,
        job.token,
        run.worker_id,
        job.attempts,
        job.started_at,
        max(0.0, (run.started or claimed) - claimed),
        max(0.0, ended - claimed),
        None if outcome.result is None else json.dumps(outcome.result),
    )


def ending(run: Run) -> Ending:
    outcome, job = run.outcome, run.job
    assert outcome is not None and job.token is not None
    ended = run.ended if run.ended is not None else time.monotonic()
    return Ending(
        id=job.pk,
        token=job.token,
        worker_id=run.worker_id,
        waited=max(0.0, (run.started if run.started is not None else run.claimed) - run.claimed),
        took=max(0.0, ended - run.claimed),
        fields=_fields(outcome, job),
        outcome=outcome.state,
        message=storable(outcome.message)[:MESSAGE_LENGTH],
        exception_class_path=storable(outcome.exception_class_path)[:255],
        traceback=outcome.traceback,
        log=storable(job.attempt_log) or None,
    )


def _fields(outcome: Outcome, job: Job) -> Fields:
    lost = outcome.state == State.LOST
    return Fields(
        status=str(outcome.status),
        final=outcome.final,
        place=_place(outcome, job),
        delay=outcome.delay,
        run_after=None if outcome.run_after is None else aware(outcome.run_after).isoformat(),
        queue_name=outcome.queue_name,
        priority=outcome.priority,
        counted=outcome.counted,
        lost=lost,
        result=outcome.result,
        # one that is to run again is over all the same if somebody has asked to cancel it
        keep=keep_of(job, str(outcome.status) if outcome.final else "CANCELLED"),
        result_ttl=None if outcome.result is None else job.result_ttl,
    )


def _place(outcome: Outcome, job: Job) -> str:
    if outcome.final:
        return "keep"
    if outcome.state == State.LOST:
        # It was at the head of the line before, so it goes there again; alone, if it may be what kills its workers.
        return "isolate" if job.losses + 1 >= LOSSES_TO_ISOLATE else "keep"
    if outcome.state == State.INTERRUPTED:
        return "keep"
    return "none" if outcome.delay or outcome.run_after is not None else "next"
