"""Limit: what the layers that limit know of a key; Permit: one start that a limit has allowed."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils.translation import gettext_lazy as _

from .fields import KeyField

#: How exactly ``Limit.used_at`` is kept.
USED = timedelta(hours=1)


class Limit(models.Model):
    """One key of a concurrency or rate limit. Whoever lets jobs start under it locks this row first."""

    key = KeyField(_("key"), max_length=255, primary_key=True, help_text=_("The kind of limit, and what it limits."))
    started = models.BigIntegerField(_("started"), default=0, help_text=_("The number of starts allowed so far."))
    line_until = models.DateTimeField(
        _("line until"), null=True, help_text=_("When the last waiting job is expected to start.")
    )
    used_at = models.DateTimeField(
        _("used at"), null=True, db_index=True, help_text=_("When the limit was last used, to within an hour.")
    )

    class Meta:
        verbose_name = _("limit")
        verbose_name_plural = _("limits")

    def __str__(self) -> str:
        return self.key


class Permit(models.Model):
    """A start under a rate limit, or several that were drawn at once: then the row has the number of the last one."""

    pk = models.CompositePrimaryKey("key", "number")
    key = KeyField(_("key"), max_length=255, help_text=_("The limit's key."))
    number = models.BigIntegerField(_("number"), help_text=_("0 for the first start that the limit allowed."))
    job_id = models.BigIntegerField(_("job"), help_text=_("The job that was started."))
    fence = models.BigIntegerField(_("fence"), null=True, help_text=_("The fence of the attempt."))
    taken_at = models.DateTimeField(_("taken at"), help_text=_("When the job was started, by the database's clock."))

    class Meta:
        verbose_name = _("permit")
        verbose_name_plural = _("permits")

    def __str__(self) -> str:
        return f"{self.key} #{self.number}"
