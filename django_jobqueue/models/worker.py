"""Worker: a process that claims and runs jobs, and the lease that it renews."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy


class WorkerStatus(models.TextChoices):
    RUNNING = "RUNNING", pgettext_lazy("Worker", "Running")
    STOPPING = "STOPPING", pgettext_lazy("Worker", "Stopping")
    STOPPED = "STOPPED", pgettext_lazy("Worker", "Stopped")
    LOST = "LOST", pgettext_lazy("Worker", "Lost")


#: A worker in one of these holds its jobs; the jobs of all others are given back.
ALIVE = (WorkerStatus.RUNNING, WorkerStatus.STOPPING)


class WorkerQuerySet(models.QuerySet["Worker"]):
    def alive(self) -> WorkerQuerySet:
        return self.filter(status__in=ALIVE)

    def gone(self) -> WorkerQuerySet:
        return self.exclude(status__in=ALIVE)


class Worker(models.Model):
    """One worker process, from its start to its end. All its claims live and die with its lease."""

    Status = WorkerStatus

    id = models.BigAutoField(_("id"), primary_key=True, help_text=_("The worker's number; attempts refer to it."))
    name = models.CharField(_("name"), max_length=200, help_text=_("Host and process number."))
    hostname = models.CharField(_("host"), max_length=150, help_text=_("The machine that it runs on."))
    pid = models.PositiveIntegerField(_("process number"), help_text=_("The process ID on its machine."))
    status = models.CharField(
        _("status"),
        max_length=10,
        choices=WorkerStatus,
        default=WorkerStatus.RUNNING,
        help_text=_("Whether it runs, stops, has stopped, or vanished."),
    )
    queues = models.JSONField(
        _("queues"), default=list, help_text=_("The queues that it takes from, in order; empty for all.")
    )
    slots = models.PositiveIntegerField(_("slots"), default=1, help_text=_("How many sync jobs it runs at once."))
    lease = models.FloatField(
        _("lease"), default=30.0, help_text=_("The number of seconds for which a heartbeat is valid.")
    )
    started_at = models.DateTimeField(_("started at"), help_text=_("When it started."))
    heartbeat_at = models.DateTimeField(_("last heartbeat"), help_text=_("When it last reported that it is alive."))
    lease_until = models.DateTimeField(
        _("lease until"), help_text=_("Its jobs are given back when this time has passed without a heartbeat.")
    )
    stopped_at = models.DateTimeField(
        _("stopped at"), null=True, blank=True, help_text=_("When it stopped, or was found to be lost.")
    )

    objects = WorkerQuerySet.as_manager()

    class Meta:
        verbose_name = _("worker")
        verbose_name_plural = _("workers")
        indexes = [models.Index(fields=["status", "lease_until"], name="jobqueue_worker_lease")]

    def __str__(self) -> str:
        return f"{self.name} #{self.pk}"

    @property
    def is_alive(self) -> bool:
        return self.status in ALIVE

    @property
    def silence(self) -> timedelta:
        """Time since the last heartbeat."""
        return timezone.now() - self.heartbeat_at
