"""Attempt: one run of a job."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from django.db import models
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from ..outcomes import State


class OutcomeState(models.TextChoices):
    """What an attempt came to."""

    SUCCEEDED = State.SUCCEEDED, pgettext_lazy("Attempt", "Succeeded")
    FAILED = State.FAILED, pgettext_lazy("Attempt", "Failed")
    RETRYING = State.RETRYING, pgettext_lazy("Attempt", "Failed, will retry")
    SNOOZED = State.SNOOZED, pgettext_lazy("Attempt", "Snoozed")
    SKIPPED = State.SKIPPED, pgettext_lazy("Attempt", "Skipped")
    CANCELLED = State.CANCELLED, pgettext_lazy("Attempt", "Cancelled")
    TIMED_OUT = State.TIMED_OUT, pgettext_lazy("Attempt", "Timed out")
    INTERRUPTED = State.INTERRUPTED, pgettext_lazy("Attempt", "Interrupted")
    LOST = State.LOST, pgettext_lazy("Attempt", "Lost")


class Attempt(models.Model):
    """One run of a job, written when it has ended, by the statement that ends it, and never changed."""

    Outcome = OutcomeState

    pk = models.CompositePrimaryKey("job_id", "number")
    job = models.ForeignKey(
        "Job",
        models.CASCADE,
        verbose_name=_("job"),
        db_constraint=False,  # a foreign key's trigger would look up and lock the job for each attempt
        db_index=False,  # the primary key begins with it
        help_text=_("The job that was run."),
    )
    number = models.PositiveIntegerField(_("number"), help_text=_("1 for the first run of the job."))
    worker = models.ForeignKey(
        "Worker",
        models.DO_NOTHING,
        verbose_name=_("worker"),
        null=True,
        db_constraint=False,
        db_index=False,
        related_name="attempts",
        help_text=_("The worker that ran it."),
    )
    started_at = models.DateTimeField(
        _("started at"), help_text=_("When the worker started the task, by the database's clock.")
    )
    finished_at = models.DateTimeField(_("finished at"), help_text=_("When it ended, by the database's clock."))
    outcome = models.CharField(_("outcome"), max_length=12, choices=OutcomeState, help_text=_("The attempt's outcome."))
    message = models.CharField(
        _("message"), max_length=500, blank=True, default="", help_text=_("The error or the reason in one line.")
    )
    exception_class_path = models.CharField(
        _("exception"), max_length=255, blank=True, default="", help_text=_("The dotted path of the exception's class.")
    )
    traceback = models.TextField(_("traceback"), blank=True, default="", help_text=_("The exception's traceback."))
    log = models.TextField(_("log"), null=True, blank=True, help_text=_("What the job logged during this attempt."))

    class Meta:
        verbose_name = _("attempt")
        verbose_name_plural = _("attempts")

    if TYPE_CHECKING:
        job_id: int
        worker_id: int | None

    def __str__(self) -> str:
        return f"attempt {self.number} of job #{self.job_id}: {self.outcome}"

    @property
    def duration(self) -> timedelta:
        return self.finished_at - self.started_at

    @property
    def is_error(self) -> bool:
        """Did it end in an exception, or in something that a caller must take for one?"""
        return bool(self.exception_class_path)
