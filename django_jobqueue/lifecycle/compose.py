"""Compose: enqueue jobs of which some wait for others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count, repeat

from django.db.models import F

from ..models import Batch, Dependency, Job
from ..task import Step
from .enqueue import together
from .follow import chunks, link

#: Enqueues jobs through the layers.
Insert = Callable[[list[Job]], None]
#: By the place of a job, the numbers of the jobs that it waits for, and the rule if one of them has not succeeded.
Waits = Mapping[int, tuple[Collection[int], str]]


def enqueue_behind(jobs: list[Job], waits: Waits, insert: Insert, using: str) -> None:
    """Enqueue jobs of which some wait for jobs that are there already. Raise ``ValueError`` if one of those is not."""
    late = check_there(waits, using)

    def write() -> None:
        insert(jobs)
        link(list(_outer(jobs, waits)), using, late=late)

    together(jobs, using, write)


def enqueue_batch(jobs: list[Job], steps: Sequence[Step], waits: Waits, name: str, insert: Insert, using: str) -> Batch:
    """Enqueue jobs that wait for each other as their steps say."""
    late = check_there(waits, using)

    def write() -> Batch:
        batch = Batch(name=name, created_at=jobs[0].enqueued_at)
        batch.save(using=using, force_insert=True)
        for job, step in zip(jobs, steps, strict=True):
            job.batch_id = batch.pk
            if step.after:
                job.status, job.place, job.waiting_for = Job.Status.WAITING, None, job.waiting_for + len(step.after)
            for place in step.after:
                jobs[place].has_dependents = True
        _insert_all(jobs, insert)
        # jobs that were there already have the unique keys of those that were to be enqueued
        behind = (jobs[place] for step in steps for place in step.after)
        found = {job.pk: job.status for job in behind if job.was_there}
        link([*_inner(jobs, steps), *_outer(jobs, waits)], using, late={**late, **found})
        return batch

    return together(jobs, using, write)


def enqueue_beside(jobs: list[Job], beside: int, insert: Insert, using: str) -> None:
    """Enqueue jobs for which those wait too that wait for the job ``beside``.

    Raise ``ValueError`` if that one has ended and they have been told, or if its batch was cancelled.
    """

    def write() -> None:
        batch = Batch.objects.using(using).filter(jobs=beside).first()
        if batch is not None and batch.cancelled_at is not None:
            raise ValueError(f"Batch {batch} was cancelled: nothing can be added to it.")
        for job in jobs:
            job.batch_id = None if batch is None else batch.pk
        _insert_all(jobs, insert)
        _join(jobs, beside, using)

    together(jobs, using, write)


def check_there(waits: Waits, using: str) -> dict[int, str]:
    """The jobs outside that are waited for, and where they stand."""
    late = sorted({pk for ons, _ in waits.values() for pk in ons})
    there: dict[int, str] = {}
    for chunk in chunks(late):
        there.update(Job.objects.using(using).filter(pk__in=chunk).values_list("pk", "status"))
    if missing := [f"#{pk}" for pk in late if pk not in there]:
        raise ValueError(f"after: there is no job {', '.join(missing[:10])} in the database {using!r}.")
    return there


def _insert_all(jobs: list[Job], insert: Insert) -> None:
    insert(jobs)
    if left_out := [job for job in jobs if job.pk is None]:
        raise ValueError(
            f"A middleware has left out a job of {left_out[0].task_path}; chains and groups are enqueued whole or not "
            "at all."
        )


def _inner(jobs: Sequence[Job], steps: Sequence[Step]) -> Iterator[Dependency]:
    for job, step in zip(jobs, steps, strict=True):
        positions = count()
        for place in step.after:
            yield Dependency(
                job_id=job.pk,
                on_id=jobs[place].pk,
                rule=step.rule,
                position=next(positions) if step.takes_result and place not in step.silent else None,
                listed=step.listed,
            )


def _outer(jobs: Sequence[Job], waits: Waits) -> Iterator[Dependency]:
    for place, (ons, rule) in waits.items():
        if (pk := jobs[place].pk) is not None:
            yield from (Dependency(job_id=pk, on_id=on, rule=rule) for on in ons)


# -- beside a job ---------------------------------------------------------------------------------


def _join(jobs: Sequence[Job], beside: int, using: str) -> None:
    listeners = _listeners(beside, using)
    if not listeners and not Job.objects.using(using).unfinished().filter(pk=beside).exists():
        raise ValueError(f"Job #{beside} has ended: nothing can be enqueued beside it any more.")
    for listener in listeners:
        places = zip(jobs, _positions(listener, len(jobs), using), strict=True)
        link([_beside(listener, job, position) for job, position in places], using)
    for chunk in chunks([listener.job_id for listener in listeners]):
        Job.objects.using(using).filter(pk__in=chunk).update(waiting_for=F("waiting_for") + len(jobs))
    if listeners:
        for some in chunks([job.pk for job in jobs]):
            Job.objects.using(using).filter(pk__in=some).update(has_dependents=True)


def _listeners(on: int, using: str) -> list[Dependency]:
    """The waits for this job of those that still wait, locked: none of them will hear of its end before we are done."""
    open_ends = Dependency.objects.using(using).filter(on=on, status__isnull=True).order_by("job_id")
    waiting = Job.objects.using(using).waiting().order_by("pk").select_for_update()
    locked: set[int] = set()
    for chunk in chunks(sorted({one.job_id for one in open_ends})):
        locked.update(waiting.filter(pk__in=chunk).values_list("pk", flat=True))
    return [one for one in open_ends.all() if one.job_id in locked]


def _positions(listener: Dependency, number: int, using: str) -> Iterable[int | None]:
    """For the results, behind those of the jobs that it waits for already; none where it gets no list of them."""
    if not listener.listed or listener.position is None:
        return repeat(None, number)
    rows = Dependency.objects.using(using).filter(job=listener.job_id, position__isnull=False)
    last = rows.order_by("-position").values_list("position", flat=True).first() or 0
    return range(last + 1, last + 1 + number)


def _beside(listener: Dependency, job: Job, position: int | None) -> Dependency:
    return Dependency(
        on_id=job.pk,
        job_id=listener.job_id,
        rule=listener.rule,
        position=position,
        listed=listener.listed,
    )
