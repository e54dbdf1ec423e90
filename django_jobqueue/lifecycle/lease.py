"""Lease: a worker's row, and the heartbeat that keeps its claims believed. All times are the database's."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from datetime import timedelta

from django.db.models.functions import Now

from ..logs import get_logger
from ..models import Job, Worker
from ..models.worker import ALIVE

logger = get_logger(__name__)


def register(using: str, *, queues: list[str], slots: int, lease: float) -> Worker:
    """A new worker, alive from now on for ``lease`` seconds."""
    host = socket.gethostname()
    worker = Worker(
        name=f"{host}:{os.getpid()}",
        hostname=host[:150],
        pid=os.getpid(),
        queues=queues,
        slots=slots,
        lease=lease,
        started_at=Now(),
        heartbeat_at=Now(),
        lease_until=Now() + timedelta(seconds=lease),
    )
    worker.save(using=using, force_insert=True)
    worker.refresh_from_db(using=using)
    return worker


def renew(worker_id: int, using: str, *, lease: float) -> bool:
    """A heartbeat. False: the worker has been given up, its jobs were given to others, and it must not go on."""
    alive = Worker.objects.using(using).filter(pk=worker_id, status__in=ALIVE)
    return bool(alive.update(heartbeat_at=Now(), lease_until=Now() + timedelta(seconds=lease)))


def cancel_requests(worker_id: int, using: str) -> list[int]:
    """The jobs of this worker that somebody wants to be cancelled."""
    jobs = Job.objects.using(using).running().filter(worker=worker_id, cancel_requested_at__isnull=False)
    return list(jobs.values_list("pk", flat=True))


def holds(job: Job, using: str, *, lock: bool = False) -> bool:
    """Is the attempt that was claimed with this job's fence still the job's? ``lock``: until the transaction ends."""
    ours = Job.objects.using(using).filter(pk=job.pk, fence=job.fence)
    if lock:  # exists() would drop the lock from the statement
        return bool(ours.select_for_update().values_list("pk"))
    return ours.exists()


def announce_stop(worker_id: int, using: str) -> None:
    """The worker takes no more jobs, but still holds some."""
    alive = Worker.objects.using(using).filter(pk=worker_id, status__in=ALIVE)
    alive.update(status=Worker.Status.STOPPING)


def sign_off(worker_id: int, using: str) -> None:
    """The worker ends. What it still held, if anything, is for the reaper."""
    alive = Worker.objects.using(using).filter(pk=worker_id, status__in=ALIVE)
    alive.update(status=Worker.Status.STOPPED, stopped_at=Now(), heartbeat_at=Now())


def give_up(worker_ids: Collection[int], using: str) -> int:
    """Do not wait for the lease of workers whose processes are known to have died; how many were still believed in.

    What they held is for the reaper. Only for those who know: a worker that lives loses its jobs by it.
    """
    alive = Worker.objects.using(using).filter(pk__in=worker_ids, status__in=ALIVE)
    dead = list(alive)
    for worker in dead:
        logger.warning("Worker %s is lost: its process has died.", worker)
    return alive.update(status=Worker.Status.LOST, stopped_at=Now()) if dead else 0
