"""The list of jobs, and the page of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from ..models import Job
from . import words
from .actions import as_action, as_asking_action
from .base import ReadOnlyAdmin, database
from .changelist import BEFORE_VAR, JobChangeList
from .filters import BatchFilter, QueueFilter, StatusFilter, TaskFilter, WorkerFilter
from .job_page import JobPage
from .notices import notices
from .pauses import TASK_SWITCHES, switch, task_switch
from .values import PERMISSION, STEERINGS
from .verbs import CANCEL, RETRY, RUN_NOW, VERBS, Verb, act

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.utils.safestring import SafeString


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    list_display = ("number", "state", "call", "queue", "importance", "tried", "age", "duration")
    list_display_links = ("number",)
    list_filter = (StatusFilter, QueueFilter, TaskFilter, WorkerFilter, BatchFilter)
    search_fields = ("id", "task_path")
    search_help_text = _("The number of a job, or a part of a task's path.")
    ordering = ("-id",)
    actions = (*map(as_action, (RETRY, RUN_NOW, CANCEL)), *map(as_asking_action, STEERINGS.values()))

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[JobChangeList]:
        return JobChangeList

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """The filters' own parameters only: any other could be a scan of the table."""
        return lookup in {BEFORE_VAR, *(chosen.parameter_name for chosen in self.list_filter)}

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Job], search_term: str
    ) -> tuple[QuerySet[Job], bool]:
        job_id = words.as_id(search_term)
        if job_id is not None:
            return queryset.filter(pk=job_id), False
        return (queryset.filter(task_path__icontains=search_term.strip()) if search_term else queryset), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {"title": _("Jobs"), **(extra_context or {})}
        if request.method == "GET" and self.has_view_permission(request):
            context["notices"] = notices(request)
        return super().changelist_view(request, context)

    # Permissions and verbs

    def has_retry_permission(self, request: HttpRequest) -> bool:
        return self.may(request, RETRY.permission)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return self.may(request, CANCEL.permission)

    def has_run_now_permission(self, request: HttpRequest) -> bool:
        return self.may(request, RUN_NOW.permission)

    def has_move_permission(self, request: HttpRequest) -> bool:
        return self.may(request, PERMISSION)

    def do(self, request: HttpRequest, verb: Verb, jobs: list[Job], using: str) -> None:
        """Do it, say what happened, and leave a trace in the admin's history."""
        report = act(verb, jobs, using)
        self.message_user(request, str(report), messages.SUCCESS if report.done else messages.WARNING)
        self.log_verb(request, verb.label, [job for job in jobs if verb.can(job)] if report.done else [])

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.verb_view)
        urls = [path(f"<int:job_id>/{name}/", view, {"name": name}, verb_url(name)) for name in VERBS]
        view = self.admin_site.admin_view(self.switch_view)
        urls += [path(f"<int:job_id>/{name}/", view, {"name": name}, verb_url(name)) for name in TASK_SWITCHES]
        return [*urls, *super().get_urls()]

    def verb_view(self, request: HttpRequest, job_id: int, name: str) -> HttpResponse:
        """The target of the buttons on a job's page."""
        verb = VERBS[name]
        return self.posted(
            request, str(job_id), verb.permission, lambda job: self.do(request, verb, [job], database()), back="change"
        )

    def switch_view(self, request: HttpRequest, job_id: int, name: str) -> HttpResponse:
        """And of the one that pauses or resumes the job's task."""
        return self.posted(
            request,
            str(job_id),
            "pause_task",
            lambda job: switch(self, request, name, task=job.task_path),
            back="change",
        )

    # The page of one job

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return []  # the page is a template of its own, not a form

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        verbs = [verb for verb in VERBS.values() if self.may(request, verb.permission) and verb.can(obj)]
        page = JobPage(obj, self.admin_site.name)
        buttons = self.buttons(obj, [(verb.name, verb.label) for verb in verbs])
        if self.may(request, "pause_task"):
            buttons += self.buttons(obj, [task_switch(page.task_is_paused)])
        context |= {"title": str(obj), "subtitle": None, "page": page, "buttons": buttons}
        return super().render_change_form(request, context, add, change, form_url, obj)

    def buttons(self, job: Job, named: list[tuple[str, Any]]) -> list[dict[str, Any]]:
        site = self.admin_site.name
        urls = {name: reverse(f"{site}:{verb_url(name)}", args=[job.pk]) for name, _label in named}
        return [{"name": name, "label": label, "url": urls[name]} for name, label in named]

    # The columns of the list

    @admin.display(description=_("job"))
    def number(self, job: Job) -> str:
        return f"#{job.pk}"

    @admin.display(description=_("status"))
    def state(self, job: Job) -> SafeString:
        return words.state(job)

    @admin.display(description=pgettext_lazy("column", "call"))
    def call(self, job: Job) -> SafeString:
        """The task and its arguments, and below them what went wrong last."""
        return words.short_call(job, getattr(job, "message", ""))

    @admin.display(description=_("queue"))
    def queue(self, job: Job) -> str:
        return job.queue_name

    @admin.display(description=_("priority"))
    def importance(self, job: Job) -> int:
        return job.priority

    @admin.display(description=_("attempts"))
    def tried(self, job: Job) -> SafeString | str:
        return words.attempts(job)

    @admin.display(description=_("age"))
    def age(self, job: Job) -> SafeString:
        """How long ago it was enqueued; when it will run, for a scheduled one."""
        if job.is_scheduled and job.run_after:
            return words.until(job.run_after)
        return words.at(job.enqueued_at, words.roughly(job.age))

    @admin.display(description=_("duration"), empty_value=words.NOTHING)
    def duration(self, job: Job) -> SafeString | None:
        return None if job.duration is None else format_html("<time>{}</time>", words.span(job.duration))


def verb_url(name: str) -> str:
    return f"django_jobqueue_job_{name}"
