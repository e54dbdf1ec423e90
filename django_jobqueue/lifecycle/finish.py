"""Finish: write down what attempts came to. The one place where an attempt's end reaches the database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from django.db import DatabaseError, InterfaceError, connections
from django.db.models import Q
from django.db.models.functions import Now

from ..conf import LOSSES_TO_ISOLATE
from ..dialects import Dialect, Ending, Fields, Success, get_dialect
from ..dialects.asking import Verdict, judge
from ..logs import get_logger
from ..models import Attempt, Job
from ..outcomes import MESSAGE_LENGTH, UNCOUNTED, Outcome, State, storable
from ..timing import aware
from . import notify
from .keep import keep_of
from .parts import LARGE, in_parts

logger = get_logger(__name__)

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
    #: Has the database, which is there, refused all that could be written of it?
    refused: bool = False


def finish(runs: Sequence[Run], using: str) -> dict[int, str]:
    """Write the outcomes of these runs, each job's row and its attempt's together; ``{job id: status}``.

    A job that is missing from the answer was not ours any more: its attempt had been lost, nothing was written.
    A row that the database refuses does not hold up the others: the batch is parted until that row stands alone, and
    its attempt is then recorded as failed. If not even that can be written, its run is marked ``refused``.

    What is raised, unless it is a fault of ours, is raised because the database is away: nothing is lost by a later
    try. In a transaction of the caller's it may also be a refusal.
    """
    well: list[Run] = []
    others: list[Run] = []
    for run in runs:
        (well if _says_little(run) else others).append(run)
    writer = Writer(using)
    written = writer.write(_succeed, well) if well else {}
    if others:
        written |= writer.write(_finish, others)
        again = [run.outcome for run in others if run.outcome and written.get(run.job.pk) == Job.Status.READY]
        notify.put_back(again, using)
        fold([run.job for run in others if _has_many_attempts(run) and run.job.pk in written], using)
    if writer.in_doubt:
        written |= written_before([run for run in runs if run.job.pk not in written and not run.refused], using)
    return written


def written_before(runs: Sequence[Run], using: str) -> dict[int, str]:
    """``finish`` for runs that it does not find any more after an error: the status of those jobs whose attempt these
    very runs have ended, in a transaction that was committed though its answer never came.
    """
    if not runs:
        return {}
    attempts = Attempt.objects.using(using).filter(job_id__in=[run.job.pk for run in runs]).exclude(outcome=State.LOST)
    there = {
        (pk, number, worker): outcome
        for pk, number, worker, outcome in attempts.values_list("job_id", "number", "worker_id", "outcome")
    }
    found: dict[int, str] = {}
    for run in runs:
        what = there.get((run.job.pk, run.job.attempts, run.worker_id))
        if run.outcome is None:
            continue
        if what == run.outcome.state:
            found[run.job.pk] = str(run.outcome.status)
        elif what == State.CANCELLED and not run.outcome.final:
            found[run.job.pk] = str(Job.Status.CANCELLED)
    return found


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


class Writer:
    """Writes a batch as a whole, in parts if the database refuses something in it, and a row that it refuses as less
    and less.
    """

    def __init__(self, using: str) -> None:
        self.dialect = get_dialect(using)
        #: May something have been written whose answer never came?
        self.in_doubt = False

    def write(self, how: Write, runs: Sequence[Run]) -> dict[int, str]:
        def write_some(some: Sequence[Run]) -> dict[int, str]:
            try:
                return how(some, self.dialect)
            except Exception as error:
                self.in_doubt = self.in_doubt or not self.dialect.is_refusal(error)
                raise

        written: dict[int, str] = {}
        for statuses in in_parts(runs, write_some, self.dialect.using, self._write_less, is_large=_is_large):
            written |= statuses
        return written

    def _write_less(self, run: Run, error: Exception) -> dict[int, str]:
        if not (isinstance(error, DatabaseError | InterfaceError | RecursionError) or self.dialect.is_refusal(error)):
            raise error  # a fault of ours: what else would be written might be wrong
        whole = run.outcome, run.job.attempt_log, run.job.result_ttl
        try:
            if not self._may_be_written_later(error):
                logger.error("The outcome of job #%s cannot be stored; less of it is.", run.job.pk, exc_info=error)
                if (written := self._write_what_goes(run, error)) is not None:
                    whole = (run.outcome, "", None) if written else whole
                    return written
        finally:
            run.outcome, run.job.attempt_log, run.job.result_ttl = whole
        run.refused = True
        return {}

    def _write_what_goes(self, run: Run, error: Exception) -> dict[int, str] | None:
        """None: nothing does."""
        for record in (_in_ascii, _as_failed, _as_failed_without_a_word, _without_attempt):
            try:
                return record(run, error, self.dialect)
            except Exception as next_error:
                if judge(next_error, self.dialect) is Verdict.AWAY:
                    if self.dialect.connection.in_atomic_block:
                        raise error from None  # of a transaction that has failed no more can be learnt
                    raise
                error = next_error
        logger.error("The database refuses whatever is written of job #%s: %s", run.job.pk, str(error).strip())
        return None

    def _may_be_written_later(self, error: Exception) -> bool:
        """Does somebody hold its row locked?"""
        return isinstance(error, DatabaseError) and self.dialect.is_locked_out(error)


def _is_large(run: Run) -> bool:
    result = None if run.outcome is None else run.outcome.result
    return len(run.job.attempt_log or "") > LARGE or (result is not None and len(json.dumps(result)) > LARGE)


# -- what is written of an outcome that cannot be stored, less each time ----------------------------


def _in_ascii(run: Run, error: Exception, dialect: Dialect) -> dict[int, str]:
    """The same outcome, its texts in characters that every column takes; nobody retries what is in a result."""
    whole = ending(run)
    plain = replace(
        whole,
        message=_ascii(whole.message)[:MESSAGE_LENGTH],
        exception_class_path=_ascii(whole.exception_class_path)[:255],
        traceback=_ascii(whole.traceback),
        log=None if whole.log is None else _ascii(whole.log),
    )
    if plain == whole:
        raise error  # it would be the same again
    return dialect.finish([plain])


def _as_failed(run: Run, error: Exception, dialect: Dialect) -> dict[int, str]:
    message = f"The outcome cannot be stored: {type(error).__name__}"
    run.outcome = Outcome(state=State.FAILED, status=Job.Status.FAILED, exception=error, message=message)
    run.job.attempt_log = ""
    whole = ending(run)
    return dialect.finish([replace(whole, traceback=_ascii(whole.traceback))])


def _as_failed_without_a_word(run: Run, error: Exception, dialect: Dialect) -> dict[int, str]:
    run.outcome = Outcome(state=State.FAILED, status=Job.Status.FAILED, message="The outcome cannot be stored.")
    run.job.result_ttl = None
    plain = ending(run)
    return dialect.finish([replace(plain, fields=replace(plain.fields, keep=None))])


def _without_attempt(run: Run, error: Exception, dialect: Dialect) -> dict[int, str]:
    ours = Job.objects.using(dialect.using).filter(pk=run.job.pk, fence=run.job.fence)
    written = ours.update(status=Job.Status.FAILED, finished_at=Now(), worker=None, fence=None)
    return {run.job.pk: Job.Status.FAILED.value} if written else {}


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")


def success(run: Run) -> Success:
    job, outcome, claimed = run.job, run.outcome, run.claimed
    assert outcome is not None and job.fence is not None and job.started_at is not None
    ended = run.ended if run.ended is not None else time.monotonic()
    return Success(
        job.id,
        job.fence,
        run.worker_id,
        job.attempts,
        job.started_at,
        max(0.0, (run.started or claimed) - claimed),
        max(0.0, ended - claimed),
        None if outcome.result is None else json.dumps(outcome.result),
    )


def ending(run: Run) -> Ending:
    outcome, job = run.outcome, run.job
    assert outcome is not None and job.fence is not None
    ended = run.ended if run.ended is not None else time.monotonic()
    return Ending(
        id=job.pk,
        fence=job.fence,
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
