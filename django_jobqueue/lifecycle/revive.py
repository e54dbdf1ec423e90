"""Revive: when jobs are retried, those that were ended for their sake wait for them again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from django.db.models import Exists, OuterRef, Q, QuerySet

from ..dialects import get_dialect
from ..models import Dependency, Job
from ..models.job import UNFINISHED
from .follow import STRICT, chunks

#: What a job may be that was ended for another's sake.
ENDED = (Job.Status.CANCELLED, Job.Status.FAILED)
#: What it was ended by.
SAD = Q(rule__in=STRICT, status__in=ENDED)
#: So many are looked up at once: for many more PostgreSQL would rather read the whole table.
SOURCES = 50
OPEN_OR_SAD = Q(status__isnull=True) | SAD


def has_to_wait(using: str) -> Exists:
    """Is there something that the job has to wait for, or has waited for in vain? Then it cannot just run again."""
    return Exists(Dependency.objects.using(using).filter(OPEN_OR_SAD, job_id=OuterRef("pk")))


def lacks_a_result(using: str) -> Exists:
    """Has a result been deleted that the job was to get, before it got it? Then it can never run."""
    return Exists(Dependency.objects.using(using).filter(expired=True, job_id=OuterRef("pk")))


def note_expired(ids: Sequence[int], using: str) -> None:
    """The results of these jobs have been deleted: note that for the jobs that were to get them and have not run."""
    rows = Dependency.objects.using(using)
    takers = rows.filter(position__isnull=False)
    for start in range(0, len(ids), SOURCES):
        chunk = ids[start : start + SOURCES]
        for some in chunks(sorted(set(takers.filter(on__in=chunk).values_list("job_id", flat=True)))):
            if jobs := sorted(set(rows.filter(OPEN_OR_SAD, job__in=some).values_list("job_id", flat=True))):
                takers.filter(on__in=chunk, job__in=jobs).update(expired=True)


def revive(ids: Sequence[int], using: str) -> int:
    """Some of these jobs are ready again. Let wait again those of the others whose wait makes sense again, and those
    who were ended because one of these had not succeeded, and so on; how many.
    """
    rows = Job.objects.using(using).filter(has_to_wait(using), pk__in=ids)
    revived = _revive(sorted(rows.values_list("pk", flat=True)), using)
    number, latest = len(revived), sorted({*ids, *revived})
    while latest:
        latest = [pk for chunk in chunks(latest) for pk in _revive_those_behind(chunk, using)]
        number += len(latest)
    return number


def _revive_those_behind(ids: Sequence[int], using: str) -> list[int]:
    behind = _sad_ends(using).filter(on__in=ids).values_list("job_id", flat=True)
    return _revive(sorted(set(behind)), using)


def _revive(candidates: Sequence[int], using: str) -> list[int]:
    return get_dialect(using).transact(lambda: _let_wait(candidates, using)) if candidates else []


def _let_wait(candidates: Sequence[int], using: str) -> list[int]:
    jobs = Job.objects.using(using)
    ended = jobs.filter(pk__in=candidates, status__in=ENDED).order_by("pk")
    locked = list(ended.select_for_update().values_list("pk", flat=True))
    sad = _sad_ends(using)
    still_ended = Exists(jobs.filter(pk=OuterRef("on_id")).exclude(status__in=UNFINISHED))
    hopeless = set(sad.filter(still_ended, job__in=locked).values_list("job_id", flat=True))
    revived = [pk for pk in locked if pk not in hopeless]
    sad.filter(job__in=revived).update(status=None)
    open_ends = Dependency.objects.using(using).filter(job__in=revived, status__isnull=True)
    for pk, number in sorted(Counter(open_ends.values_list("job_id", flat=True)).items()):
        jobs.filter(pk=pk).update(
            status=Job.Status.WAITING,
            waiting_for=number,
            place=None,
            finished_at=None,
            prune_at=None,
            cancel_requested_at=None,
        )
    jobs.filter(pk__in=sorted(set(open_ends.values_list("on_id", flat=True)))).update(has_dependents=True)
    return revived


def _sad_ends(using: str) -> QuerySet[Dependency]:
    """What was waited for and has not succeeded, where that ended those who waited."""
    return Dependency.objects.using(using).filter(SAD)
