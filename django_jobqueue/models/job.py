"""Job: one enqueued call of a task."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from django.db import models
from django.db.models import Case, Q, Value, When
from django.db.models.base import ModelState
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from .fields import KeyField, Moment, NextPlace
from .indexes import PartialIndex

if TYPE_CHECKING:
    from .attempt import Attempt


class Status(models.TextChoices):
    """Where a job stands. The words are Django's, and two more: WAITING and CANCELLED."""

    WAITING = "WAITING", pgettext_lazy("Job", "Waiting")
    READY = "READY", pgettext_lazy("Job", "Ready")
    RUNNING = "RUNNING", pgettext_lazy("Job", "Running")
    SUCCESSFUL = "SUCCESSFUL", pgettext_lazy("Job", "Successful")
    FAILED = "FAILED", pgettext_lazy("Job", "Failed")
    CANCELLED = "CANCELLED", pgettext_lazy("Job", "Cancelled")


FINISHED = (Status.SUCCESSFUL, Status.FAILED, Status.CANCELLED)
UNFINISHED = (Status.WAITING, Status.READY, Status.RUNNING)

_READY = Q(status=Status.READY)
# Not "= True", which Django's versions write in different ways: SQLite takes a partial index only for its very words.
_TO_FOLLOW_UP = Q(has_dependents__in=[True], finished_at__isnull=False)
FOR_A_SLOT = Q(status=Status.WAITING, waiting_for=0, concurrency_key__isnull=False)
_UNDER_A_KEY = Q(concurrency_key__isnull=False, finished_at__isnull=True)
#: The status of a job that comes in line, in SQL: one that needs a slot waits for it.
READY_OR_IN_WAITING = Case(When(concurrency_key__isnull=True, then=Value(Status.READY)), default=Value(Status.WAITING))


class JobQuerySet(models.QuerySet["Job"]):
    """Rows by what they are, in the words of the admin; each is served by an index of its own."""

    def in_line(self) -> JobQuerySet:
        """Ready to be claimed now."""
        return self.filter(status=Status.READY, place__isnull=False)

    def scheduled(self) -> JobQuerySet:
        """Ready, but not before ``run_after``: no claim looks at these."""
        return self.filter(status=Status.READY, place__isnull=True)

    def due(self, within: float = 0.0) -> JobQuerySet:
        """Scheduled for a time that is past by the database's clock, or will be in ``within`` seconds."""
        return self.scheduled().filter(run_after__lte=Now() + timedelta(seconds=within))

    def waiting(self) -> JobQuerySet:
        """Not ready yet: for other jobs that must end first, or for a slot of a concurrency key."""
        return self.filter(status=Status.WAITING)

    def waiting_for_slots(self) -> JobQuerySet:
        """Only the slot of a concurrency key is between these and the line."""
        return self.filter(FOR_A_SLOT)

    def having_slots(self) -> JobQuerySet:
        """In line or running under a concurrency key."""
        return self.filter(_UNDER_A_KEY, status__in=(Status.READY, Status.RUNNING), place__isnull=False)

    def having_turns(self) -> JobQuerySet:
        """Those that have run under a concurrency key, and are to run again later."""
        return self.filter(_UNDER_A_KEY, status=Status.READY, place__isnull=True, attempts__gt=0)

    def to_follow_up(self) -> JobQuerySet:
        """At their end, and others wait for them that have not been told."""
        return self.filter(_TO_FOLLOW_UP)

    def of_other_tasks(self, paths: Collection[str]) -> JobQuerySet:
        """Those of none of these tasks.

        As a CASE, of which PostgreSQL knows no more than that it may be true: where nearly all jobs in line are of one
        task, it would take what is left for so little that it sorts a table rather than walk along an index.
        """
        of_these = Case(When(task_path__in=list(paths), then=Value(False)), default=Value(True))
        return self.filter(of_these)

    def running(self) -> JobQuerySet:
        return self.filter(status=Status.RUNNING)

    def failed(self) -> JobQuerySet:
        return self.filter(status=Status.FAILED)

    def finished(self) -> JobQuerySet:
        return self.filter(status__in=FINISHED)

    def unfinished(self) -> JobQuerySet:
        return self.filter(status__in=UNFINISHED)


class LazyState:
    """Django's note beside a row, whether it is saved and in which database, made when somebody asks for it: nobody
    does for most jobs of a bulk or a claim, and to make and discard it takes as long as the job itself.
    """

    def __get__(self, job: Job | None, owner: Any = None) -> Any:
        if job is None:
            return self
        state = job.__dict__["_state"] = ModelState()
        state.db = job.__dict__.get("_made_in")
        state.adding = state.db is None
        return state


class Job(models.Model):
    """One enqueued call of a task: what to run, where it stands, what it came to.

    Rows are written by ``django_jobqueue.lifecycle`` and read by everybody. Changing them by hand is possible;
    retrying, cancelling and pausing have verbs that also tell the workers.
    """

    Status = Status

    id = models.BigAutoField(_("id"), primary_key=True, help_text=_("The job's number, and the id of its task result."))
    place = models.BigIntegerField(
        _("place in line"),
        null=True,
        editable=False,
        db_default=NextPlace(),
        help_text=_(
            "Drawn anew each time the job becomes ready, smallest first. Empty while the job is scheduled for later; "
            "negative after repeated losses of its worker: then it runs alone."
        ),
    )
    enqueued_at = models.DateTimeField(_("enqueued at"), help_text=_("When the job was enqueued."))
    run_after = Moment(_("run after"), null=True, blank=True, help_text=_("The job does not start before this time."))
    started_at = models.DateTimeField(
        _("started at"), null=True, blank=True, help_text=_("When the latest attempt was claimed.")
    )
    finished_at = models.DateTimeField(
        _("finished at"), null=True, blank=True, help_text=_("When the job reached its final status.")
    )
    cancel_requested_at = models.DateTimeField(
        _("cancel requested at"),
        null=True,
        blank=True,
        help_text=_("When cancelling was requested while the job was running."),
    )
    worker = models.ForeignKey(
        "Worker",
        models.DO_NOTHING,
        verbose_name=_("worker"),
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
        related_name="jobs",
        help_text=_("The worker that has claimed the job, while it is running."),
    )
    fence = models.BigIntegerField(
        _("fence"),
        null=True,
        editable=False,
        help_text=_("A random number for each claim. Only the worker that has it can write the outcome."),
    )
    priority = models.SmallIntegerField(
        _("priority"), default=0, help_text=_("From -100 to 100; larger numbers run first.")
    )
    max_attempts = models.PositiveSmallIntegerField(
        _("maximum attempts"), default=1, help_text=_("The number of attempts that may fail before the job fails.")
    )
    attempts = models.PositiveIntegerField(_("attempts"), default=0, help_text=_("The number of attempts so far."))
    tries = models.PositiveSmallIntegerField(
        _("tries"),
        default=0,
        help_text=_("Attempts that count towards the maximum. Snoozed, interrupted and lost attempts do not."),
    )
    losses = models.PositiveSmallIntegerField(
        _("losses"), default=0, help_text=_("The number of workers that vanished while they had the job.")
    )
    status = models.CharField(
        _("status"), max_length=10, choices=Status, default=Status.READY, help_text=_("The job's current state.")
    )
    queue_name = KeyField(
        _("queue"), max_length=100, default="default", help_text=_("The queue that the job waits in.")
    )
    backend = models.CharField(
        _("backend"), max_length=64, default="default", help_text=_("The alias in TASKS that enqueued the job.")
    )
    task_path = KeyField(_("task"), max_length=255, help_text=_("The dotted path of the task that the job calls."))
    args = models.JSONField(_("arguments"), default=list, help_text=_("The positional arguments."))
    kwargs = models.JSONField(_("keyword arguments"), default=dict, help_text=_("The keyword arguments."))
    concurrency_key = KeyField(
        _("concurrency key"),
        max_length=255,
        null=True,
        blank=True,
        editable=False,
        help_text=_("Jobs with the same key share a concurrency limit."),
    )
    options = models.JSONField(_("options"), null=True, blank=True, help_text=_("Options given for this job alone."))
    batch = models.ForeignKey(
        "Batch",
        models.DO_NOTHING,
        verbose_name=_("batch"),
        null=True,
        blank=True,
        db_constraint=False,
        db_index=False,
        related_name="jobs",
        help_text=_("The batch that the job belongs to."),
    )
    waiting_for = models.PositiveIntegerField(
        _("waiting for"), default=0, db_default=0, help_text=_("The number of jobs that this job still waits for.")
    )
    has_dependents = models.BooleanField(
        _("has dependents"),
        default=False,
        db_default=False,
        editable=False,
        help_text=_("Whether a job waits for this one and has not been told of its end yet."),
    )
    progress = models.JSONField(
        _("progress"),
        null=True,
        blank=True,
        help_text=_("The progress that the latest attempt reported: done, total, message."),
    )
    result = models.JSONField(_("result"), null=True, blank=True, help_text=_("What the task returned."))
    result_until = models.DateTimeField(
        _("result until"),
        null=True,
        blank=True,
        help_text=_("When the result is deleted. Empty: together with the job."),
    )
    prune_at = models.DateTimeField(
        _("deleted at"),
        null=True,
        blank=True,
        help_text=_("When the finished job is deleted. Empty: after the project's retention."),
    )

    objects = JobQuerySet.as_manager()
    _state = LazyState()

    class Meta:
        verbose_name = _("job")
        verbose_name_plural = _("jobs")
        permissions = [
            ("retry_job", "Can retry job"),
            ("cancel_job", "Can cancel job"),
            ("move_job", "Can move job, change its priority and its time"),
        ]
        # Each index holds only the rows that its one reader looks for, so that finished jobs cost a claim nothing.
        # MySQL and MariaDB build theirs over all rows. There a column in front has to do what the condition does
        # elsewhere; three indexes by id would only repeat the primary key, so one by status stands for them. The
        # migration makes the same.
        indexes = [
            PartialIndex(
                fields=["queue_name", "priority", "place"],
                name="jobqueue_in_line",
                condition=_READY & Q(place__isnull=False),
                whole=["status", "queue_name", "priority", "place"],
            ),
            PartialIndex(
                fields=["run_after"],
                name="jobqueue_scheduled",
                condition=_READY & Q(place__isnull=True),
                whole=["place", "run_after"],
            ),
            PartialIndex(fields=["worker"], name="jobqueue_running", condition=Q(status=Status.RUNNING)),
            PartialIndex(fields=["id"], name="jobqueue_waiting", condition=Q(status=Status.WAITING), whole=[]),
            PartialIndex(
                fields=["id"], name="jobqueue_failed", condition=Q(status=Status.FAILED), whole=["status", "id"]
            ),
            PartialIndex(fields=["id"], name="jobqueue_cancelled", condition=Q(status=Status.CANCELLED), whole=[]),
            PartialIndex(
                fields=["id"],
                name="jobqueue_has_dependents",
                condition=Q(has_dependents__in=[True], finished_at__isnull=False),
                whole=["has_dependents", "finished_at"],
            ),
            PartialIndex(
                fields=["concurrency_key", "-priority", "id"],
                name="jobqueue_for_a_slot",
                condition=FOR_A_SLOT,
                whole=["status", "waiting_for", "concurrency_key", "-priority", "id"],
            ),
            PartialIndex(
                fields=["concurrency_key", "status", "place", "attempts"],
                name="jobqueue_under_a_key",
                condition=_UNDER_A_KEY,
            ),
            PartialIndex(fields=["batch", "status"], name="jobqueue_batch", condition=Q(batch__isnull=False)),
            PartialIndex(fields=["prune_at"], name="jobqueue_prune", condition=Q(prune_at__isnull=False)),
            PartialIndex(fields=["result_until"], name="jobqueue_result", condition=Q(result_until__isnull=False)),
        ]

    if TYPE_CHECKING:
        attempt_set: models.Manager[Attempt]
        worker_id: int | None
        batch_id: int | None

    #: The attempts that have ended; ``claim`` fills it for jobs that have any, and an enqueue for those that it finds.
    past_attempts: tuple[Attempt, ...] = ()
    #: What the running attempt has put on record; ``finish`` writes it.
    attempt_log: str = ""
    #: The task whose unique key the job is to have, while it is not saved yet.
    unique_task: Any = None
    #: The task that says which concurrency key the job has, while it is not saved yet.
    limited_task: Any = None
    #: Did the call that was to make this job find it there, by its unique key?
    was_there: bool = False
    #: For how many seconds the running attempt wants its result to be kept; None: as long as the job.
    result_ttl: float | None = None

    def __str__(self) -> str:
        return f"{self.task_name} #{self.pk}"

    def __getstate__(self) -> Any:
        self._state  # noqa: B018 - it must be there: Django copies it
        return super().__getstate__()

    @classmethod
    def of(cls, columns: Iterable[tuple[str, Any]], using: str | None = None, **others: Any) -> Job:
        """The job with these column values; ``using`` is the database that it is in, None for an unsaved one.

        ``Job()`` and ``from_db`` would set a default or a placeholder for each column and send two signals: for a
        short job that is the largest part of a claim or an enqueue. A saved job's columns that are left out are
        loaded on first use, as always. JSON may stay text until ``decode``.
        """
        job = cls.__new__(cls)
        job.__dict__ = dict(columns, _made_in=using, **others)
        return job

    def is_inserted(self, number: int, using: str) -> None:
        """Note that a statement of ours has saved it under this number."""
        columns = self.__dict__
        columns["id"], columns["_made_in"] = number, using
        if (state := columns.get("_state")) is not None:
            state.adding, state.db = False, using

    def decode(self) -> None:
        """Make the JSON columns data, where they are text. Raise ``ValueError`` for a row that is no call."""
        if isinstance(self.args, str):
            self.args = _data(self.args)
        if isinstance(self.kwargs, str):
            self.kwargs = _data(self.kwargs) if self.kwargs != "{}" else {}
        if isinstance(self.options, str):
            self.options = _data(self.options)
        if not isinstance(self.args, list) or not isinstance(self.kwargs, dict):
            raise ValueError(f"Job #{self.pk} has no call: args must be a list and kwargs an object.")

    def refresh_from_db(self, using: str | None = None, fields: Any = None, *args: Any, **kwargs: Any) -> None:
        """From the database that the job is in. A router may send reads to a replica, which does not know it yet."""
        super().refresh_from_db(using or self._state.db, fields, *args, **kwargs)

    @property
    def task_name(self) -> str:
        """The last part of the task's path: what people call it."""
        return self.task_path.rpartition(".")[2]

    @property
    def call(self) -> str:
        """The call as one would write it: ``send_receipt(42, copy=True)``."""
        args = [json.dumps(arg, ensure_ascii=False) for arg in self.args]
        kwargs = [f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in self.kwargs.items()]
        return f"{self.task_name}({', '.join(args + kwargs)})"

    @property
    def unique_key(self) -> str | None:
        """The unique key that the job was enqueued with, as people read it."""
        key = self.option("unique")
        return key if isinstance(key, str) else None

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    @property
    def is_scheduled(self) -> bool:
        return self.status == Status.READY and self.place is None

    @property
    def is_cancelling(self) -> bool:
        return self.status == Status.RUNNING and self.cancel_requested_at is not None

    @property
    def age(self) -> timedelta:
        """Time since the job was enqueued."""
        return timezone.now() - self.enqueued_at

    @property
    def duration(self) -> timedelta | None:
        """How long the latest attempt took, or has taken so far."""
        if self.started_at is None or self.status in (Status.READY, Status.WAITING):
            return None
        return (self.finished_at or timezone.now()) - self.started_at

    def option(self, name: str, default: Any = None) -> Any:
        """The option as given for this job alone, or ``default``."""
        options = self.options
        return options.get(name, default) if isinstance(options, dict) else default


_scan: Any = json.JSONDecoder().scan_once  # type: ignore[attr-defined]


def _data(text: str) -> Any:
    """``json.loads``, which spends most of its time on the blanks around what is short."""
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        return json.loads(text)
    return value if end == len(text) else json.loads(text)


@cache
def defaults() -> dict[str, Any]:
    """The columns of a job that says nothing of them. Not to be changed: it is made once."""
    return {field.attname: field.get_default() for field in Job._meta.concrete_fields}
