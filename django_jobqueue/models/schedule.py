"""Schedule: when workers enqueue a task by themselves."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from ..schedules import MOST_CAUGHT_UP
from ..timing import Timing, parse
from .fields import KeyField


class Overlap(models.TextChoices):
    ALLOW = "allow", pgettext_lazy("Overlap", "Allow: run both")
    SKIP = "skip", pgettext_lazy("Overlap", "Skip this run")
    QUEUE = "queue", pgettext_lazy("Overlap", "Queue: one waits behind the last")
    CANCEL = "cancel", pgettext_lazy("Overlap", "Cancel the last")


class ScheduleQuerySet(models.QuerySet["Schedule"]):
    def from_code(self) -> ScheduleQuerySet:
        return self.exclude(fingerprint="")


class Schedule(models.Model):
    """One schedule: from ``@task(schedule=…)``, kept in step with the code by the workers, or made in the admin."""

    Overlap = Overlap

    id = models.BigAutoField(_("id"), primary_key=True, help_text=_("The schedule's number."))
    name = KeyField(_("name"), max_length=255, unique=True, help_text=_("A unique name."))
    task_path = KeyField(_("task"), max_length=255, help_text=_("The dotted path of its task."))
    args = models.JSONField(_("arguments"), default=list, blank=True, help_text=_("The positional arguments, a list."))
    kwargs = models.JSONField(
        _("keyword arguments"), default=dict, blank=True, help_text=_("The keyword arguments, an object.")
    )
    spec = models.CharField(
        _("when"),
        max_length=100,
        help_text=_("A cron expression, “30 2 * * *” or “*/5 9-17 * * MON-FRI”, or a period: “every 5 minutes”."),
    )
    time_zone = models.CharField(
        _("time zone"),
        max_length=64,
        blank=True,
        help_text=_("The time zone of a cron expression, such as “Europe/Berlin”. Empty: the project's."),
    )
    jitter = models.FloatField(
        _("jitter"),
        default=0.0,
        validators=[MinValueValidator(0), MaxValueValidator(86_400)],
        help_text=_("Each job is delayed by up to this many seconds."),
    )
    overlap = models.CharField(
        _("overlap"),
        max_length=10,
        choices=Overlap,
        default=Overlap.ALLOW,
        help_text=_("What to do when the previous job is unfinished."),
    )
    catch_up = models.PositiveIntegerField(
        _("catch up"),
        default=1,
        validators=[MaxValueValidator(MOST_CAUGHT_UP)],
        help_text=_("How many missed runs to catch up on, the latest ones: 0 for none, 1 for the last."),
    )
    queue_name = KeyField(
        _("queue"), max_length=100, blank=True, help_text=_("The queue of its jobs; empty for the task's own.")
    )
    priority = models.SmallIntegerField(
        _("priority"),
        null=True,
        blank=True,
        validators=[MinValueValidator(-100), MaxValueValidator(100)],
        help_text=_("The priority of its jobs, from -100 to 100; empty for the task's own."),
    )
    next_run_at = models.DateTimeField(
        _("next run"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("The next tick; none while paused."),
    )
    look_at = models.DateTimeField(
        _("look at"),
        null=True,
        blank=True,
        editable=False,
        db_index=True,
        help_text=_("When workers check it next: at its next run, or sooner while a run waits for the previous job."),
    )
    last_run_at = models.DateTimeField(
        _("last run"), null=True, blank=True, editable=False, help_text=_("The last tick that was enqueued.")
    )
    last_job_id = models.BigIntegerField(
        _("last job"), null=True, blank=True, editable=False, help_text=_("The job that was enqueued for it.")
    )
    queued_at = models.DateTimeField(
        _("queued run"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("The tick that waits until the previous job has ended."),
    )
    skipped_at = models.DateTimeField(
        _("last skipped run"), null=True, blank=True, editable=False, help_text=_("The last tick that was skipped.")
    )
    skipped = models.PositiveIntegerField(
        _("skipped runs"),
        default=0,
        editable=False,
        help_text=_("The number of ticks skipped because the previous job was unfinished."),
    )
    paused_at = models.DateTimeField(
        _("paused at"), null=True, blank=True, editable=False, help_text=_("When it was paused.")
    )
    error = models.TextField(
        _("error"), blank=True, editable=False, help_text=_("Why its tick could not be enqueued. It is retried.")
    )
    fingerprint = models.CharField(
        _("definition"),
        max_length=40,
        blank=True,
        editable=False,
        help_text=_("A fingerprint of the definition in the code. Empty for a schedule made in the admin."),
    )
    former = models.JSONField(
        _("former definitions"), default=list, editable=False, help_text=_("Earlier fingerprints.")
    )
    vouched_until = models.DateTimeField(
        _("vouched until"),
        null=True,
        blank=True,
        editable=False,
        help_text=_("Until when running workers are known to have this definition in their code."),
    )
    vanished_at = models.DateTimeField(
        _("vanished at"), null=True, blank=True, editable=False, help_text=_("When it was no longer found in the code.")
    )
    created_at = models.DateTimeField(_("created at"), auto_now_add=True, help_text=_("When it was first seen."))

    objects = ScheduleQuerySet.as_manager()

    class Meta:
        verbose_name = _("schedule")
        verbose_name_plural = _("schedules")
        ordering = ["name"]
        permissions = [
            ("pause_schedule", "Can pause and resume schedule"),
            ("run_schedule", "Can run schedule now"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def timing(self) -> Timing:
        """Raise ``ValueError`` for a row that means no times."""
        return parse(self.spec, self.time_zone)

    @property
    def description(self) -> str:
        """``At 02:30 every day, Europe/Berlin``"""
        try:
            return self.timing.describe()
        except ValueError:
            return self.spec

    @property
    def is_from_code(self) -> bool:
        return self.fingerprint != ""

    @property
    def is_paused(self) -> bool:
        return self.paused_at is not None
