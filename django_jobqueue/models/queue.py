"""Queue: a name that jobs wait under, and whether workers may take from it."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from .fields import KeyField


class Queue(models.Model):
    """What is known about one queue beyond its jobs. Workers add the queues that they meet; jobs need no row here."""

    name = KeyField(_("name"), max_length=100, primary_key=True, help_text=_("The queue's name."))
    paused_at = models.DateTimeField(
        _("paused at"),
        null=True,
        blank=True,
        help_text=_("When the queue was paused. Empty: it is not paused."),
    )
    created_at = models.DateTimeField(
        _("first seen at"), auto_now_add=True, help_text=_("When the queue was first seen.")
    )

    class Meta:
        verbose_name = _("queue")
        verbose_name_plural = _("queues")
        ordering = ["name"]
        permissions = [("pause_queue", "Can pause and resume queue")]

    def __str__(self) -> str:
        return f"{self.name} (paused)" if self.is_paused else self.name

    @property
    def is_paused(self) -> bool:
        return self.paused_at is not None
