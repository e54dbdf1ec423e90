"""The steps of a job's life, for tests that take one after the other."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

from django.db.models.functions import Now

from django_jobqueue.compat import AnyTask
from django_jobqueue.lifecycle import QueueSelector, Run, claim, finish, lanes_in_order, register
from django_jobqueue.models import Attempt, Job, Worker
from django_jobqueue.outcomes import Outcome, State, describe

from ..tasks import noop

USING = "default"


def database_now() -> datetime:
    """Where there is a job."""
    return Job.objects.annotate(now=Now()).values_list("now", flat=True)[0]


def worker(lease: float = 30.0) -> Worker:
    return register(USING, queues=[], slots=1, lease=lease)


def enqueue(task: AnyTask = noop, *args: Any, **kwargs: Any) -> Job:
    """The row of a job that was just enqueued."""
    return Job.objects.get(pk=task.enqueue(*args, **kwargs).id)


def take(holder: Worker, limit: int = 1, selector: str = "", turn: int = 0, *, isolated: bool = False) -> list[Job]:
    """Claim what is in line, as a worker does."""
    lanes = lanes_in_order(QueueSelector.parse(selector), USING, turn)
    jobs = claim(lanes, limit, holder.pk, USING, isolated=isolated)
    for job in jobs:
        job.decode()
    return jobs


def take_one(holder: Worker) -> Job:
    (job,) = take(holder)
    return job


def started(task: AnyTask = noop, *args: Any, **kwargs: Any) -> Job:
    """A job that a worker of its own has claimed."""
    job = enqueue(task, *args, **kwargs)
    taken = take_one(worker())
    assert taken.pk == job.pk
    return taken


def run_of(job: Job, outcome: Outcome, *, took: float = 0.0) -> Run:
    claimed = time.monotonic() - took
    assert job.worker_id is not None
    return Run(
        job=job, worker_id=job.worker_id, claimed=claimed, started=claimed, ended=claimed + took, outcome=outcome
    )


def end(job: Job, outcome: Outcome, *, took: float = 0.0) -> dict[int, str]:
    """Write down what the claimed job came to."""
    return finish([run_of(job, outcome, took=took)], USING)


def fresh(job: Job) -> Job:
    return Job.objects.get(pk=job.pk)


def attempts(job: Job) -> list[Attempt]:
    return list(Attempt.objects.filter(job_id=job.pk).order_by("number"))


def outcomes(job: Job) -> list[str]:
    return [attempt.outcome for attempt in attempts(job)]


def tick() -> None:
    """Let the next place in line be a later one: SQLite's clock has milliseconds."""
    time.sleep(0.003)


def fall_silent(holder: Worker) -> None:
    """Let the worker's lease be over."""
    Worker.objects.filter(pk=holder.pk).update(lease_until=Now() - timedelta(seconds=1))


# -- what an attempt may come to ------------------------------------------------------------------


def succeeded(result: Any = None) -> Outcome:
    return Outcome(state=State.SUCCEEDED, status=Job.Status.SUCCESSFUL, result=result)


def failed(error: BaseException | None = None) -> Outcome:
    error = error or ValueError("no")
    return Outcome(state=State.FAILED, status=Job.Status.FAILED, exception=error, message=describe(error))


def retrying(delay: float = 0.0, error: BaseException | None = None, **moved: Any) -> Outcome:
    error = error or ValueError("no")
    return Outcome(
        state=State.RETRYING, status=Job.Status.READY, exception=error, message=describe(error), delay=delay, **moved
    )


def snoozed(delay: float = 0.0) -> Outcome:
    return Outcome(state=State.SNOOZED, status=Job.Status.READY, delay=delay, message="Snoozed.")


def interrupted() -> Outcome:
    return Outcome(state=State.INTERRUPTED, status=Job.Status.READY, message="The worker stopped.")
