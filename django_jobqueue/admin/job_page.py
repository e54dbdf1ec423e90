"""The page of one job: what it is, what it came to, and how it got there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html, format_html_join
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from ..models import Attempt, Batch, Dependency, Job, Pause, Queue, Worker
from ..retention import is_for_ever
from . import words
from .kinds import kind_of

if TYPE_CHECKING:
    from django.utils.safestring import SafeString

#: A job that is snoozed every minute has a great many attempts.
SHOWN = 50
#: Of those that it waits for, or that wait for it, so many are named.
NEIGHBOURS = 10

#: The colour of each outcome in admin.css, in the words of the kinds of jobs.
COLOURS: dict[str, str] = {
    Attempt.Outcome.SUCCEEDED: "successful",
    Attempt.Outcome.FAILED: "failed",
    Attempt.Outcome.TIMED_OUT: "failed",
    Attempt.Outcome.LOST: "failed",
    Attempt.Outcome.RETRYING: "scheduled",
    Attempt.Outcome.SNOOZED: "scheduled",
    Attempt.Outcome.INTERRUPTED: "waiting",
    Attempt.Outcome.SKIPPED: "cancelled",
    Attempt.Outcome.CANCELLED: "cancelled",
}


class JobPage:
    """What the template shows. Two queries: the attempts, and the worker of a running job."""

    def __init__(self, job: Job, site: str = "admin") -> None:
        self.job, self.site = job, site
        self.kind = kind_of(job)
        self.state = words.state(job)
        self.call = words.call(job)

    @cached_property
    def now(self) -> str | SafeString:
        """Where the job stands, in a sentence."""
        job = self.job
        if self.kind.word == "ready":
            return self._in_queue()
        if self.kind.word == "scheduled" and job.run_after:
            return format_html(
                _("Runs {when}, at {time}."), when=words.until(job.run_after), time=words.at(job.run_after)
            )
        if self.kind.word == "running" and job.started_at:
            since = words.span(job.duration) if job.duration is not None else ""
            return format_html(
                _("Attempt {number} has been running for {span} on {worker}."),
                number=job.attempts,
                span=words.at(job.started_at, since),
                worker=self.worker,
            )
        if self.kind.word == "waiting":
            count = self.job.waiting_for
            if not count and self.job.concurrency_key is not None:
                return self._for_a_slot()
            sentence = ngettext("Waiting for %(count)d other job.", "Waiting for %(count)d other jobs.", count)
            return sentence % {"count": count}
        return self._ended()

    def _in_queue(self) -> str:
        queues = Queue.objects.using(self.job._state.db).filter(name=self.job.queue_name)
        sentence = _("In the queue %(queue)s.")
        if queues.filter(paused_at__isnull=False).exists():
            sentence = _("In the queue %(queue)s, which is paused.")
        elif self.task_is_paused:
            sentence = _("In the queue %(queue)s; its task is paused.")
        return sentence % {"queue": self.job.queue_name}

    def _for_a_slot(self) -> str:
        key = str(self.job.concurrency_key)
        paused = Pause.objects.using(self.job._state.db).keys().filter(name=key).exists()
        sentence = (
            _("Waiting for a slot of %(key)s, which is paused.") if paused else _("Waiting for a slot of %(key)s.")
        )
        return sentence % {"key": key}

    @cached_property
    def task_is_paused(self) -> bool:
        return Pause.objects.using(self.job._state.db).tasks().filter(name=self.job.task_path).exists()

    def _ended(self) -> str | SafeString:
        if self.job.finished_at is None:
            return ""
        count = self.job.attempts
        sentence = ngettext("{ago}, after {count} attempt.", "{ago}, after {count} attempts.", count)
        ago = words.ago(self.job.finished_at)
        return format_html(sentence if count else _("{ago}, before it ran."), ago=ago, count=count)

    @cached_property
    def worker(self) -> str:
        workers = Worker.objects.using(self.job._state.db).filter(pk=self.job.worker_id or 0)
        return str(workers.first() or _("an unknown worker"))

    @property
    def cancelling(self) -> str | SafeString:
        asked = self.job.cancel_requested_at
        if asked is None or not self.job.is_cancelling:
            return ""
        return format_html(
            _("Asked to stop {ago}. The worker interrupts the task; the job ends as soon as the task reacts."),
            ago=words.ago(asked),
        )

    @property
    def progress(self) -> str | SafeString:
        return words.progress(self.job)

    @cached_property
    def facts(self) -> list[tuple[str, Any]]:
        """Name and value, in rows."""
        job = self.job
        facts: list[tuple[str, Any]] = [
            (_("Task"), format_html("<code>{}</code>", job.task_path)),
            (_("Unique key"), "" if job.unique_key is None else format_html("<code>{}</code>", job.unique_key)),
            (_("Concurrency key"), "" if (key := job.concurrency_key) is None else format_html("<code>{}</code>", key)),
            (_("Queue"), job.queue_name),
            (_("Priority"), job.priority),
            (_("Attempts"), words.attempts(job)),
            (_("Enqueued"), words.moment(job.enqueued_at)),
            (_("Run after"), words.moment(job.run_after)),
            (_("Started"), words.moment(job.started_at)),
            (_("Finished"), words.moment(job.finished_at)),
            (_("Duration"), words.span(job.duration) if job.duration is not None else ""),
            (_("Result until"), words.moment(job.result_until)),
            (_("Kept until"), _("for ever") if is_for_ever(job.prune_at) else words.moment(job.prune_at)),
            (_("Losses"), job.losses or ""),
            (_("Backend"), job.backend),
            (_("Batch"), self._batch),
            (_("After"), self._links("on_id", job=job.pk)),
            (_("Before"), self._links("job_id", on=job.pk)),
        ]
        return [(name, value) for name, value in facts if value not in ("", None)]

    @property
    def _batch(self) -> str | SafeString:
        if self.job.batch_id is None:
            return ""
        batch = Batch.objects.using(self.job._state.db).filter(pk=self.job.batch_id).first()
        if batch is None:
            return ""
        url = reverse(f"{self.site}:django_jobqueue_batch_change", args=[batch.pk])
        return format_html('<a href="{}">{}</a>', url, batch)

    def _links(self, field: str, **condition: int) -> str | SafeString:
        """Those that it waits for, or that wait for it, as links to their pages."""
        rows = Dependency.objects.using(self.job._state.db).filter(**condition).order_by(field)
        ids = list(rows.values_list(field, flat=True)[: NEIGHBOURS + 1])
        page = f"{self.site}:django_jobqueue_job_change"
        named = ((reverse(page, args=[pk]), pk) for pk in ids[:NEIGHBOURS])
        links = format_html_join(", ", '<a href="{}">#{}</a>', named)
        return format_html("{}, …", links) if len(ids) > NEIGHBOURS else links

    @cached_property
    def values(self) -> list[tuple[str, SafeString]]:
        """The call's parts and the result, as JSON."""
        job = self.job
        values = [
            (_("Arguments"), job.args if job.args != [] else None),
            (_("Keyword arguments"), job.kwargs if job.kwargs != {} else None),
            (_("Options"), job.options),
        ]
        shown = [(name, words.pretty(value)) for name, value in values if value is not None]
        if job.status == Job.Status.SUCCESSFUL:
            shown.append((_("Result"), words.pretty(job.result)))
        return shown

    @cached_property
    def attempts(self) -> list[dict[str, Any]]:
        """Newest first."""
        attempts = Attempt.objects.using(self.job._state.db).filter(job_id=self.job.pk)
        newest = attempts.select_related("worker").order_by("-number")[:SHOWN]
        return [_shown(attempt) for attempt in newest]

    @property
    def not_shown(self) -> int:
        """Attempts that are too many for the page."""
        return max(0, self.attempts[0]["number"] - SHOWN) if self.attempts else 0


def _shown(attempt: Attempt) -> dict[str, Any]:
    unknown = "" if attempt.worker_id is None else _("worker #%d, which is gone") % attempt.worker_id
    return {
        "number": attempt.number,
        "outcome": words.coloured(COLOURS.get(attempt.outcome, "waiting"), attempt.get_outcome_display()),
        "colour": COLOURS.get(attempt.outcome, "waiting"),
        "worker": str(attempt.worker) if attempt.worker else unknown,
        "started": words.at(attempt.started_at),
        "duration": words.span(attempt.duration),
        "message": attempt.message,
        "exception": attempt.exception_class_path.removeprefix("builtins."),
        "traceback": attempt.traceback,
        "log": attempt.log,
    }
