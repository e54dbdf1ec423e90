"""Batch: what is done to the jobs of a batch together: cancel, retry."""

from __future__ import annotations

from collections.abc import Iterator

from django.db.models import Exists, OuterRef, QuerySet
from django.db.models.functions import Now

from ..dialects import get_dialect
from ..models import Batch, Dependency, Job
from ..models.batch import Rule
from . import control
from .follow import CHUNK
from .route import write_route

#: Those that wait come first: otherwise they might start when what they wait for is cancelled.
CANCELLED_IN_ORDER = (Job.Status.WAITING, Job.Status.READY, Job.Status.RUNNING)


def cancel_batch(batch_id: int, using: str | None = None) -> control.Cancelled:
    """Cancel the batch's jobs that have not started, ask running ones to stop, and close the batch: nothing can be
    added to it. Jobs added with ``finally_`` still run once the others have ended. Return both numbers.
    """
    using = write_route(using)
    close_batch(batch_id, using)
    rows = Job.objects.using(using).exclude(pk__in=in_any_case(batch_id, using))
    cancelled = (control.cancel(_ids_of(batch_id, status, rows), using) for status in CANCELLED_IN_ORDER)
    return sum(cancelled, control.Cancelled())


def retry_batch(batch_id: int, using: str | None = None) -> int:
    """Run failed and cancelled jobs of the batch again, and the jobs that depend on them. Return the number of jobs
    that are in line now.
    """
    using = write_route(using)
    open_batch(batch_id, using)
    statuses, rows = (Job.Status.FAILED, Job.Status.CANCELLED), Job.objects.using(using)
    return sum(control.retry(_ids_of(batch_id, status, rows), using) for status in statuses)


def in_any_case(batch_id: int, using: str) -> list[int]:
    """The unfinished jobs of the batch that run whatever becomes of those in it that they wait for."""
    unconditional = Dependency.objects.using(using).filter(rule=Rule.RUN, position__isnull=True, on__batch=batch_id)
    jobs = Job.objects.using(using).unfinished().filter(batch=batch_id)
    return list(jobs.filter(Exists(unconditional.filter(job=OuterRef("pk")))).values_list("pk", flat=True))


def close_batch(batch_id: int, using: str) -> None:
    """Let nobody add to the batch any more."""
    batch = Batch.objects.using(using).filter(pk=batch_id, cancelled_at__isnull=True)
    get_dialect(using).again_after_collision(lambda: batch.update(cancelled_at=Now()))


def open_batch(batch_id: int, using: str) -> None:
    batch = Batch.objects.using(using).filter(pk=batch_id)
    get_dialect(using).again_after_collision(lambda: batch.update(cancelled_at=None))


def _ids_of(batch_id: int, status: str, jobs: QuerySet[Job]) -> Iterator[int]:
    """Those of the jobs in the batch with this status, each once: their status may change meanwhile."""
    rows, behind = jobs.filter(batch=batch_id, status=status).order_by("pk"), 0
    while ids := list(rows.filter(pk__gt=behind).values_list("pk", flat=True)[:CHUNK]):
        yield from ids
        behind = ids[-1]
