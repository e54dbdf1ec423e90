"""UniqueKey: which job has a unique key, and for how long."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class UniqueKey(models.Model):
    """The job that had this key last. Whoever wants to enqueue under the key locks its row first.

    Whether the job still has the key is told by the job's own row, or by ``until``: nobody gives a key back, so nobody
    can forget to.
    """

    key = models.CharField(
        _("key"), max_length=40, primary_key=True, help_text=_("A hash of the task's path and the text of the key.")
    )
    # without an index, which each new holder would have to be entered in
    job_id = models.BigIntegerField(_("job"), help_text=_("The job that last took the key."))
    until_started = models.BooleanField(
        _("until started"), default=False, help_text=_("Whether the job holds its key only until it starts.")
    )
    until = models.DateTimeField(
        _("until"), null=True, help_text=_("Until when the job holds its key, whatever its outcome.")
    )

    class Meta:
        verbose_name = _("unique key")
        verbose_name_plural = _("unique keys")

    def __str__(self) -> str:
        return self.key
