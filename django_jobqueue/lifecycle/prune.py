"""Prune: delete finished jobs past their age, with their attempts, in batches.

Most jobs are kept for the project's retention, and are found by a walk through the table in the order of the ids. Those
that say how long they are to be kept carry the time of their end, and are found by its index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from itertools import count

from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now

from ..dialects import get_dialect
from ..exceptions import ArchiveFailed
from ..models import Job, Limit, Permit, Worker
from ..retention import Kept, as_kept
from .deletion import Archive, delete, is_needed
from .revive import note_expired
from .route import write_route
from .walk import Walk, walks_for

BATCH = 2000
#: An archive gets whole jobs, which may be large.
ARCHIVE_BATCH = 200
#: A limit's longest period is a day: what is older counts no more.
LIMITS_KEPT = timedelta(days=2)

#: Jobs that say themselves when they are to be deleted, and it is time.
IS_TIME = Q(prune_at__lte=Now())


def prune(
    older_than: float | Kept | None,
    using: str | None = None,
    *,
    batches: int | None = None,
    archive: Archive | None = None,
    dry_run: bool = False,
) -> int:
    """Delete jobs that finished more than ``older_than`` seconds ago. Return the number of jobs deleted.

    ``older_than`` may be a dictionary by status; None keeps jobs for ever. A job with a time of its own (``keep``) goes
    by that alone. ``archive`` is called with each batch of jobs before its deletion, in the same transaction; raise
    ``ArchiveFailed`` if it raises. ``batches`` limits the number of batches. With ``dry_run`` nothing is deleted.
    """
    using = write_route(using)
    pruner = DryRun(using, older_than) if dry_run else Pruner(using, older_than, archive)
    deleted = pruner.turn(batches)
    if pruner.refusal is not None:
        raise pruner.refusal
    return deleted


class Pruner:
    """Prunes a database again and again, and remembers how far its walks have come."""

    def __init__(self, using: str, older_than: float | Kept | None, archive: Archive | None = None) -> None:
        self.using, self.archive = using, archive
        kept = as_kept(older_than)
        self.ages = {status: None if age is None else timedelta(seconds=age) for status, age in kept.items()}
        self.walks = walks_for(self.ages)
        #: What the archive has raised in the last turn.
        self.refusal: ArchiveFailed | None = None

    def turn(self, batches: int | None = None) -> int:
        """Delete what is due, in ``batches`` of each kind at most; how many. What an archive refuses stays, and is
        offered again in the next turn.
        """
        self.refusal = None
        deleted = self._unless_refused(self._delete_by_time, batches)
        for walk in self.walks:
            if not walk.rests:
                deleted += self._unless_refused(partial(self._delete_along, walk), batches)
        self._tidy(batches)
        return deleted

    def _unless_refused(self, kind: Callable[[int | None], Iterator[int]], batches: int | None) -> int:
        deleted = 0
        try:
            for number in kind(batches):
                deleted += number
        except ArchiveFailed as error:
            self.refusal = error
        return deleted

    def _delete_by_time(self, batches: int | None) -> Iterator[int]:
        """Jobs that say when they are to be deleted; how many, batch by batch."""
        for _ in _turns(batches):
            due = Job.objects.using(self.using).finished().filter(IS_TIME, ~is_needed()).order_by("prune_at")
            ids = list(due.values_list("pk", flat=True)[:BATCH])
            deleted = list(self._delete(ids, IS_TIME))
            yield from deleted
            if len(ids) < BATCH or not sum(deleted):
                break

    def _delete_along(self, walk: Walk, batches: int | None) -> Iterator[int]:
        """Jobs for which the project's retention is over; how many, batch by batch."""
        for _ in _turns(batches):
            step = walk.look(self.using, BATCH)
            yield from self._delete(step.due, walk.is_due)
            walk.take(step)  # behind the deletion: what could not be deleted is met again
            if step.is_end:
                break

    def _delete(self, ids: list[int], why: Q) -> Iterator[int]:
        size = ARCHIVE_BATCH if self.archive else BATCH
        for start in range(0, len(ids), size):
            yield delete(ids[start : start + size], why, self.using, self.archive)

    def _tidy(self, batches: int | None) -> None:
        _forget_results(self.using, batches)
        if None not in self.ages.values():
            _delete_workers(max(age for age in self.ages.values() if age is not None), self.using)
        _delete_limits(self.using)


class DryRun(Pruner):
    """Counts what would be deleted."""

    def _delete_by_time(self, batches: int | None) -> Iterator[int]:
        yield Job.objects.using(self.using).finished().filter(IS_TIME, ~is_needed()).count()

    def _delete(self, ids: list[int], why: Q) -> Iterator[int]:
        yield len(ids)

    def _tidy(self, batches: int | None) -> None:
        pass


def _turns(number: int | None) -> Iterable[int]:
    return count() if number is None else range(number)


def _forget_results(using: str, batches: int | None) -> None:
    """Results whose time is over, of jobs that stay. One that a job waits for is kept until it is handed on."""

    due = Job.objects.using(using).filter(~is_needed(), result_until__lte=Now()).order_by("result_until")
    for _ in _turns(batches):
        ids = list(due.values_list("pk", flat=True)[:BATCH])
        if ids:
            get_dialect(using).transact(partial(_forget, ids, using))
        if len(ids) < BATCH:
            break


def _forget(ids: list[int], using: str) -> None:
    # asked again: a job may have been retried since it was read; and locked in the order of the ids, as elsewhere
    still = Job.objects.using(using).filter(~is_needed(), pk__in=ids, result_until__lte=Now()).order_by("pk")
    ids = list(still.select_for_update().values_list("pk", flat=True))
    Job.objects.using(using).filter(pk__in=ids).update(result=None, result_until=None)
    note_expired(ids, using)


def _delete_workers(age: timedelta, using: str) -> None:
    """Workers that ended so long ago: attempts that name them are gone as well."""
    held = Job.objects.using(using).running().filter(worker_id=OuterRef("pk"))
    Worker.objects.using(using).gone().filter(stopped_at__lt=Now() - age).exclude(Exists(held)).delete()


def _delete_limits(using: str) -> None:
    """Keys of limits that nobody uses any more."""
    rows = Limit.objects.using(using).filter(used_at__lt=Now() - LIMITS_KEPT)

    def delete() -> None:
        # locked: whoever wants to start under a key waits, and makes a new row
        keys = list(rows.select_for_update().order_by("used_at").values_list("pk", flat=True)[:BATCH])
        Permit.objects.using(using).filter(key__in=keys)._raw_delete(using)
        Limit.objects.using(using).filter(pk__in=keys)._raw_delete(using)

    if rows.exists():
        get_dialect(using).transact(delete)
