"""Pause: a task of which workers claim no jobs, or a key under which none starts."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from .fields import KeyField

#: For how long a job is put off that comes to run under a paused key. Resuming brings it back at once; this is only for
#: what nobody resumes.
HOLD = timedelta(hours=1)
#: When no more than this is left of it, jobs are put off to a new moment.
HOLD_LEFT = timedelta(minutes=1)


class PauseKind(models.TextChoices):
    TASK = "task", pgettext_lazy("Pause", "Task")
    KEY = "key", pgettext_lazy("Pause", "Key")


class PauseQuerySet(models.QuerySet["Pause"]):
    def in_force(self) -> PauseQuerySet:
        return self.filter(resumed_at__isnull=True)

    def tasks(self) -> PauseQuerySet:
        return self.in_force().filter(kind=PauseKind.TASK)

    def keys(self) -> PauseQuerySet:
        return self.in_force().filter(kind=PauseKind.KEY)


class Pause(models.Model):
    """What is paused beside queues, which have a row of their own. There are few of these, and workers read them often.

    Jobs that come to run under a paused key are all put off to one and the same moment, ``held_until``: so they are
    found again when it is resumed, by the index of the scheduled jobs.
    """

    Kind = PauseKind

    id = models.BigAutoField(_("id"), primary_key=True, help_text=_("The pause's number."))
    kind = models.CharField(_("kind"), max_length=4, choices=PauseKind, help_text=_("What is paused."))
    name = KeyField(
        _("name"),
        max_length=255,
        help_text=_("The dotted path of a task, or the key that a concurrency or rate limit makes of the arguments."),
    )
    paused_at = models.DateTimeField(_("paused at"), help_text=_("When it was paused, by the database's clock."))
    held_until = models.DateTimeField(
        _("held until"), null=True, blank=True, help_text=_("Until when jobs under the key are put off.")
    )
    resumed_at = models.DateTimeField(
        _("resumed at"),
        null=True,
        blank=True,
        help_text=_("When the key was resumed. The row stays until no put-off job can be left."),
    )

    objects = PauseQuerySet.as_manager()

    class Meta:
        verbose_name = _("pause")
        verbose_name_plural = _("pauses")
        ordering = ["kind", "name"]
        default_permissions = ("view",)
        permissions = [("pause_task", "Can pause and resume task and key")]
        constraints = [models.UniqueConstraint(fields=["kind", "name"], name="jobqueue_pause_once")]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def is_in_force(self) -> bool:
        return self.resumed_at is None
