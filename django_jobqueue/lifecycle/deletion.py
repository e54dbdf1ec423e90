"""Deletion: finished jobs, with all that is theirs alone, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection

from django.db import connections
from django.db.models import Exists, OuterRef, Q

from ..dialects import get_dialect
from ..exceptions import ArchiveFailed
from ..models import Attempt, Batch, Dependency, Job, UniqueKey
from ..outcomes import describe
from .unique import key_of

Archive = Callable[[list[Job]], object]


def delete(ids: list[int], why: Q, using: str, archive: Archive | None = None) -> int:
    """Delete those of the jobs that are finished and meet the condition; how many. ``archive`` gets them before.

    Those whose end others still have to be told of stay, those whose result others wait for, and those whose unique
    keys somebody else has locked.
    """
    return get_dialect(using).transact(lambda: _delete(ids, why, using, archive)) if ids else 0


def is_needed() -> Exists:
    """Does any job still wait for this one's end or result?"""
    return Exists(Dependency.objects.needed().filter(on=OuterRef("pk")))


def _delete(ids: list[int], why: Q, using: str, archive: Archive | None) -> int:
    keys, busy = _locked_keys(ids, using)
    # asked again: a job may have been retried since it was read, and may even have ended anew
    still = Job.objects.using(using).finished().filter(why, ~is_needed(), pk__in=set(ids) - busy, has_dependents=False)
    jobs = still.order_by("pk").select_for_update()
    rows = list(jobs.only("pk", "batch_id") if archive is None else jobs.prefetch_related("attempt_set"))
    if not rows:
        return 0
    if archive is not None:
        _hand_over(rows, archive)
    finished, batches = {job.pk for job in rows}, {job.batch_id for job in rows if job.batch_id is not None}
    if free := [key.pk for key in keys if key.job_id in finished]:
        UniqueKey.objects.using(using).filter(pk__in=free)._raw_delete(using)
    Attempt.objects.using(using).filter(job_id__in=finished)._raw_delete(using)
    Dependency.objects.using(using).filter(job_id__in=finished)._raw_delete(using)
    number = int(Job.objects.using(using).filter(pk__in=finished)._raw_delete(using))
    _delete_empty(batches, using)
    return number


def _hand_over(jobs: list[Job], archive: Archive) -> None:
    try:
        archive(jobs)
    except Exception as error:
        raise ArchiveFailed(f"The archive did not take {len(jobs)} jobs: {describe(error)}.") from error


def _delete_empty(batches: Collection[int], using: str) -> None:
    if batches:
        jobs = Job.objects.using(using).filter(batch_id=OuterRef("pk"))
        Batch.objects.using(using).filter(~Exists(jobs), pk__in=batches)._raw_delete(using)


def _locked_keys(ids: list[int], using: str) -> tuple[list[UniqueKey], set[int]]:
    """The unique keys that these jobs had last, ours now; and the jobs whose keys somebody else has locked.

    An enqueue may be about to find those, and may do so for as long as its caller's transaction takes: they are for the
    next time.
    """
    jobs = Job.objects.using(using).filter(pk__in=ids, options__isnull=False).only("task_path", "options")
    names = {key_of(job) for job in jobs if job.unique_key is not None}
    if not names:
        return [], set()
    keys = UniqueKey.objects.using(using).filter(pk__in=names, job_id__in=ids)
    if not connections[using].features.has_select_for_update_skip_locked:
        return list(keys), set()
    keyed = set(keys.values_list("job_id", flat=True))
    ours = list(keys.select_for_update(skip_locked=True))
    return ours, keyed.difference(key.job_id for key in ours)
