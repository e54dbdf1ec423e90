"""The list of workers, the living ones first."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.db.models import Case, IntegerField, Value, When
from django.db.models.functions import Now
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from ..models import Job, Worker
from ..models.worker import ALIVE
from . import words
from .base import ReadOnlyAdmin, database

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.utils.safestring import SafeString

#: So many running jobs of a worker are named in its row ...
NAMED = 3
#: ... and so many are read for all the rows of a page.
READ = 2000


class WorkerChangeList(ChangeList):
    def get_ordering(self, request: HttpRequest, queryset: QuerySet[Any]) -> list[Any]:
        return ["gone", "-id"]

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        attach_jobs(self.result_list)


def attach_jobs(workers: list[Any]) -> None:
    """Give each worker the jobs that it is running, as ``running_jobs``. One query."""
    jobs: dict[int, list[Job]] = defaultdict(list)
    alive = [worker.pk for worker in workers if worker.is_alive]
    running = Job.objects.using(database()).running().filter(worker_id__in=alive).order_by("worker_id")
    for job in running.only("pk", "worker_id", "task_path")[:READ]:
        jobs[job.worker_id or 0].append(job)
    for worker in workers:
        worker.running_jobs = jobs[worker.pk]


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    list_display = ("name", "state", "takes", "slots", "heartbeat", "jobs", "started")
    list_filter = ("status",)
    ordering = ("-id",)
    # Not the model's own fields where the list has better words for them.
    fields = ("hostname", "pid", "state", "takes", "slots", "jobs", "start", "beat", "lease_end", "end")
    readonly_fields = fields

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return WorkerChangeList

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        gone = Case(When(status__in=ALIVE, then=Value(0)), default=Value(1), output_field=IntegerField())
        # The database's clock is the one that leases go by.
        workers: QuerySet[Any] = super().get_queryset(request).annotate(gone=gone, now=Now())
        return workers

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        worker = super().get_object(request, object_id, from_field)
        if worker is not None:
            attach_jobs([worker])
        return worker

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {"title": _("Workers"), **(extra_context or {})})

    @admin.display(description=_("status"))
    def state(self, worker: Any) -> SafeString:
        if worker.is_alive and worker.lease_until < worker.now:
            return words.coloured(
                "failed", _("Silent"), _("Its lease is over: a running worker will give its jobs back.")
            )
        colours = {"RUNNING": "successful", "STOPPING": "scheduled", "STOPPED": "cancelled", "LOST": "failed"}
        return words.coloured(colours.get(worker.status, "waiting"), worker.get_status_display())

    @admin.display(description=_("queues"))
    def takes(self, worker: Worker) -> str:
        if isinstance(worker.queues, list) and worker.queues:
            return ", ".join(map(str, worker.queues))
        return str(_("all"))

    @admin.display(description=_("last heartbeat"))
    def heartbeat(self, worker: Any) -> SafeString | str:
        text = words.ago(worker.heartbeat_at, worker.now)
        if worker.is_alive and worker.lease_until < worker.now:
            return format_html('<span class="jq-late">{}</span>', text)
        return text

    @admin.display(description=_("running jobs"))
    def jobs(self, worker: Any) -> SafeString | str:
        if not worker.running_jobs:
            return words.NOTHING
        site = self.admin_site.name
        page = f"{site}:django_jobqueue_job_change"
        named = [(reverse(page, args=[job.pk]), job.task_name, job.pk) for job in worker.running_jobs[:NAMED]]
        links = format_html_join(", ", '<a href="{}">{} #{}</a>', named)
        more = len(worker.running_jobs) - NAMED
        if more <= 0:
            return links
        everything = f"{reverse(f'{site}:django_jobqueue_job_changelist')}?worker={worker.pk}"
        return format_html('{}, <a href="{}">{}</a>', links, everything, _("%d more") % more)

    @admin.display(description=pgettext_lazy("Worker", "started"))
    def started(self, worker: Any) -> SafeString | str:
        return words.at(worker.started_at, gettext("%s ago") % words.roughly(worker.now - worker.started_at))

    # The rows of one worker's page

    @admin.display(description=_("started at"))
    def start(self, worker: Worker) -> SafeString | str:
        return words.moment(worker.started_at)

    @admin.display(description=_("last heartbeat"))
    def beat(self, worker: Worker) -> SafeString | str:
        return words.moment(worker.heartbeat_at)

    @admin.display(description=_("lease until"))
    def lease_end(self, worker: Worker) -> SafeString | str:
        return words.moment(worker.lease_until)

    @admin.display(description=_("stopped at"))
    def end(self, worker: Worker) -> SafeString | str:
        return words.moment(worker.stopped_at) or words.NOTHING
