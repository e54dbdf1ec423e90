"""Control: what people do to jobs and queues: retry, cancel, run now, pause, resume."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from ..models import Job, Queue
from ..models.fields import NextPlace
from ..models.job import UNFINISHED
from . import notify
from .keep import deleted_at

CHUNK = 1000

_RETRYABLE = (Job.Status.FAILED, Job.Status.CANCELLED)
_CANCELLABLE = (Job.Status.WAITING, Job.Status.READY)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What ``cancel`` did: jobs that had not started are cancelled, running ones were asked to stop."""

    cancelled: int = 0
    requested: int = 0

    def __add__(self, other: Cancelled) -> Cancelled:
        return Cancelled(self.cancelled + other.cancelled, self.requested + other.requested)


def retry(ids: Iterable[int], using: str = "default") -> int:
    """Put failed and cancelled jobs back in line with a full set of attempts; how many. Others are left alone.

    The attempts so far stay on record.
    """
    retried = sum(
        Job.objects.using(using)
        .filter(pk__in=chunk, status__in=_RETRYABLE)
        .update(
            status=Job.Status.READY,
            place=NextPlace(),
            run_after=Now(),  # it has waited in line from now on, not since it was enqueued
            finished_at=None,
            prune_at=None,
            cancel_requested_at=None,
            result=None,
            result_until=None,
            progress=None,
            tries=0,
            losses=0,
        )
        for chunk in _chunks(ids)
    )
    if retried:
        notify.look(using)
    return retried


def cancel(ids: Iterable[int], using: str = "default") -> Cancelled:
    """Cancel jobs: those that have not started at once; running ones are asked to stop. Finished ones are left alone.

    A running job that was asked ends CANCELLED unless it succeeds or fails for good first; it is never retried.
    """
    done = Cancelled()
    for chunk in _chunks(ids):
        jobs = Job.objects.using(using).filter(pk__in=chunk)
        over = {"status": Job.Status.CANCELLED, "finished_at": Now(), **_deleted_at(jobs)}
        # In this order: a job that is claimed in between is asked, one that comes back in between is missed by neither.
        cancelled = jobs.filter(status__in=_CANCELLABLE).update(**over)
        asked = jobs.filter(status=Job.Status.RUNNING, cancel_requested_at__isnull=True)
        requested = asked.update(cancel_requested_at=Now())
        back = jobs.filter(Q(status__in=_CANCELLABLE)).update(**over)
        done += Cancelled(cancelled + back, requested)
    return done


def _deleted_at(jobs: QuerySet[Job]) -> dict[str, Any]:
    """When those of the jobs are to be deleted that say so; of a job's life, what says so is always the same."""
    return deleted_at(jobs.filter(status__in=UNFINISHED).only("task_path", "options"), "CANCELLED")


def run_now(ids: Iterable[int], using: str = "default") -> int:
    """Put scheduled jobs in line at once; how many."""
    moved = sum(
        Job.objects.using(using)
        .filter(pk__in=chunk, status=Job.Status.READY, place__isnull=True)
        .update(place=NextPlace(), run_after=Now())
        for chunk in _chunks(ids)
    )
    if moved:
        notify.look(using)
    return moved


def pause(queue_name: str, using: str = "default") -> bool:
    """Let no worker claim from the queue any more; running jobs go on. False if it was paused already."""
    Queue.objects.using(using).get_or_create(name=queue_name)
    open_queue = Queue.objects.using(using).filter(name=queue_name, paused_at__isnull=True)
    return bool(open_queue.update(paused_at=Now()))


def resume(queue_name: str, using: str = "default") -> bool:
    """Open a paused queue again. False if it was open."""
    paused = Queue.objects.using(using).filter(name=queue_name, paused_at__isnull=False)
    resumed = bool(paused.update(paused_at=None))
    if resumed:
        notify.look(using)
    return resumed


def _chunks(ids: Iterable[int]) -> Iterator[list[int]]:
    ids = iter(ids)
    while chunk := list(islice(ids, CHUNK)):
        yield chunk
