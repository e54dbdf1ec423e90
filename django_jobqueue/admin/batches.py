"""The list of batches, and the page of one: how far it is, and what comes after what in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.urls import path, reverse
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from .. import stats
from ..lifecycle import cancel_batch, retry_batch
from ..models import Batch, Job
from . import words
from .base import ReadOnlyAdmin, database
from .graph import DRAWN, graph_of
from .verbs import RETRIED

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse
    from django.utils.safestring import SafeString

#: The list's numbers need not be exact beyond that.
CAP = 1000
VERBS = {"retry": _("Retry what has failed"), "cancel": _("Cancel")}


class BatchChangeList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        self.full_result_count = self.result_count  # or the search would speak of "3 results"
        numbers = stats.batches([batch.pk for batch in self.result_list], database(), CAP)
        for batch in self.result_list:
            batch.numbers = numbers[batch.pk]


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin):
    list_display = ("number", "title", "state", "progress", "created")
    list_display_links = ("number",)
    search_fields = ("id", "name")
    search_help_text = _("The number of a batch, or a part of its name.")
    ordering = ("-id",)
    list_per_page = 30  # with six counts each they are one statement

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return BatchChangeList

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        number = words.as_id(search_term)
        if number is not None:
            return queryset.filter(pk=number), False
        return (queryset.filter(name__icontains=search_term.strip()) if search_term else queryset), False

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        return super().changelist_view(request, {"title": _("Batches"), **(extra_context or {})})

    # Permissions and verbs

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.verb_view)
        urls = [path(f"<int:batch_id>/{name}/", view, {"name": name}, verb_url(name)) for name in VERBS]
        return [*urls, *super().get_urls()]

    def verb_view(self, request: HttpRequest, batch_id: int, name: str) -> HttpResponse:
        """The target of the buttons on a batch's page."""
        return self.posted(
            request, str(batch_id), f"{name}_batch", lambda batch: self.do(request, name, batch), back="change"
        )

    def do(self, request: HttpRequest, name: str, batch: Batch) -> None:
        """Do it, say what happened, and leave a trace in the admin's history."""
        done, sentence = self._retry(batch) if name == "retry" else self._cancel(batch)
        self.message_user(request, sentence, messages.SUCCESS if done else messages.WARNING)
        if done:
            self.log_verb(request, VERBS[name], [batch])

    def _retry(self, batch: Batch) -> tuple[int, str]:
        count = retry_batch(batch.pk, database())
        return count, str(RETRIED % {"count": count})

    def _cancel(self, batch: Batch) -> tuple[int, str]:
        done = cancel_batch(batch.pk, database())
        told = gettext("%(cancelled)d jobs were cancelled, %(requested)d running ones were asked to stop.")
        counts = {"cancelled": done.cancelled, "requested": done.requested}
        return sum(counts.values()), told % counts

    # The page of one batch

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
        obj.numbers = stats.batches([obj.pk], database())[obj.pk]
        jobs = Job.objects.using(database()).filter(batch=obj.pk).order_by("batch_id", "status")
        fields = ("pk", "status", "place", "task_path", "queue_name", "batch_id")
        rows = sorted(jobs.only(*fields)[: DRAWN + 1], key=lambda job: job.pk)
        context |= {
            "title": str(obj),
            "subtitle": None,
            "batch": obj,
            "state": self.state(obj),
            "progress": self.progress(obj),
            "created": words.moment(obj.created_at),
            "facts": [(label, getattr(obj.numbers, word)) for word, label in KIND_LABELS if getattr(obj.numbers, word)],
            "graph": graph_of(rows, database()),
            "jobs_url": f"{reverse(f'{self.admin_site.name}:django_jobqueue_job_changelist')}?batch={obj.pk}",
            "job_page": f"{self.admin_site.name}:django_jobqueue_job_change",
            "buttons": self.buttons(request, obj),
        }
        return super().render_change_form(request, context, add, change, form_url, obj)

    def buttons(self, request: HttpRequest, batch: Any) -> list[dict[str, Any]]:
        numbers = batch.numbers
        can = {"retry": numbers.failed + numbers.cancelled, "cancel": numbers.total - numbers.done}
        return [
            {"name": name, "label": label, "url": reverse(f"{self.admin_site.name}:{verb_url(name)}", args=[batch.pk])}
            for name, label in VERBS.items()
            if can[name] and self.may(request, f"{name}_batch")
        ]

    # The columns of the list

    @admin.display(description=_("batch"))
    def number(self, batch: Batch) -> str:
        return f"#{batch.pk}"

    @admin.display(description=_("name"))
    def title(self, batch: Batch) -> str:
        return batch.name or words.NOTHING

    @admin.display(description=_("status"))
    def state(self, batch: Any) -> SafeString:
        numbers = batch.numbers
        unfinished = numbers.total - numbers.done
        if unfinished:
            word, label = ("cancelling", _("Cancelling")) if batch.cancelled_at else ("running", _("In progress"))
            return words.coloured("failed" if numbers.failed else word, label)
        if numbers.failed:
            return words.coloured("failed", _("Failed"))
        if numbers.cancelled and batch.cancelled_at:
            return words.coloured("cancelled", _("Cancelled"))
        return words.coloured("successful", _("Done"))

    @admin.display(description=_("progress"))
    def progress(self, batch: Any) -> SafeString:
        numbers = batch.numbers
        more = "+" if numbers.capped else ""
        counts = {"done": f"{numbers.done:,}{more}", "total": f"{numbers.total:,}{more}"}
        return words.bar(numbers.done / max(1, numbers.total), gettext("%(done)s of %(total)s") % counts)

    @admin.display(description=_("created"))
    def created(self, batch: Batch) -> SafeString | str:
        return words.at(batch.created_at, words.ago(batch.created_at))


KIND_LABELS = [(status.value.lower(), status.label) for status in Job.Status]


def verb_url(name: str) -> str:
    return f"django_jobqueue_batch_{name}"
