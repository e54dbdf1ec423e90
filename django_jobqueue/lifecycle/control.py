"""Control: what people do to jobs: retry, cancel, run now, move, change the priority or the time.

Each verb takes jobs by their numbers or as a queryset, however many those are: it works in batches, each a transaction
of its own, and leaves alone what it cannot be done to. ``using`` is the alias of the jobs' database; None: see
``write_route``. ``limit`` ends it after so many jobs; ``progress`` is called
after each batch with how many jobs were changed so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TypeVar

from django.db.models import QuerySet

from ..dialects import get_dialect
from ..models import Job
from . import notify
from .changes import CANCEL, RETRY, RUN_NOW, Change, to_priority, to_queue, to_time
from .portions import Jobs, portions
from .put_back import Retried, put_back
from .route import write_route

T = TypeVar("T")

Report = Callable[[int], None]
Steps = Callable[[list[int]], None]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What ``cancel`` did: jobs that had not started are cancelled, running ones were asked to stop."""

    cancelled: int = 0
    requested: int = 0

    def __add__(self, other: Cancelled) -> Cancelled:
        return Cancelled(self.cancelled + other.cancelled, self.requested + other.requested)


class Retrying:
    """``RETRY`` that also counts the jobs that it leaves alone for their unique keys."""

    def __init__(self) -> None:
        self.held = 0
        self.change = replace(RETRY, writing=self._write)

    def _write(self, jobs: QuerySet[Job]) -> list[int]:
        done = put_back(jobs)
        self.held += done.held
        return [done.retried]


def retry(jobs: Jobs, using: str | None = None, *, limit: int | None = None, progress: Report | None = None) -> int:
    """Put failed and cancelled jobs back in line, each with a full set of attempts. Return the number of jobs retried.

    Skip jobs with another status, jobs whose unique key another job has taken, and jobs that were ended because a job
    they depend on did not succeed, unless that job is retried too. Earlier attempts stay on record. Jobs that were
    ended because one of these jobs had not succeeded wait for it again.
    """
    return retry_all(jobs, using, limit=limit, progress=progress).retried


def retry_all(
    jobs: Jobs, using: str | None = None, *, limit: int | None = None, progress: Report | None = None
) -> Retried:
    """Do the same as ``retry``. Return also the number of jobs skipped because another job has their unique key."""
    retrying = Retrying()
    done = apply(retrying.change, jobs, using, limit=limit, progress=_total(progress))
    return Retried(sum(done), retrying.held)


def cancel(
    jobs: Jobs, using: str | None = None, *, limit: int | None = None, progress: Report | None = None
) -> Cancelled:
    """Cancel jobs that have not started, and ask running jobs to stop. Skip finished jobs. Return both numbers.

    A running job ends CANCELLED unless it succeeds or fails for good first. It is never retried.
    """
    cancelled, requested, back = apply(CANCEL, jobs, using, limit=limit, progress=_total(progress))
    return Cancelled(cancelled + back, requested)


def run_now(jobs: Jobs, using: str | None = None, *, limit: int | None = None, progress: Report | None = None) -> int:
    """Put scheduled jobs in line now. Return the number of jobs changed."""
    return sum(apply(RUN_NOW, jobs, using, limit=limit, progress=_total(progress)))


def move(
    jobs: Jobs,
    queue_name: str,
    using: str | None = None,
    *,
    limit: int | None = None,
    progress: Report | None = None,
) -> int:
    """Move jobs that have not started to another queue. Each keeps its place in line. Return the number of jobs moved.

    Raise ``ValueError`` for a name that no queue can have.
    """
    return sum(apply(to_queue(queue_name), jobs, using, limit=limit, progress=_total(progress)))


def set_priority(
    jobs: Jobs, priority: int, using: str | None = None, *, limit: int | None = None, progress: Report | None = None
) -> int:
    """Change the priority of jobs that have not started. Each keeps its place in line.

    Return the number of jobs changed. Raise ``ValueError`` for a priority that is not between -100 and 100.
    """
    return sum(apply(to_priority(priority), jobs, using, limit=limit, progress=_total(progress)))


def reschedule(
    jobs: Jobs,
    run_after: datetime | None = None,
    using: str | None = None,
    *,
    limit: int | None = None,
    progress: Report | None = None,
) -> int:
    """Set the earliest start of ready jobs, an aware datetime. Return the number of jobs changed.

    None, or a time in the past, puts scheduled jobs in line now.
    """
    return sum(apply(to_time(run_after), jobs, using, limit=limit, progress=_total(progress)))


# -- any of them ----------------------------------------------------------------------------------


def apply(
    change: Change,
    jobs: Jobs,
    using: str | None = None,
    *,
    kinds: Sequence[str] | None = None,
    limit: int | None = None,
    progress: Steps | None = None,
) -> list[int]:
    """Apply the change to the eligible jobs. Return the number of rows that each step changed."""
    using = write_route(using, jobs)
    done = [0] * len(change.steps)
    for batch in portions(jobs, using, change.kinds if kinds is None else kinds):
        some = batch if limit is None else _first(change, batch, limit - sum(done))
        written = _write(change, some)
        done = [sum(pair) for pair in zip(done, written, strict=True)]
        if progress is not None:
            progress(done)
        if limit is not None and sum(done) >= limit:
            break
    return done


def _total(progress: Report | None) -> Steps | None:
    return None if progress is None else lambda done: progress(sum(done))


def _first(change: Change, batch: QuerySet[Job], number: int) -> QuerySet[Job]:
    able = change.of(batch).order_by("pk").values_list("pk", flat=True)[:number]
    return batch.filter(pk__in=_by_index(batch, lambda: list(able)))


def _write(change: Change, batch: QuerySet[Job]) -> list[int]:
    """One transaction: who interrupts it has either all of the batch or none."""
    written = _by_index(batch, lambda: change.write(batch))
    if change.wakes and any(written):
        notify.look(batch.db)
    return written


def _by_index(batch: QuerySet[Job], do: Callable[[], T]) -> T:
    return get_dialect(batch.db).transact_by_index(do)


def count(
    change: Change,
    jobs: Jobs,
    using: str | None = None,
    *,
    kinds: Sequence[str] | None = None,
    limit: int | None = None,
) -> int:
    """To how many jobs it would be done now. Reads what ``apply`` would, and writes nothing."""
    using = write_route(using, jobs)
    number = 0
    for batch in portions(jobs, using, change.kinds if kinds is None else kinds):
        number += _by_index(batch, change.of(batch).count)
        if limit is not None and number >= limit:
            return limit
    return number


def examples(
    change: Change,
    jobs: Jobs,
    using: str | None = None,
    *,
    kinds: Sequence[str] | None = None,
    limit: int,
) -> list[Job]:
    """The first of those that it would be done to."""
    using = write_route(using, jobs)
    found: list[Job] = []
    for batch in portions(jobs, using, change.kinds if kinds is None else kinds):
        found += _by_index(batch, partial(list, change.of(batch).order_by("pk")[: limit - len(found)]))
        if len(found) >= limit:
            break
    return found
