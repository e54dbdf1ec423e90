"""The list of queues, with what is in them, and pause and resume."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.utils import quote, unquote
from django.contrib.admin.views.main import ChangeList
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.translation import gettext, ngettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from .. import stats
from ..lifecycle import pause, resume
from ..models import Queue
from . import words
from .base import ReadOnlyAdmin, database
from .notices import about_workers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.utils.safestring import SafeString

PAUSE, RESUME = "pause", "resume"
LABELS = {PAUSE: _("Pause"), RESUME: _("Resume")}


class QueueChangeList(ChangeList):
    #: Queues in which jobs are in line, but that are not in the table: no worker has met them yet.
    unmet: list[stats.QueueNumbers] = []

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        numbers = {queue.name: queue for queue in stats.queues(database())}
        self.result_list = list(self.result_list)
        for queue in self.result_list:
            queue.numbers = numbers.get(queue.name)
        self.unmet = [queue for queue in numbers.values() if not queue.met]


@admin.register(Queue)
class QueueAdmin(ReadOnlyAdmin):
    list_display = ("jobs", "paused", "ready", "oldest", "scheduled", "running", "switch")
    list_display_links = None
    ordering = ("name",)
    actions = ("pause", "resume")
    fields = ("name", "paused_at", "created_at")
    readonly_fields = fields

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return QueueChangeList

    def get_list_display(self, request: HttpRequest) -> Any:
        return self.list_display if self.has_pause_permission(request) else self.list_display[:-1]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {"title": _("Queues"), **(extra_context or {})}
        if request.method == "GET" and self.has_view_permission(request):
            context["notices"] = about_workers()
        return super().changelist_view(request, context)

    # Pause and resume

    def has_pause_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "pause_queue")

    @admin.action(description=_("Pause selected queues"), permissions=["pause"])
    def pause(self, request: HttpRequest, queues: QuerySet[Queue]) -> None:
        self.do(request, PAUSE, queues)

    @admin.action(description=_("Resume selected queues"), permissions=["pause"])
    def resume(self, request: HttpRequest, queues: QuerySet[Queue]) -> None:
        self.do(request, RESUME, queues)

    def do(self, request: HttpRequest, name: str, queues: Iterable[Queue]) -> None:
        """Pause or resume them, say what happened, and leave a trace in the admin's history."""
        verb = pause if name == PAUSE else resume
        queues = list(queues)
        changed = [queue for queue in queues if verb(queue.name, using=database())]
        sentences = _report(name, len(changed), len(queues) - len(changed))
        self.message_user(request, " ".join(sentences), messages.SUCCESS if changed else messages.WARNING)
        if changed:
            self.log_verb(request, LABELS[name], changed)

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.verb_view)
        urls = [path(f"<path:queue>/{name}/", view, {"name": name}, verb_url(name)) for name in LABELS]
        return [*urls, *super().get_urls()]

    def verb_view(self, request: HttpRequest, queue: str, name: str) -> HttpResponse:
        """The target of the buttons in the list."""
        return self.posted(request, unquote(queue), "pause_queue", lambda found: self.do(request, name, [found]))

    # The columns of the list

    @admin.display(description=_("queue"))
    def jobs(self, queue: Queue) -> SafeString:
        return self.link(queue, "", queue.name)

    @admin.display(description=_("paused"))
    def paused(self, queue: Queue) -> SafeString | str:
        if queue.paused_at is None:
            return words.NOTHING
        return format_html('<span class="jq-word jq-paused">{}</span> {}', _("Paused"), words.ago(queue.paused_at))

    @admin.display(description=pgettext_lazy("Job", "ready"))
    def ready(self, queue: Any) -> SafeString | str:
        return self.link(queue, "ready", str(queue.numbers.ready)) if queue.numbers else words.NOTHING

    @admin.display(description=_("longest wait"))
    def oldest(self, queue: Any) -> str:
        seconds = queue.numbers and queue.numbers.oldest_seconds
        return words.NOTHING if seconds is None else words.span(timedelta(seconds=seconds))

    @admin.display(description=pgettext_lazy("Job", "scheduled"))
    def scheduled(self, queue: Any) -> SafeString | str:
        return self.link(queue, "scheduled", str(queue.numbers.scheduled)) if queue.numbers else words.NOTHING

    @admin.display(description=pgettext_lazy("Job", "running"))
    def running(self, queue: Any) -> SafeString | str:
        return self.link(queue, "running", str(queue.numbers.running)) if queue.numbers else words.NOTHING

    @admin.display(description=pgettext_lazy("column", "switch"))
    def switch(self, queue: Queue) -> SafeString:
        name = RESUME if queue.is_paused else PAUSE
        url = reverse(f"{self.admin_site.name}:{verb_url(name)}", args=[quote(queue.pk)])
        return words.button(url, LABELS[name], f"{LABELS[name]} {queue.name}")

    def link(self, queue: Queue, status: str, text: str) -> SafeString:
        url = reverse(f"{self.admin_site.name}:django_jobqueue_job_changelist")
        query = {"queue": queue.name, "status": status} if status else {"queue": queue.name}
        return format_html('<a href="{}?{}">{}</a>', url, urlencode(query), text)


def verb_url(name: str) -> str:
    return f"django_jobqueue_queue_{name}"


def _report(name: str, changed: int, unchanged: int) -> list[str]:
    sentences = []
    if changed and name == PAUSE:
        done = ngettext("%(count)d queue was paused.", "%(count)d queues were paused.", changed)
        sentences += [done % {"count": changed}, gettext("What is running goes on.")]
    elif changed:
        done = ngettext("%(count)d queue was resumed.", "%(count)d queues were resumed.", changed)
        sentences.append(done % {"count": changed})
    if unchanged:
        left = ngettext("%(count)d was so already.", "%(count)d were so already.", unchanged)
        sentences.append(left % {"count": unchanged})
    return sentences
