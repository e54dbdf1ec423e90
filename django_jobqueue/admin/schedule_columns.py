"""How a schedule is told in the list and on its page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from ..models import Job, Schedule
from . import words
from .base import ReadOnlyAdmin

if TYPE_CHECKING:
    from django.utils.safestring import SafeString

PAUSE, RESUME, RUN_NOW = "pause", "resume", "run_now"
LABELS = {RUN_NOW: _("Run now"), PAUSE: _("Pause"), RESUME: _("Resume")}


class ScheduleColumns(ReadOnlyAdmin):
    @admin.display(description=_("schedule"))
    def called(self, schedule: Schedule) -> SafeString:
        """The name; below it the task, where the name does not say it."""
        if schedule.name.startswith(schedule.task_path):
            return format_html("{}", schedule.name)
        return format_html('{}<div class="jq-under">{}</div>', schedule.name, schedule.task_path)

    @admin.display(description=_("when"))
    def when(self, schedule: Schedule) -> SafeString:
        spec = f"{schedule.spec} {schedule.time_zone}".strip()
        return format_html('<span title="{}">{}</span>', spec, schedule.description)

    @admin.display(description=_("status"))
    def state(self, schedule: Schedule) -> SafeString:
        if schedule.vanished_at is not None:
            return words.coloured("cancelled", _("Not in the code"), _("No worker has it any more: it can be deleted."))
        if schedule.paused_at is not None:
            paused = words.coloured("paused", _("Paused"))
            return format_html("{} {}", paused, words.ago(schedule.paused_at))
        if schedule.error:
            failing = words.coloured("failed", _("Failing"), schedule.error)
            return format_html('{}<div class="jq-message">{}</div>', failing, schedule.error)
        return words.coloured("successful", _("Active"))

    @admin.display(description=_("next run"))
    def following(self, schedule: Schedule) -> SafeString | str:
        if schedule.queued_at is not None:
            return words.at(schedule.queued_at, str(_("when the last job has ended")))
        return words.NOTHING if schedule.next_run_at is None else words.until(schedule.next_run_at)

    @admin.display(description=_("last run"))
    def previous(self, schedule: Schedule) -> SafeString | str:
        return words.ago(schedule.last_run_at)

    @admin.display(description=_("last job"))
    def last_job(self, schedule: Schedule) -> SafeString | str:
        if schedule.last_job_id is None:
            return words.NOTHING
        url = reverse(f"{self.admin_site.name}:django_jobqueue_job_change", args=[schedule.last_job_id])
        return format_html('<a href="{}">#{}</a>', url, schedule.last_job_id)

    @admin.display(description=pgettext_lazy("column", "switch"))
    def switch(self, schedule: Schedule) -> SafeString:
        return self.button(RESUME if schedule.is_paused else PAUSE, schedule)

    @admin.display(description=_("run"))
    def run(self, schedule: Schedule) -> SafeString:
        return self.button(RUN_NOW, schedule)

    def button(self, name: str, schedule: Schedule) -> SafeString:
        url = reverse(f"{self.admin_site.name}:{verb_url(name)}", args=[schedule.pk])
        return words.button(url, LABELS[name], f"{LABELS[name]}: {schedule}")

    # On the page of one schedule

    @admin.display(description=_("call"))
    def call(self, schedule: Schedule) -> SafeString:
        job = Job(task_path=schedule.task_path, args=schedule.args, kwargs=schedule.kwargs)
        return format_html("<code>{}</code>", words.call(job))

    @admin.display(description=_("skipped runs"))
    def skips(self, schedule: Schedule) -> SafeString | str:
        if not schedule.skipped:
            return words.NOTHING
        return format_html("{} ({})", schedule.skipped, words.ago(schedule.skipped_at))

    @admin.display(description=_("source"))
    def source(self, schedule: Schedule) -> Any:
        return _("The code: change it there.") if schedule.is_from_code else _("Made here.")


def verb_url(name: str) -> str:
    return f"django_jobqueue_schedule_{name}"
