"""Prune: delete finished jobs past their age, with their attempts, in batches."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from django.db import connections
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now

from ..dialects import get_dialect
from ..models import Attempt, Batch, Dependency, Job, Limit, Permit, UniqueKey, Worker
from ..models.job import FINISHED
from .unique import key_of

BATCH = 2000
#: A limit's longest period is a day: what is older counts no more.
LIMITS_KEPT = timedelta(days=2)


def prune(older_than: float, using: str = "default", *, batches: int | None = None) -> int:
    """Delete jobs that finished more than ``older_than`` seconds ago; how many. ``batches`` bounds the work.

    It walks the table in the order of the ids and stops where jobs were enqueued too lately to be of that age: what it
    reads is what it deletes, and the few that are old and unfinished.
    """
    deleted, here, age = 0, 0, timedelta(seconds=older_than)
    while batches is None or batches > 0:
        rows = Job.objects.using(using).filter(pk__gt=here).order_by("pk").annotate(now=Now())
        seen = list(rows.values_list("pk", "status", "finished_at", "enqueued_at", "now")[:BATCH])
        old = [
            pk
            for pk, status, finished_at, _, now in seen
            if status in FINISHED and finished_at and finished_at < now - age
        ]
        deleted += _delete(old, using)
        if len(seen) < BATCH or seen[-1][3] >= seen[-1][4] - age:
            break
        here = seen[-1][0]
        batches = None if batches is None else batches - 1
    _delete_workers(age, using)
    _delete_limits(using)
    return deleted


def _delete(ids: list[int], using: str) -> int:
    if not ids:
        return 0

    def delete() -> int:
        keys, busy = _locked_keys(ids, using)
        # asked again: a job may have been retried since it was read; and others may still have to be told of its end
        still = Job.objects.using(using).finished().filter(pk__in=set(ids) - busy, followed=False).select_for_update()
        rows = list(still.values_list("pk", "batch_id"))
        if not rows:
            return 0
        finished, batches = {pk for pk, _ in rows}, {batch for _, batch in rows if batch is not None}
        if free := [key.pk for key in keys if key.job_id in finished]:
            UniqueKey.objects.using(using).filter(pk__in=free)._raw_delete(using)
        Attempt.objects.using(using).filter(job_id__in=finished)._raw_delete(using)
        Dependency.objects.using(using).filter(job_id__in=finished)._raw_delete(using)
        deleted = int(Job.objects.using(using).filter(pk__in=finished)._raw_delete(using))
        _delete_empty(batches, using)
        return deleted

    return get_dialect(using).transact(delete)


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


def _delete_workers(age: timedelta, using: str) -> None:
    """Workers that ended so long ago: attempts that name them are gone as well."""
    held = Job.objects.using(using).running().filter(worker_id=OuterRef("pk"))
    Worker.objects.using(using).gone().filter(stopped_at__lt=Now() - age).exclude(Exists(held)).delete()


def _delete_limits(using: str) -> None:
    """Keys of limits that nobody uses any more, unless a job still runs under them."""
    rows = Limit.objects.using(using).filter(used_at__lt=Now() - LIMITS_KEPT)
    holder = Job.objects.using(using).running().filter(pk=OuterRef("job_id"), token=OuterRef("token"))

    def delete() -> None:
        # locked: whoever wants to start under a key waits, and makes a new row
        keys = list(rows.select_for_update().order_by("used_at").values_list("pk", flat=True)[:BATCH])
        permits = Permit.objects.using(using).filter(key__in=keys)
        idle = set(keys).difference(permits.filter(Exists(holder)).values_list("key", flat=True))
        Permit.objects.using(using).filter(key__in=idle)._raw_delete(using)
        Limit.objects.using(using).filter(pk__in=idle)._raw_delete(using)

    if rows.exists():
        get_dialect(using).transact(delete)
