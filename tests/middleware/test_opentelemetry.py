"""OpenTelemetry: traces and metrics, as the SDK exports them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import defaultdict

import pytest
from django.http import HttpResponse
from django.urls import path
from opentelemetry import baggage, metrics, propagate, trace
from opentelemetry.context import attach, detach
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    TraceIdRatioBased,
)
from opentelemetry.trace import NoOpTracer, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from django_jobqueue import Skip, enqueue_many, task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.lifecycle import reap
from django_jobqueue.middleware import Middleware, current_job
from django_jobqueue.middleware.chain import project_layers
from django_jobqueue.middleware.opentelemetry import OpenTelemetry, extracted, follows_parent, parent_of
from django_jobqueue.models import Job
from django_jobqueue.models import Worker as WorkerRow

from ..lifecycle.steps import attempts, enqueue, fall_silent, fresh, started
from ..worker.runs import claimed_run, execution
from ..worker.workers import drain, make_worker

PATH = "django_jobqueue.middleware.opentelemetry.OpenTelemetry"
exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()


@pytest.fixture(scope="session", autouse=True)
def sdk():
    """A process can set these once."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))


@pytest.fixture(autouse=True)
def clean(settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    settings.ROOT_URLCONF = __name__
    exporter.clear()


@task(queue_name="mail", max_attempts=2, backoff=0.01)
def send(order, fail_first=True):
    if fail_first and current_job().attempt == 1:
        raise ConnectionError("the mail server is away")


@task(queue_name="mail", max_attempts=2, backoff=0.01)
async def asend(order, fail_first=True):
    await asyncio.sleep(0)
    if fail_first and current_job().attempt == 1:
        raise ConnectionError("the mail server is away")


@task
def sends():
    send.enqueue(1, fail_first=False)


@task
def current_trace():
    return [f"{trace.get_current_span().get_span_context().trace_id:x}", baggage.get_baggage("tenant")]


@task
def skips():
    raise Skip("not needed")


@task
def loses_itself():
    Job.objects.filter(pk=current_job().job.pk).update(fence=1)


def buy(request, kind):
    """What an instrumentation of Django does, and a view that enqueues."""
    with trace.get_tracer("shop").start_as_current_span("POST /buy", kind=SpanKind.SERVER):
        {"sync": send, "async": asend}[kind].enqueue(42)
    return HttpResponse()


urlpatterns = [path("buy/<kind>", buy)]


class BreaksPrepare(Middleware):
    def process_prepare(self, context, call_next):
        raise ValueError("not ready")


class BreaksEnqueue(Middleware):
    def process_enqueue(self, jobs, call_next):
        raise LookupError("no such tenant")


def spans(name: str = "") -> list:
    """In the order of their beginnings."""
    return sorted((s for s in exporter.get_finished_spans() if s.name.startswith(name)), key=lambda s: s.start_time)


def points() -> dict[str, list]:
    """What has been measured so far, by the metrics' names."""
    found = defaultdict(list)
    for resource in getattr(reader.get_metrics_data(), "resource_metrics", ()):
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found[metric.name] += metric.data.data_points
    return found


def total(name: str, **attributes) -> float:
    """The sum of a counter, or how many values a histogram has, over the points with these attributes."""
    return sum(
        getattr(point, "value", None) if hasattr(point, "value") else point.count
        for point in points()[name]
        if all(point.attributes.get(key.replace("__", ".")) == value for key, value in attributes.items())
    )


# -- traces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "func"), [("sync", send), ("async", asend)])
def test_one_trace_from_the_request_through_the_enqueue_to_both_attempts(queue_db, client, kind, func):
    assert client.get(f"/buy/{kind}").status_code == 200
    drain()
    request, enqueue, first, second = spans()
    assert [span.name for span in spans()] == ["POST /buy", "enqueue mail", "process mail", "process mail"]
    assert len({span.context.trace_id for span in spans()}) == 1
    assert enqueue.parent.span_id == request.context.span_id
    assert (enqueue.kind, first.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    job = Job.objects.get()
    assert dict(enqueue.attributes) == {
        "messaging.system": "django_jobqueue",
        "messaging.operation.name": "enqueue",
        "messaging.operation.type": "send",
        "messaging.destination.name": "mail",
        "messaging.message.id": str(job.pk),
        "django_jobqueue.task": func.module_path,
    }
    for number, span in enumerate([first, second], start=1):
        assert span.parent.span_id == enqueue.context.span_id
        assert [link.context.span_id for link in span.links] == [enqueue.context.span_id]
        attributes = dict(span.attributes)
        assert 0 <= attributes.pop("django_jobqueue.wait") < 5
        assert attributes.pop("error.type", None) == ("ConnectionError" if number == 1 else None)
        assert attributes == {
            "messaging.system": "django_jobqueue",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": "mail",
            "messaging.message.id": str(job.pk),
            "messaging.client.id": attempts(job)[0].worker.name,
            "django_jobqueue.task": func.module_path,
            "django_jobqueue.attempt": number,
            "django_jobqueue.outcome": ["retrying", "succeeded"][number - 1],
        }
    assert first.status.status_code is StatusCode.ERROR
    assert first.status.description == "ConnectionError: the mail server is away"
    assert (second.status.status_code, second.events) == (StatusCode.UNSET, ())
    [event] = first.events
    assert (event.name, event.attributes["exception.type"]) == ("exception", "ConnectionError")
    assert func.func.__name__ in event.attributes["exception.stacktrace"], "with the task's own frames"
    assert first.end_time <= second.start_time


def test_a_job_that_enqueues_passes_the_trace_on(queue_db):
    enqueue(sends)
    drain()
    names = ["enqueue default", "process default", "enqueue mail", "process mail"]
    assert [span.name for span in spans()] == names
    for outer, inner in zip(spans(), spans()[1:], strict=False):
        assert inner.parent.span_id == outer.context.span_id


def test_many_jobs_have_one_span_and_each_its_headers(queue_db):
    enqueue_many([send.s(number, fail_first=False) for number in range(3)])
    enqueue_many([send.s(3, fail_first=False), current_trace.s()])
    many, mixed = spans("enqueue")
    assert (many.name, mixed.name) == ("enqueue mail", "enqueue")
    assert many.attributes["messaging.batch.message_count"] == 3
    assert "messaging.message.id" not in many.attributes
    assert "messaging.destination.name" not in mixed.attributes
    for job in Job.objects.order_by("pk"):
        span = many if job.pk <= Job.objects.order_by("pk")[2].pk else mixed
        assert f"{span.context.span_id:016x}" in job.options["trace_context"]["traceparent"]
    drain()
    parents = sorted(span.parent.span_id for span in spans("process"))
    assert parents == sorted([many.context.span_id] * 3 + [mixed.context.span_id] * 2)


def test_other_options_of_the_job_stay_and_the_tasks_own_are_not_touched(queue_db):
    func = send.using(timeout=30)
    first, second = enqueue(func, 1), enqueue(func, 2)
    assert first.options["timeout"] == 30 and set(first.options) == {"timeout", "trace_context"}
    assert first.options["trace_context"] != second.options["trace_context"]
    assert enqueue(noop_option(func), 3).options["trace_context"] is None


def noop_option(func):
    return func.using(trace_context=None)


def test_without_headers_an_attempt_begins_a_trace(queue_db):
    enqueue(noop_option(send), 1, fail_first=False)
    drain()
    produced, processed = spans()
    assert processed.parent is None and not processed.links
    assert processed.context.trace_id != produced.context.trace_id


def test_baggage_travels_along(queue_db):
    token = attach(baggage.set_baggage("tenant", "acme"))
    job = enqueue(current_trace)
    detach(token)
    drain()
    assert "baggage" in job.options["trace_context"]
    trace_id, tenant = fresh(job).result
    assert tenant == "acme" and int(trace_id, 16) == spans("enqueue")[0].context.trace_id


def test_what_an_attempt_came_to(queue_db):
    enqueue(skips)
    drain()
    [span] = spans("process")
    assert span.attributes["django_jobqueue.outcome"] == "skipped"
    assert span.status.status_code is StatusCode.UNSET and not span.events


def test_an_enqueue_that_fails(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH, f"{__name__}.BreaksEnqueue"]
    before = total("messaging.client.sent.messages", error__type="LookupError")
    with pytest.raises(LookupError):
        send.enqueue(1)
    [span] = spans()
    assert span.attributes["error.type"] == "LookupError"
    assert span.status.status_code is StatusCode.ERROR and len(span.events) == 1
    assert total("messaging.client.sent.messages", error__type="LookupError") == before + 1


def test_an_attempt_that_never_came_to_its_task_has_a_span_too(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH, f"{__name__}.BreaksPrepare"]
    enqueue(current_trace)
    drain()
    produced, processed = spans()
    assert processed.parent.span_id == produced.context.span_id
    assert processed.attributes["django_jobqueue.outcome"] == "failed"
    assert processed.attributes["error.type"] == "ValueError"


def test_an_attempt_that_was_lost_with_its_worker_is_in_the_trace(queue_db):
    job = started(send, 1)
    fall_silent(WorkerRow.objects.get())
    worker = make_worker()
    worker._reaped(reap("default"))
    worker.announcer.close()
    worker.announcer.run()
    produced, lost = spans()
    assert lost.parent.span_id == produced.context.span_id
    assert (lost.attributes["django_jobqueue.outcome"], lost.attributes["error.type"]) == ("lost", "JobLost")
    assert abs(lost.start_time / 1e9 - job.started_at.timestamp()) < 0.001


def test_the_span_of_an_attempt_that_others_have_ends_with_the_worker(queue_db):
    enqueue(loses_itself)
    worker = make_worker(max_jobs=1)
    worker.run()
    lost = spans("process")[0]
    assert lost.attributes["django_jobqueue.outcome"] == "lost" and lost.status.status_code is StatusCode.ERROR
    [layer] = project_layers()
    assert layer._open == {}


def test_without_an_sdk_nothing_travels(queue_db, monkeypatch):
    [layer] = project_layers()
    monkeypatch.setattr(layer, "tracer", NoOpTracer())
    job = enqueue(send, 1, False)
    drain()
    assert (job.options, fresh(job).status, spans()) == (None, "SUCCESSFUL", [])


# -- what nothing is recorded of ------------------------------------------------------------------


@pytest.fixture
def unmeasured(monkeypatch):
    """As where only traces are set up; a process cannot take back its metrics."""
    monkeypatch.setattr(OpenTelemetry, "is_measured", False)


def unsampled(**more) -> dict:
    return {"trace_context": {"traceparent": f"00-{7:032x}-{8:016x}-00", **more}}


@task
def passes_on():
    current_trace.enqueue()
    context = trace.get_current_span().get_span_context()
    return [trace.get_current_span().is_recording(), context.trace_flags]


@pytest.mark.parametrize("more", [{}, {"baggage": "tenant=acme"}, {"tracestate": "a=b"}], ids=str)
def test_under_an_unsampled_trace_nothing_is_recorded_and_the_trace_goes_on(queue_db, unmeasured, more):
    job = enqueue(passes_on.using(**unsampled(**more)))
    drain()
    assert len(spans()) == 1, "that of the enqueue outside of the job"
    assert fresh(job).result == [False, 0]
    second = Job.objects.exclude(pk=job.pk).get()
    assert second.options["trace_context"]["traceparent"].split("-")[1::2] == [f"{7:032x}", "00"]
    assert fresh(second).result == ["7", "acme" if "baggage" in more else None]
    [layer] = project_layers()
    assert layer._open == {}


def test_an_unsampled_failure_is_not_recorded_either(queue_db, unmeasured):
    enqueue(send.using(**unsampled()), 1)
    drain()
    assert spans("process") == []


def test_a_sampler_that_wants_unsampled_traces_gets_them(queue_db, unmeasured, monkeypatch):
    for holder in (trace.get_tracer_provider(), project_layers()[0].tracer):
        monkeypatch.setattr(holder, "sampler", ALWAYS_ON, raising=False)
    enqueue(current_trace.using(**unsampled()))
    drain()
    [span] = spans("process")
    assert span.parent.span_id == 8


@pytest.mark.once
@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (DEFAULT_ON, True),
        (DEFAULT_OFF, True),
        (ParentBasedTraceIdRatio(0.01), True),
        (ParentBased(ALWAYS_OFF, remote_parent_not_sampled=ALWAYS_ON), False),
        (ParentBased(DEFAULT_ON, remote_parent_not_sampled=DEFAULT_ON), False),
        (ParentBased(DEFAULT_ON, remote_parent_not_sampled=TraceIdRatioBased(0.5)), False),
        (TraceIdRatioBased(0.01), False),
        (ALWAYS_ON, False),
        (None, False),
    ],
    ids=lambda value: getattr(value, "get_description", lambda: str(value))(),
)
def test_only_samplers_that_are_known_to_follow_the_parent_are_not_asked(sampler, expected):
    assert follows_parent(sampler) is expected


IDS = f"{7:032x}-{8:016x}"


@pytest.mark.once
@pytest.mark.parametrize(
    "header",
    [
        f"00-{IDS}-01",
        f"00-{IDS}-00",
        f"00-{IDS}-03",
        f"01-{IDS}-01",
        f"01-{IDS}-01-more",
        f"00-{IDS}-01-more",
        f"ff-{IDS}-01",
        f" 00-{IDS}-01 ",
        f"00-{IDS}-01\n",
        f"00-{IDS}-0A",
        f"00-{0:032x}-{8:016x}-01",
        f"00-{7:032x}-{0:016x}-01",
        "",
        "nonsense",
    ],
)
def test_a_header_is_read_as_the_api_reads_it(header):
    def read(context):
        return trace.get_current_span(context).get_span_context()

    found, expected = extracted(header), propagate.extract({"traceparent": header})
    assert found.keys() == expected.keys() and read(found) == read(expected)
    assert read(found).is_remote == read(expected).is_remote


@pytest.mark.once
def test_other_propagators_are_asked_themselves(monkeypatch):
    class Own(TraceContextTextMapPropagator):
        def extract(self, carrier, context=None, getter=None):
            return baggage.set_baggage("asked", dict(carrier), context=context)

    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", Own())
    for options in ({}, unsampled()):
        run = claimed_run(passes_on, row={"options": options})
        found = parent_of(execution().context(run.job, passes_on, lambda: None))
        assert baggage.get_baggage("asked", found) == options.get("trace_context", {})


FRESH = """
import django
django.setup()
from opentelemetry import metrics, trace
from tests.worker.runs import claimed_run, execution
from tests.middleware.unset_tracing import asks
from django_jobqueue.middleware.chain import project_layers

def run(**options):
    run = claimed_run(asks, row={"options": options or None})
    here.run(run, asks)
    assert run.outcome.state == "succeeded", run.outcome
    return run.outcome.result, len(here.followers(run.job, run.outcome)), len(layer._open)

here = execution()
[layer] = project_layers()
headers = {"traceparent": f"00-{7:032x}-{8:016x}-01"}
assert run() == ([0, {}], 0, 0), run()
assert run(trace_context=headers) == ([7, headers], 0, 0)

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
early = claimed_run(asks)
here.run(early, asks)
trace.set_tracer_provider(TracerProvider())
assert here.followers(early.job, early.outcome) == [], "it began before"
found, followers, opened = run(trace_context=headers)
assert (found[0], followers, opened) == (7, 1, 1) and found[1] != headers, "a span of its own"
layer._open.clear()
reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
run()
found = reader.get_metrics_data().resource_metrics[0].scope_metrics
assert "messaging.client.consumed.messages" in {each.name for scope in found for each in scope.metrics}
"""


@pytest.mark.once
def test_without_an_sdk_nothing_is_made_and_one_that_is_set_up_later_is_noticed():
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "tests.middleware.unset_tracing_settings"}
    done = subprocess.run([sys.executable, "-c", FRESH], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.once
@pytest.mark.parametrize("value", ["00-abc", 7, {"traceparent": 7}, {7: "x"}])
def test_headers_that_are_none_are_refused(value):
    with pytest.raises(InvalidTask, match="a dictionary of headers"):
        send.using(trace_context=value)


# -- metrics --------------------------------------------------------------------------------------


def test_metrics(queue_db):
    func = send.using(queue_name="measured")
    enqueue(func, 1)
    enqueue_many([func.s(2, fail_first=False)] * 2)
    drain()
    queue = {"messaging__destination__name": "measured", "messaging__system": "django_jobqueue"}
    assert total("messaging.client.sent.messages", messaging__operation__name="enqueue", **queue) == 3
    assert total("messaging.client.consumed.messages", messaging__operation__name="process", **queue) == 4
    assert total("messaging.process.duration", **queue) == 4
    assert total("messaging.process.duration", error__type="ConnectionError", **queue) == 1
    assert total("django_jobqueue.wait.duration", **queue) == 4
    for name in ("messaging.process.duration", "django_jobqueue.wait.duration"):
        for point in points()[name]:
            assert point.explicit_bounds[-1] == 1800 and 0 <= point.max < 60
