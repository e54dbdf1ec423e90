"""Reap: give back the jobs of workers that have fallen silent."""

from __future__ import annotations

import time
from collections.abc import Collection

from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from ..conf import LOSSES_TO_FAIL
from ..exceptions import JobLost
from ..logs import get_logger
from ..models import Job, Worker
from ..models.worker import ALIVE
from ..outcomes import Outcome, State
from .finish import Run, finish

logger = get_logger(__name__)

BATCH = 500


def reap(using: str) -> list[Run]:
    """End the attempts whose worker's lease is over, as lost; these runs, each job with its new status.

    Safe to call from any number of processes at any time. A lost job goes back in line, or fails when it has been
    lost too often. What the silent worker may still write of it is refused by the fence.
    """
    _give_up_silent_workers(using)
    reaped: list[Run] = []
    refused: list[int] = []
    while runs := _orphans(using, refused):
        written = finish(runs, using)
        for run in runs:
            if run.job.pk in written:
                run.job.status = written[run.job.pk]
                reaped.append(run)
        new = [run.job.pk for run in runs if run.refused]
        refused += new
        if len(runs) < BATCH or not (written or new) or len(refused) > BATCH:
            break
    for run in reaped:
        logger.warning("%s was lost: %s", run.job, run.outcome.message if run.outcome else "")
    return reaped


def is_anything_to_reap(using: str) -> bool:
    """One cheap look, for a living worker to take every few seconds. Where no worker is alive it sees nothing."""
    alive = Worker.objects.using(using).alive()
    orphan = Job.objects.using(using).running().filter(~Exists(alive.filter(pk=OuterRef("worker_id"))))
    return alive.filter(Q(lease_until__lt=Now()) | Exists(orphan)).exists()


def _give_up_silent_workers(using: str) -> None:
    silent = Worker.objects.using(using).filter(status__in=ALIVE, lease_until__lt=Now())
    for worker in silent:
        # asked again in the update: a heartbeat may have come in between
        if silent.filter(pk=worker.pk).update(status=Worker.Status.LOST, stopped_at=Now()):
            logger.warning("Worker %s is lost: no heartbeat since %s.", worker, worker.heartbeat_at)


def _orphans(using: str, refused: Collection[int] = ()) -> list[Run]:
    """Runs for the running jobs whose worker is gone: lost, stopped, or without a row."""
    alive = Worker.objects.using(using).filter(pk=OuterRef("worker_id"), status__in=ALIVE)
    jobs = Job.objects.using(using).running().filter(~Exists(alive)).annotate(now=Now()).order_by("worker_id")
    if refused:
        jobs = jobs.exclude(pk__in=refused)
    return [_lost_run(job) for job in jobs[:BATCH] if job.fence is not None]


def _lost_run(job: Job) -> Run:
    now = time.monotonic()
    started_at, found_at = job.started_at, job.now  # type: ignore[attr-defined]
    held = (found_at - started_at).total_seconds() if started_at else 0.0
    outcome = lost(job, f"Worker #{job.worker_id} vanished while it ran the job")
    return Run(job=job, worker_id=job.worker_id or 0, claimed=now - held, ended=now, outcome=outcome)


def lost(job: Job, what: str) -> Outcome:
    """What an attempt comes to of whose end nothing is known but ``what`` has happened."""
    losses = job.losses + 1
    fails = losses >= LOSSES_TO_FAIL
    message = what + (f"; that was loss {losses} of {LOSSES_TO_FAIL}, the job has failed." if fails else ".")
    return Outcome(
        state=State.LOST,
        status=Job.Status.FAILED if fails else Job.Status.READY,
        exception=JobLost(message),
        message=message,
    )
