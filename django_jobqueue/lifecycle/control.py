"""Control: what people do to jobs and queues: retry, cancel, run now, pause, resume."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from ..dialects import get_dialect
from ..models import Job, Queue
from ..models.fields import NextPlace
from ..models.job import UNFINISHED
from . import notify, unique
from .keep import deleted_at
from .revive import has_to_wait, revive

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


@dataclass(frozen=True, slots=True)
class Retried:
    """What ``retry_all`` did: jobs that are back in line, and those whose unique key another job has by now."""

    retried: int = 0
    held: int = 0

    def __add__(self, other: Retried) -> Retried:
        return Retried(self.retried + other.retried, self.held + other.held)


def retry(ids: Iterable[int], using: str = "default") -> int:
    """Put failed and cancelled jobs back in line with a full set of attempts; how many. Others are left alone, and so
    are those whose unique key another job has by now.

    The attempts so far stay on record. Jobs that were ended because one of these had not succeeded wait for it again.
    One that has waited in vain for another is left alone unless that one is retried too.
    """
    return retry_all(ids, using).retried


def retry_all(ids: Iterable[int], using: str = "default") -> Retried:
    """``retry`` that also says how many were left alone for their unique keys."""
    done = sum((_retry(chunk, using) for chunk in _chunks(ids)), Retried())
    if done.retried:
        notify.look(using)
    return done


def _retry(ids: list[int], using: str) -> Retried:
    retryable = Job.objects.using(using).filter(pk__in=ids, status__in=_RETRYABLE)
    rows = retryable.filter(options__isnull=False).only("pk", "status", "task_path", "options")
    keyed = [job for job in rows if job.unique_key is not None]
    if not keyed:
        return Retried(_put_back(ids, using))

    def write() -> Retried:
        held = {job.pk for job in keyed}.difference(unique.take_again(keyed, using))
        return Retried(_put_back([pk for pk in ids if pk not in held], using), len(held))

    return get_dialect(using).transact(write)


def _put_back(ids: list[int], using: str) -> int:
    retryable = Job.objects.using(using).filter(pk__in=ids, status__in=_RETRYABLE)
    done = retryable.exclude(has_to_wait(using)).update(
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
    revive(ids, using)
    return done


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
