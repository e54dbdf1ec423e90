"""Put back: what a retry does to some jobs: those that wait for others wait again, the others are in line again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from django.db.models import QuerySet
from django.db.models.functions import Now

from ..models import Job
from ..models.fields import NextPlace
from ..models.job import READY_OR_IN_WAITING
from . import unique
from .revive import has_to_wait, lacks_a_result, revive

RETRYABLE = (Job.Status.FAILED, Job.Status.CANCELLED)


@dataclass(frozen=True, slots=True)
class Retried:
    """What a retry did: jobs that are back in line, and those whose unique key another job has by now."""

    retried: int = 0
    held: int = 0


def put_back(jobs: QuerySet[Job]) -> Retried:
    """Retry those of the jobs that can be; at most a thousand, in the caller's transaction."""
    using = jobs.db
    rows = list(jobs.filter(status__in=RETRYABLE).order_by("pk").only("pk", "task_path", "options"))
    keyed = [job for job in rows if job.unique_key is not None]
    held = {job.pk for job in keyed}.difference(unique.take_again(keyed, using)) if keyed else set()
    ids = [job.pk for job in rows if job.pk not in held]
    return Retried(_put_in_line(ids, using) if ids else 0, len(held))


def _put_in_line(ids: Collection[int], using: str) -> int:
    retryable = Job.objects.using(using).filter(pk__in=ids, status__in=RETRYABLE)
    number = (
        retryable.exclude(has_to_wait(using))
        .exclude(lacks_a_result(using))
        .order_by("pk")
        .update(
            status=READY_OR_IN_WAITING,
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
    )
    revive(sorted(ids), using)
    return number
