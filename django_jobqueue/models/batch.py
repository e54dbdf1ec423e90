"""Batch: jobs that were enqueued together; Dependency: one of them waits for another."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from .job import Status


class Batch(models.Model):
    """Jobs that belong together: what ``chain`` and ``group`` have enqueued, and what was added to it."""

    id = models.BigAutoField(_("id"), primary_key=True, help_text=_("The batch's number."))
    name = models.CharField(_("name"), max_length=200, blank=True, default="", help_text=_("A name for people."))
    created_at = models.DateTimeField(_("created at"), help_text=_("When its first jobs were enqueued."))
    cancelled_at = models.DateTimeField(
        _("cancelled at"),
        null=True,
        blank=True,
        help_text=_("When the batch was cancelled. Since then nothing can be added to it."),
    )

    class Meta:
        verbose_name = _("batch")
        verbose_name_plural = _("batches")
        permissions = [
            ("retry_batch", "Can retry batch"),
            ("cancel_batch", "Can cancel batch"),
        ]

    def __str__(self) -> str:
        return self.name or f"#{self.pk}"


class Rule(models.TextChoices):
    """What becomes of a job when one that it waits for has not succeeded."""

    CANCEL = "cancel", pgettext_lazy("Dependency", "cancel it")
    FAIL = "fail", pgettext_lazy("Dependency", "let it fail")
    RUN = "run", pgettext_lazy("Dependency", "run it all the same")
    #: And if all have succeeded it is cancelled: it is there for the failure.
    RESCUE = "rescue", pgettext_lazy("Dependency", "run it then only")


class DependencyQuerySet(models.QuerySet["Dependency"]):
    def needed(self) -> DependencyQuerySet:
        """Those whose jobs still wait, and have not been told or are to get the other's result."""
        waits = Q(job__status=Status.WAITING, job__waiting_for__gt=0)
        return self.filter(waits, Q(status__isnull=True) | Q(position__isnull=False))


class Dependency(models.Model):
    """``job`` waits for ``on``. The row stays when the wait is over, to tell what came after what."""

    Rule = Rule

    # The end of ``on`` looks for those who wait for it, so the key begins with that.
    pk = models.CompositePrimaryKey("on_id", "job_id")
    on = models.ForeignKey(
        "Job",
        models.DO_NOTHING,
        verbose_name=_("on"),
        db_constraint=False,
        db_index=False,  # the primary key begins with it
        related_name="+",
        help_text=_("The job that the other one depends on."),
    )
    job = models.ForeignKey(
        "Job",
        models.DO_NOTHING,
        verbose_name=_("job"),
        db_constraint=False,
        related_name="dependencies",
        help_text=_("The job that depends on it."),
    )
    rule = models.CharField(
        _("rule"),
        max_length=6,
        choices=Rule,
        help_text=_("What happens to the job if the other one does not succeed."),
    )
    position = models.PositiveIntegerField(
        _("position"),
        null=True,
        help_text=_("The position of the other job's result in the job's arguments. Empty: not passed on."),
    )
    listed = models.BooleanField(
        _("listed"), default=False, help_text=_("Whether the job gets the results as a list, even a single one.")
    )
    status = models.CharField(
        _("status"),
        max_length=10,
        choices=Status.choices,
        null=True,
        help_text=_("The other job's final status, once the job has been told of it."),
    )
    expired = models.BooleanField(
        _("expired"),
        default=False,
        db_default=False,
        help_text=_("Whether the other job's result was deleted before the job got it."),
    )

    objects = DependencyQuerySet.as_manager()

    class Meta:
        verbose_name = _("dependency")
        verbose_name_plural = _("dependencies")

    def __str__(self) -> str:
        return f"#{self.job_id} after #{self.on_id}"
