"""Kinds of jobs: the statuses, and "scheduled" as one of its own. What each is called, and how its rows are found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.utils.translation import pgettext_lazy

from ..models import Job

if TYPE_CHECKING:
    from django.db.models import QuerySet

Status = Job.Status


@dataclass(frozen=True, slots=True)
class Kind:
    #: The word in URLs, in CSS classes and in ``stats.totals``.
    word: str
    label: Any
    narrow: Callable[[Any], Any]
    #: The order of the index that holds the kind's rows; any other order would have to read them all first.
    order: tuple[str, ...] = ("-id",)
    #: False: no index holds these rows alone.
    indexed: bool = True

    def of(self, jobs: QuerySet[Job]) -> QuerySet[Job]:
        return self.narrow(jobs)  # type: ignore[no-any-return]

    @property
    def newest_first(self) -> bool:
        return self.order == ("-id",)


def _with_status(status: str) -> Callable[[Any], Any]:
    return lambda jobs: jobs.filter(status=status)


KINDS = {
    kind.word: kind
    for kind in (
        Kind("ready", Status.READY.label, lambda jobs: jobs.in_line(), ("queue_name", "priority", "place", "id")),
        Kind("scheduled", pgettext_lazy("Job", "Scheduled"), lambda jobs: jobs.scheduled(), ("run_after", "id")),
        Kind("running", Status.RUNNING.label, lambda jobs: jobs.running(), ("-worker_id", "-id")),
        Kind("waiting", Status.WAITING.label, _with_status(Status.WAITING)),
        Kind("failed", Status.FAILED.label, lambda jobs: jobs.failed()),
        Kind("cancelled", Status.CANCELLED.label, _with_status(Status.CANCELLED)),
        Kind("successful", Status.SUCCESSFUL.label, _with_status(Status.SUCCESSFUL), indexed=False),
    )
}


def kind_of(job: Job) -> Kind:
    if job.is_scheduled:
        return KINDS["scheduled"]
    return KINDS[job.status.lower()]
