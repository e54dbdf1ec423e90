"""The list of what is paused beside queues: tasks and keys; with a form to pause, and buttons to resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.translation import gettext, pgettext_lazy
from django.utils.translation import gettext_lazy as _

from .. import lifecycle
from ..keys import shortened
from ..models import Pause
from . import words
from .base import ReadOnlyAdmin, database
from .choices import recent
from .notices import about_workers

if TYPE_CHECKING:
    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse
    from django.utils.safestring import SafeString

#: The buttons on a job's page.
TASK_SWITCHES = {"pause_task": _("Pause task"), "resume_task": _("Resume task")}
Kind = Pause.Kind


def task_switch(is_paused: bool) -> tuple[str, Any]:
    """Name and label of the button."""
    name = "resume_task" if is_paused else "pause_task"
    return name, TASK_SWITCHES[name]


def switch(model_admin: ReadOnlyAdmin, request: HttpRequest, name: str, **named: str) -> None:
    """Pause or resume ``task`` or ``key``, say what happened, and leave a trace in the admin's history."""
    [[kind, what]] = named.items()
    using, stored = database(), what if kind == Kind.TASK else shortened(what)
    pauses = Pause.objects.using(using).in_force().filter(kind=kind, name=stored)
    before = list(pauses)
    if name.startswith("pause"):
        changed, label = lifecycle.pause(None, using, **named), _("Pause")
        sentence = gettext("%s is paused. What is running goes on.") if changed else gettext("%s was paused already.")
    else:
        changed, label = lifecycle.resume(None, using, **named), _("Resume")
        sentence = gettext("%s is resumed.") if changed else gettext("%s was not paused.")
    model_admin.message_user(request, sentence % what, messages.SUCCESS if changed else messages.WARNING)
    model_admin.log_verb(request, label, (before or list(pauses.all())) if changed else [])


class PauseForm(forms.Form):
    kind = forms.ChoiceField(label=_("What"), choices=Kind.choices)
    name = forms.CharField(
        label=_("Name"),
        max_length=255,
        widget=forms.TextInput(attrs={"list": "jq-tasks", "autocomplete": "off", "size": 40}),
        help_text=_("A task's path, or the key of a concurrency or rate limit, such as tenant-7."),
    )


@admin.register(Pause)
class PauseAdmin(ReadOnlyAdmin):
    list_display = ("what", "paused", "since", "switch")
    list_display_links = None
    ordering = ("-kind", "name")
    actions = ("resume",)
    fields = ("kind", "name", "paused_at")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        pauses: QuerySet[Any] = super().get_queryset(request).filter(resumed_at__isnull=True)
        return pauses

    def get_list_display(self, request: HttpRequest) -> Any:
        return self.list_display if self.has_pause_permission(request) else self.list_display[:-1]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {"title": _("Paused tasks and keys"), **(extra_context or {})}
        if request.method == "GET" and self.has_view_permission(request):
            context["notices"] = about_workers()
            if self.has_pause_permission(request):
                context |= {
                    "form": context.get("form") or PauseForm(),
                    "tasks": sorted({t for t, _q in recent(request)}),
                }
        return super().changelist_view(request, context)

    # Pause and resume

    def has_pause_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "pause_task")

    @admin.action(description=_("Resume selected"), permissions=["pause"])
    def resume(self, request: HttpRequest, pauses: QuerySet[Pause]) -> None:
        for pause in list(pauses):
            switch(self, request, "resume", **{pause.kind: pause.name})

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view
        return [
            path("pause/", view(self.pause_view), name=verb_url("pause")),
            path("<int:number>/resume/", view(self.resume_view), name=verb_url("resume")),
            *super().get_urls(),
        ]

    def pause_view(self, request: HttpRequest) -> HttpResponse:
        """The target of the form above the list."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not (self.has_view_permission(request) and self.has_pause_permission(request)):
            raise PermissionDenied
        form = PauseForm(request.POST)
        if form.is_valid():
            switch(self, request, "pause", **{form.cleaned_data["kind"]: form.cleaned_data["name"]})
        else:
            for name, errors in form.errors.items():
                self.message_user(request, f"{form.fields[name].label}: {' '.join(map(str, errors))}", messages.ERROR)
        return HttpResponseRedirect(reverse(f"{self.admin_site.name}:django_jobqueue_pause_changelist"))

    def resume_view(self, request: HttpRequest, number: int) -> HttpResponse:
        """The target of the buttons in the list."""
        return self.posted(
            request,
            str(number),
            "pause_task",
            lambda pause: switch(self, request, "resume", **{pause.kind: pause.name}),
        )

    # The columns of the list

    @admin.display(description=_("what"))
    def what(self, pause: Pause) -> str:
        return str(pause.get_kind_display())

    @admin.display(description=_("name"))
    def paused(self, pause: Pause) -> SafeString | str:
        if pause.kind != Kind.TASK:
            return format_html('<span class="jq-path">{}</span>', pause.name)
        url = reverse(f"{self.admin_site.name}:django_jobqueue_job_changelist")
        return format_html('<a class="jq-path" href="{}?{}">{}</a>', url, urlencode({"task": pause.name}), pause.name)

    @admin.display(description=_("since"))
    def since(self, pause: Pause) -> SafeString | str:
        return words.ago(pause.paused_at)

    @admin.display(description=pgettext_lazy("column", "switch"))
    def switch(self, pause: Pause) -> SafeString:
        url = reverse(f"{self.admin_site.name}:{verb_url('resume')}", args=[pause.pk])
        return words.button(url, gettext("Resume"), f"{gettext('Resume')} {pause.name}")


def verb_url(name: str) -> str:
    return f"django_jobqueue_pause_{name}"
