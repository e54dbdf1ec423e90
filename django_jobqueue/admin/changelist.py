"""The list of jobs: each page is read from the end of an index, or from a window of the newest ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.contrib.admin.views.main import ChangeList

from ..models import Attempt, Job
from .kinds import KINDS, Kind, kind_of
from .words import as_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db.models import QuerySet
    from django.http import HttpRequest

#: So many rows may be read to find those that no index can find.
WINDOW = 50_000

#: The page "before this id": how one gets past the last page, and past the window.
BEFORE_VAR = "id__lt"


@dataclass(frozen=True, slots=True)
class Window:
    """Only jobs after this id are looked at."""

    after: int
    #: The link to the same list of the jobs before.
    older: str

    @property
    def size(self) -> str:
        return f"{WINDOW:,}"


class JobChangeList(ChangeList):
    window: Window | None = None
    older: str | None = None

    @property
    def kind(self) -> Kind | None:
        if "worker" in self.params:
            return KINDS["running"]
        return KINDS.get(self.params.get("status", ""))

    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        if self.params.get("batch"):
            return ["batch_id", "status", "-id"]  # the index of batches
        return list(self.kind.order if self.kind else ("-id",))

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Job]:
        jobs: QuerySet[Job] = super().get_queryset(request, exclude_parameters)
        if self._must_be_searched():
            floor = self._floor()
            if floor > 0:
                self.window = Window(floor, self.get_query_string({BEFORE_VAR: floor + 1}))
                jobs = jobs.filter(id__gt=floor)
        return jobs.defer("result", "options")

    def _must_be_searched(self) -> bool:
        """Is there a condition that no index answers?"""
        if as_id(self.query) is not None:
            return False
        asked = {"task", "queue"}
        if self.kind is not None and not self.kind.indexed:
            asked.add("status")
        if self.kind is not None and self.kind.word == "ready":
            asked.remove("queue")  # the line is indexed by it
        return bool(self.query) or any(self.params.get(name) for name in asked)

    def _floor(self) -> int:
        """The id at which the window ends; 0: there is no need for one."""
        before = as_id(self.params.get(BEFORE_VAR, ""))
        jobs = self.root_queryset.filter(id__lt=before) if before else self.root_queryset
        if self.kind is not None and self.kind.indexed:
            beyond = self.kind.of(jobs).order_by(*self.kind.order).values_list("id", flat=True)[WINDOW : WINDOW + 1]
            last = next(iter(beyond), None)
            if last is None or self.kind.newest_first:
                return last or 0
        newest = next(iter(jobs.order_by("-id").values_list("id", flat=True)[:1]), 0)
        return max(0, newest - WINDOW)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        jobs = list(self.result_list)
        attach_messages(jobs)
        self.result_list = jobs
        self.show_admin_actions = bool(jobs)
        self.full_result_count = self.result_count  # or the search would speak of "10000 results"
        on_last_page = not self.multi_page or self.page_num == self.paginator.num_pages
        if jobs and on_last_page and self.paginator.capped and self.get_ordering(request, self.queryset) == ["-id"]:
            self.older = self.get_query_string({BEFORE_VAR: jobs[-1].pk})


def attach_messages(jobs: Iterable[Job]) -> None:
    """Give each job that has not succeeded the message of its latest attempt, as ``message``. One query."""
    by_id = {job.pk: job for job in jobs if job.attempts and _tells(job)}
    if not by_id:
        return
    using = next(iter(by_id.values()))._state.db
    # A few rows too many for some jobs, but every database reads them through the primary key; of pairs not all do.
    numbers = {job.attempts for job in by_id.values()}
    latest = Attempt.objects.using(using).filter(job_id__in=by_id, number__in=numbers)
    for job_id, number, message in latest.values_list("job_id", "number", "message"):
        if by_id[job_id].attempts == number:
            by_id[job_id].message = message  # type: ignore[attr-defined]


def _tells(job: Job) -> bool:
    return kind_of(job).word not in ("running", "successful")
