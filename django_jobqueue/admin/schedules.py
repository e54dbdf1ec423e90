"""The list of schedules, the form for those that are made here, and pause, resume and run now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.urls import path
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext_lazy

from ..lifecycle import pause_schedule, resume_schedule, retime_schedule, run_schedule_now
from ..models import Schedule
from .base import database
from .notices import about_workers
from .schedule_columns import LABELS, PAUSE, RESUME, RUN_NOW, ScheduleColumns, verb_url
from .schedule_form import ScheduleForm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db.models import QuerySet
    from django.http import HttpRequest, HttpResponse

PERMISSIONS = {PAUSE: "pause_schedule", RESUME: "pause_schedule", RUN_NOW: "run_schedule"}
VERBS = {PAUSE: pause_schedule, RESUME: resume_schedule, RUN_NOW: run_schedule_now}
DONE = {
    PAUSE: ngettext_lazy("%(count)d schedule was paused.", "%(count)d schedules were paused.", "count"),
    RESUME: ngettext_lazy("%(count)d schedule was resumed.", "%(count)d schedules were resumed.", "count"),
    RUN_NOW: ngettext_lazy("%(count)d job was enqueued.", "%(count)d jobs were enqueued.", "count"),
}
STAYS = _("%(name)s stands in the code: take it out there.")
LEFT = ngettext_lazy("%(count)d was left as it was.", "%(count)d were left as they were.", "count")

MADE_HERE = tuple(ScheduleForm.Meta.fields)
TOLD = ("state", "when", "following", "previous", "last_job", "skips", "source")


@admin.register(Schedule)
class ScheduleAdmin(ScheduleColumns):
    form = ScheduleForm
    list_display: tuple[str, ...] = ("called", "when", "state", "following", "previous", "last_job")
    list_display_links = ("called",)
    search_fields = ("name", "task_path")
    ordering = ("name",)
    actions = ("pause", "resume", "run_now")
    readonly_fields = (*TOLD, "call")

    # Who may do what: rows from the code are the code's, all but their pause

    def has_add_permission(self, request: HttpRequest) -> bool:
        return self.may(request, "add_schedule")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request, "change_schedule") and not (obj is not None and obj.is_from_code)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request, "delete_schedule") and not (
            obj is not None and obj.is_from_code and obj.vanished_at is None
        )

    def has_pause_permission(self, request: HttpRequest) -> bool:
        return self.may(request, PERMISSIONS[PAUSE])

    def has_run_now_permission(self, request: HttpRequest) -> bool:
        return self.may(request, PERMISSIONS[RUN_NOW])

    # The form

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return [(None, {"fields": MADE_HERE})]
        if not self.has_change_permission(request, obj):
            others = [name for name in MADE_HERE if name not in ("name", "args", "kwargs", "spec", "time_zone")]
            return [(None, {"fields": (*TOLD, "call", *others)})]
        return [(None, {"fields": TOLD}), (_("Definition"), {"fields": MADE_HERE})]

    def save_model(self, request: HttpRequest, obj: Schedule, form: Any, change: bool) -> None:
        """Only what the form has: workers move the rest of the row on meanwhile."""
        times = Schedule.objects.using(database()).filter(pk=obj.pk).values_list("spec", "time_zone").first()
        obj.save(using=database(), update_fields=MADE_HERE if change else None)
        if times != (obj.spec, obj.time_zone):
            retime_schedule(obj.pk, database())

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Schedule]) -> None:
        for schedule in queryset:
            if self.has_delete_permission(request, schedule):
                schedule.delete(using=database())
            else:
                self.message_user(request, STAYS % {"name": schedule}, messages.WARNING)

    # Pause, resume, run now

    @admin.action(description=_("Pause selected schedules"), permissions=["pause"])
    def pause(self, request: HttpRequest, schedules: QuerySet[Schedule]) -> None:
        self.do(request, PAUSE, schedules)

    @admin.action(description=_("Resume selected schedules"), permissions=["pause"])
    def resume(self, request: HttpRequest, schedules: QuerySet[Schedule]) -> None:
        self.do(request, RESUME, schedules)

    @admin.action(description=_("Run selected schedules now"), permissions=["run_now"])
    def run_now(self, request: HttpRequest, schedules: QuerySet[Schedule]) -> None:
        self.do(request, RUN_NOW, schedules)

    def do(self, request: HttpRequest, name: str, schedules: Iterable[Schedule]) -> None:
        """Do it, say what happened, and leave a trace in the admin's history."""
        schedules, changed = list(schedules), []
        for schedule in schedules:
            try:
                if VERBS[name](schedule.pk, database()):
                    changed.append(schedule)
            except Exception as error:  # an unknown task, or a layer that refuses it: the others are done all the same
                self.message_user(request, f"{schedule}: {error}", messages.ERROR)
        numbers = ((DONE[name], len(changed)), (LEFT, len(schedules) - len(changed)))
        sentences = [str(sentence % {"count": count}) for sentence, count in numbers if count]
        self.message_user(request, " ".join(sentences), messages.SUCCESS if changed else messages.WARNING)
        self.log_verb(request, LABELS[name], changed)

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.verb_view)
        urls = [path(f"<int:pk>/{name}/", view, {"name": name}, verb_url(name)) for name in LABELS]
        return [*urls, *super().get_urls()]

    def verb_view(self, request: HttpRequest, pk: int, name: str) -> HttpResponse:
        """The target of the buttons in the list."""
        return self.posted(request, str(pk), PERMISSIONS[name], lambda found: self.do(request, name, [found]))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        context = {"title": _("Schedules"), **(extra_context or {})}
        if request.method == "GET" and self.has_view_permission(request):
            context["notices"] = about_workers()
        return super().changelist_view(request, context)

    def get_list_display(self, request: HttpRequest) -> Any:
        buttons = (("switch", PAUSE), ("run", RUN_NOW))
        return (*self.list_display, *(column for column, name in buttons if self.may(request, PERMISSIONS[name])))
