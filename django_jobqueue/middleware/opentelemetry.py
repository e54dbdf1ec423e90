"""OpenTelemetry: traces that lead from the request through the enqueue to each attempt, and metrics.

Names follow OpenTelemetry's semantic conventions for messaging, as of 1.28. Only the API is needed here; without an
SDK in the process all of this does nothing.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from opentelemetry import metrics, propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import SpanKind, StatusCode

from ..options import MISSING
from ..outcomes import Outcome, State
from .base import Middleware
from .context import JobContext, WorkerHandle
from .waiting import seconds_in_line

if TYPE_CHECKING:
    from ..models import Job

#: For a provider that nobody has set.
STAND_IN = trace.NoOpTracer()
ERRORS = frozenset({State.FAILED, State.RETRYING, State.TIMED_OUT, State.LOST})
#: The conventions' own boundaries end at 10 seconds; jobs do not.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 300, 1800)


@dataclass(slots=True)
class Open:
    """The span of an attempt whose outcome is not known yet."""

    span: Any
    job: Job
    #: In nanoseconds. None: its task has not begun here, or not ended.
    began: int | None = None
    ended: int | None = None


class OpenTelemetry(Middleware):
    """A span for each enqueue and each attempt, all in one trace.

    An attempt's span has the enqueue's as its parent, and a link to it. The conventions ask for the link and allow
    the parent where a consumer handles one message at a time: who looks at the request sees what became of it.
    """

    #: Travels with the job: the W3C headers of the trace that enqueued it. ``None`` for one job: a trace of its own.
    options: ClassVar[Mapping[str, Any]] = {"trace_context": None}

    @classmethod
    def clean_option(cls, name: str, value: Any) -> Any:
        pairs = value.items() if isinstance(value, dict) else [(value, None)] if value is not None else []
        if not all(isinstance(part, str) for pair in pairs for part in pair):
            raise ValueError("it must be None or a dictionary of headers.")
        return value

    def __init__(self) -> None:
        self.tracer = trace.get_tracer("django_jobqueue")
        meter = metrics.get_meter("django_jobqueue")
        self.sent = meter.create_counter(
            "messaging.client.sent.messages", unit="{message}", description="Jobs that were enqueued."
        )
        self.consumed = meter.create_counter(
            "messaging.client.consumed.messages", unit="{message}", description="Attempts that began."
        )
        self.duration = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="How long attempts took.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.waited = meter.create_histogram(
            "django_jobqueue.wait.duration",
            unit="s",
            description="How long jobs were in line before an attempt.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        #: Attempts that have begun here; None: nothing is recorded of it.
        self._open: dict[tuple[int, int | None], Open | None] = {}

    @property
    def is_traced(self) -> bool:
        """Could a span be recorded? Asked each time: an SDK may be set up at any time."""
        return records(self.tracer) or (isinstance(self.tracer, trace.ProxyTracer) and records(tracer_provider()))

    @property
    def is_measured(self) -> bool:
        return records(self.duration) or records(meter_provider())

    # -- enqueue ---------------------------------------------------------------------------------

    def process_enqueue(self, jobs: list[Job], call_next: Callable[[list[Job]], list[Job]]) -> list[Job]:
        if not jobs:
            return call_next(jobs)
        if not self.is_traced and not self.is_measured:
            carry(jobs)
            return call_next(jobs)
        queues = Counter(job.queue_name for job in jobs)
        queue = next(iter(queues)) if len(queues) == 1 else None
        attributes = operation("enqueue", "send", queue)
        if len(jobs) > 1:
            attributes["messaging.batch.message_count"] = len(jobs)
        with self.tracer.start_as_current_span(name("enqueue", queue), kind=SpanKind.PRODUCER) as span:
            span.set_attributes(attributes)
            carry(jobs)
            try:
                saved = call_next(jobs)
            except Exception as error:
                span.set_attribute("error.type", type(error).__qualname__)
                self._count(queues, {"error.type": type(error).__qualname__})
                raise
            if len(saved) == 1:
                span.set_attribute("messaging.message.id", str(saved[0].pk))
                span.set_attribute("django_jobqueue.task", saved[0].task_path)
            self._count(Counter(job.queue_name for job in saved if not job.was_there), {})
            return saved

    def _count(self, queues: Mapping[str, int], more: dict[str, str]) -> None:
        for queue, number in queues.items():
            self.sent.add(number, operation("enqueue", "send", queue) | more)

    # -- run -------------------------------------------------------------------------------------

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        opened, token = self._begin(context)
        try:
            return call_next()
        finally:
            detach(token)
            if opened is not None:
                opened.ended = time.time_ns()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        opened, token = self._begin(context)
        try:
            return await call_next()
        finally:
            detach(token)
            if opened is not None:
                opened.ended = time.time_ns()

    def _begin(self, context: JobContext) -> tuple[Open | None, Any]:
        """The attempt's span is the current one from now on. It ends in ``job_finished``: what came of it is not known
        before, and a span that has ended takes no attributes.
        """
        job, parent, is_measured = context.job, parent_of(context), self.is_measured
        if not is_measured and (not self.is_traced or is_dropped(parent)):
            self._open[key(job)] = None
            return None, attach(parent)
        span = self._start(context, parent)
        opened = self._open[key(job)] = self._note(span, job) if is_measured or span.is_recording() else None
        return opened, attach(trace.set_span_in_context(span, parent))  # with the baggage that came along

    def _note(self, span: Any, job: Job) -> Open:
        waited, attributes = seconds_in_line(job), operation("process", "process", job.queue_name)
        self.consumed.add(1, attributes)
        self.waited.record(waited, attributes)
        span.set_attribute("django_jobqueue.wait", round(waited, 3))
        return Open(span, job, began=time.time_ns())

    def _start(self, context: JobContext, parent: Any, start_time: int | None = None) -> Any:
        job = context.job
        enqueued = trace.get_current_span(parent).get_span_context() if parent else trace.INVALID_SPAN_CONTEXT
        attributes = operation("process", "process", job.queue_name) | {
            "messaging.message.id": str(job.pk),
            "messaging.client.id": context.worker.name,
            "django_jobqueue.task": job.task_path,
            "django_jobqueue.attempt": context.attempt,
        }
        return self.tracer.start_span(
            name("process", job.queue_name),
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=[trace.Link(enqueued)] if enqueued.is_valid else [],
            start_time=start_time,
        )

    def outcome_written(self, job: Job, outcome: Outcome) -> bool:
        opened = self._open.get(key(job), MISSING)
        if opened is not None:
            return opened is not MISSING or self.is_traced
        del self._open[key(job)]
        return False

    def job_finished(self, context: JobContext, outcome: Outcome) -> None:
        opened = self._open.pop(key(context.job), None)
        if opened is None:
            # It ended before its task began, or another worker began it and has vanished, its span with it.
            moment = context.job.started_at
            began = None if moment is None else int(moment.timestamp() * 1e9)
            opened = Open(self._start(context, parent_of(context), began), context.job)
        self._end(opened, outcome.state, outcome.exception, outcome.message)

    def _end(self, opened: Open, state: State, error: BaseException | None, message: str) -> None:
        span, ended = opened.span, opened.ended or time.time_ns()
        attributes = operation("process", "process", opened.job.queue_name)
        span.set_attribute("django_jobqueue.outcome", str(state))
        if state in ERRORS:
            attributes["error.type"] = str(state) if error is None else type(error).__qualname__
            span.set_attribute("error.type", attributes["error.type"])
            span.set_status(StatusCode.ERROR, message)
            if error is not None:
                span.record_exception(error, timestamp=ended)
        span.end(ended)
        if opened.began is not None:
            self.duration.record((ended - opened.began) / 1e9, attributes)

    @contextmanager
    def worker_lifespan(self, worker: WorkerHandle) -> Iterator[None]:
        """Attempts that are not ours any more are never finished here; their spans end with the worker."""
        try:
            yield
        finally:
            while self._open:
                _, opened = self._open.popitem()
                if opened is not None:
                    self._end(opened, State.LOST, None, "Others have the job.")


def records(made: object) -> bool:
    """Is it more than a stand-in of the API's? Those record nothing."""
    return not type(made).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


# The API's own functions look into the environment each time while no SDK is set up, which takes ten times as long.
# The layer has asked them when it was made, so that what the environment names is there.


def tracer_provider() -> object:
    found = getattr(trace, "_TRACER_PROVIDER", MISSING)
    return trace.get_tracer_provider() if found is MISSING else found or STAND_IN


def meter_provider() -> object:
    found = getattr(metrics._internal, "_METER_PROVIDER", MISSING)
    return metrics.get_meter_provider() if found is MISSING else found or STAND_IN


def is_dropped(parent: Context) -> bool:
    """Is it certain that the SDK records nothing under this parent, which came with the job?"""
    if not parent:
        return False
    enqueued = trace.get_current_span(parent).get_span_context()
    if enqueued.trace_flags.sampled or not enqueued.is_valid:
        return False
    return follows_parent(getattr(trace.get_tracer_provider(), "sampler", None))


@lru_cache(maxsize=16)
def follows_parent(sampler: Any) -> bool:
    """Does the SDK's sampler drop what another process has not sampled? The usual ones do and say so."""
    try:
        description = str(sampler.get_description())
    except Exception:
        return False
    unsampled = description.split("remoteParentNotSampled:")[1:]  # more than one: it is made up of several
    return description.startswith("ParentBased{") and [each.split(",")[0] for each in unsampled] == ["AlwaysOffSampler"]


def key(job: Job) -> tuple[int, int | None]:
    return job.id, job.fence  # to ask for ``pk`` takes three times as long


def name(operation: str, queue: str | None) -> str:
    return operation if queue is None else f"{operation} {queue}"


def operation(name: str, kind: str, queue: str | None) -> dict[str, Any]:
    """What all spans and metrics of an operation say."""
    found = {
        "messaging.system": "django_jobqueue",
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
    }
    if queue is not None:
        found["messaging.destination.name"] = queue
    return found


#: A ``traceparent``, as jobs carry it.
PARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


def parent_of(context: JobContext) -> Context:
    """The OpenTelemetry context that came with the job."""
    headers = context.option("trace_context") or {}
    if len(headers) > 1 or not speaks_w3c(propagate.get_global_textmap()):
        return propagate.extract(headers)
    return extracted(headers["traceparent"]) if "traceparent" in headers else Context()


@lru_cache(maxsize=1024)
def extracted(traceparent: str) -> Context:
    """As ``propagate.extract``, in a third of the time; and jobs that were enqueued together have it in common."""
    found = PARENT.fullmatch(traceparent)
    if found is None:
        return propagate.extract({"traceparent": traceparent})
    ids = int(found[1], 16), int(found[2], 16)
    enqueued = trace.SpanContext(*ids, is_remote=True, trace_flags=trace.TraceFlags(int(found[3], 16)))
    return trace.set_span_in_context(trace.NonRecordingSpan(enqueued), Context()) if all(ids) else Context()


@lru_cache(maxsize=16)
def speaks_w3c(propagator: Any) -> bool:
    """Is it the usual one, for trace context and baggage as the W3C has them?"""
    return type(propagator) is CompositePropagator and propagator.fields == {"traceparent", "tracestate", "baggage"}


def carry(jobs: list[Job]) -> None:
    """Give the jobs the current trace's headers along, unless they have been told otherwise."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    if headers:
        for job in jobs:
            # another dict: jobs of one task share theirs
            job.options = {"trace_context": headers, **(job.options or {})}
