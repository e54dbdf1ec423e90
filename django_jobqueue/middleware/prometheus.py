"""Prometheus: what workers count, at a port of each worker, and the queues' numbers, at a view of the project's."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase

from .. import conf, stats
from ..logs import get_logger
from ..outcomes import Outcome, State
from .base import Middleware
from .context import JobContext, WorkerHandle
from .waiting import seconds_in_line

if TYPE_CHECKING:
    from ..models import Job

logger = get_logger(__name__)

#: ``JOBQUEUE_PROMETHEUS``. A port that is taken makes way for the next one: each process of a worker needs its own.
DEFAULTS: Mapping[str, Any] = {"PORT": 9191, "ADDRESS": "127.0.0.1", "TOKEN": None}
#: How many ports are tried.
PORTS = 100

# In the registry that all of a process shares, so that what tasks count for themselves is at the same port. And here,
# because a registry takes each name once, and a process may make the layer twice: the system checks do.
BY = ("task", "queue")
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


class Cached(MetricWrapperBase):  # type: ignore[misc]
    """To ask a metric for those of these labels takes longer than to count, so they are kept until it drops them."""

    def clear(self) -> None:
        super().clear()
        _forget()

    def remove(self, *labels: Any) -> None:
        super().remove(*labels)
        _forget()


class CachedCounter(Cached, Counter):  # type: ignore[misc]
    pass


class CachedHistogram(Cached, Histogram):  # type: ignore[misc]
    pass


class CachedGauge(Cached, Gauge):  # type: ignore[misc]
    pass


ATTEMPTS = CachedCounter("jobqueue_attempts", "Attempts that ended.", (*BY, "outcome"))
RUN = CachedHistogram("jobqueue_attempt_seconds", "How long attempts took.", BY, buckets=BUCKETS)
WAIT = CachedHistogram("jobqueue_wait_seconds", "How long jobs were in line before an attempt.", BY, buckets=BUCKETS)
RUNNING = CachedGauge("jobqueue_attempts_in_progress", "Attempts that run now.", BY, multiprocess_mode="livesum")


class Counters(NamedTuple):
    """What counts the attempts of one task in one queue."""

    waited: Callable[[float], None]
    begun: Callable[[], None]
    took: Callable[[float], None]
    ended: Callable[[], None]


def counters(job: Job) -> Counters:
    return _counters(job.task_path, job.queue_name)


# No bound is needed: the metrics keep as many.


@cache
def _counters(*labels: str) -> Counters:
    running = RUNNING.labels(*labels)
    return Counters(WAIT.labels(*labels).observe, running.inc, RUN.labels(*labels).observe, running.dec)


@cache
def _came_to(task: str, queue: str, state: State) -> Callable[[], None]:
    inc: Callable[[], None] = ATTEMPTS.labels(task, queue, str(state)).inc
    return inc


def _forget() -> None:
    _counters.cache_clear()
    _came_to.cache_clear()


class Prometheus(Middleware):
    """Counts and times attempts, and lets Prometheus fetch the numbers from the worker."""

    def __init__(self) -> None:
        configuration()  # what is wrong with it is for the system checks to find

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        count, waited = counters(context.job), seconds_in_line(context.job)
        count.waited(waited)
        count.begun()
        began = perf_counter()
        try:
            return call_next()
        finally:
            count.took(max(0.0, perf_counter() - began))
            count.ended()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        count, waited = counters(context.job), seconds_in_line(context.job)
        count.waited(waited)
        count.begun()
        began = perf_counter()
        try:
            return await call_next()
        finally:
            count.took(max(0.0, perf_counter() - began))
            count.ended()

    def outcome_written(self, job: Job, outcome: Outcome) -> bool:
        _came_to(job.task_path, job.queue_name, outcome.state)()
        return False

    @contextmanager
    def worker_lifespan(self, worker: WorkerHandle) -> Iterator[None]:
        config = configuration()
        if config["PORT"] is None:
            yield
            return
        server, thread = serve(config["ADDRESS"], config["PORT"])
        worker.state.metrics_port = server.server_port
        logger.info("Metrics are at http://%s:%d/metrics.", config["ADDRESS"], server.server_port)
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join(5)


def serve(address: str, port: int) -> Any:
    """Serve the process's numbers at this port, or at one of the next ones; 0: at any. Raise ``OSError`` if none."""
    last = min(port + PORTS, 65536) - 1 if port else 0
    for candidate in range(port, last + 1):
        try:
            return start_http_server(candidate, addr=address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or candidate == last:
                raise
    raise AssertionError("unreachable")


def configuration() -> dict[str, Any]:
    """``JOBQUEUE_PROMETHEUS`` with its defaults. Raise ``ImproperlyConfigured`` for what cannot be."""
    given = getattr(settings, "JOBQUEUE_PROMETHEUS", {})
    if not isinstance(given, Mapping) or set(given) - set(DEFAULTS):
        raise ImproperlyConfigured(f"JOBQUEUE_PROMETHEUS must be a dictionary of {', '.join(DEFAULTS)}, not {given!r}.")
    port, token = given.get("PORT", 0), given.get("TOKEN")
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65536):
        raise ImproperlyConfigured(f"JOBQUEUE_PROMETHEUS['PORT'] must be None or a port's number, not {port!r}.")
    if token is not None and (not isinstance(token, str) or not token):  # an empty one would let everybody in
        raise ImproperlyConfigured("JOBQUEUE_PROMETHEUS['TOKEN'] must be None or a text that is not empty.")
    return {**DEFAULTS, **given}


# -- the view -------------------------------------------------------------------------------------


@login_not_required  # it looks for itself: a scraper has a token and no session
@require_safe
@never_cache
def metrics(request: HttpRequest) -> HttpResponse:
    """The queues' numbers, out of the database, for staff with the permission ``view_job`` or for a bearer token."""
    if not may_look(request):
        return HttpResponse("Staff, or a token.\n", "text/plain", 401, headers={"WWW-Authenticate": "Bearer"})
    registry = CollectorRegistry()
    fill(registry)
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(registry), content_type)


def may_look(request: HttpRequest) -> bool:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    expected = configuration()["TOKEN"]
    if expected is not None and kind.lower() == "bearer" and constant_time_compare(token.strip(), expected):
        return True
    user = getattr(request, "user", None)  # without Django's authentication there is none
    return user is not None and user.is_staff and user.has_perm("django_jobqueue.view_job")


def fill(registry: Any) -> None:
    """Reads what ``jobqueue status`` reads: no count goes beyond ``stats.CAP``, nothing is scanned."""

    def gauge(name: str, text: str, *labels: str) -> Any:
        return Gauge(f"jobqueue_{name}", text, ("database", *labels), registry=registry)

    by_queue = {
        "ready": gauge("queue_ready", "Jobs in line.", "queue"),
        "scheduled": gauge("queue_scheduled", "Jobs that are to run later.", "queue"),
        "running": gauge("queue_running", "Jobs that run.", "queue"),
    }
    oldest = gauge("queue_oldest_seconds", "How long the first job in line has waited; 0 if there is none.", "queue")
    paused = gauge("queue_paused", "1 if the queue is paused.", "queue")
    workers = gauge("workers", "Workers: alive, silent (their lease is over), or lost within a day.", "state")
    slots = gauge("worker_slots", "Slots of the workers that are alive.")
    jobs = gauge("jobs", "Jobs by where they stand.", "state")
    for using in databases():
        now = stats.overview(using)
        for queue in now.queues:
            for word, numbers in by_queue.items():
                numbers.labels(using, queue.name).set(getattr(queue, word).number)
            oldest.labels(using, queue.name).set(queue.oldest_seconds or 0)
            paused.labels(using, queue.name).set(queue.paused)
        for state in ("alive", "silent", "lost"):
            workers.labels(using, state).set(getattr(now.workers, state))
        slots.labels(using).set(now.workers.slots)
        for word, count in now.totals.items():
            if count is not None:
                jobs.labels(using, word).set(count.number)


def databases() -> list[str]:
    """The aliases of the databases that jobs are in."""
    return sorted(conf.databases())
