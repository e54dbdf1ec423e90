"""Prometheus: numbers as a scraper gets them, over HTTP."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from http.client import HTTPConnection, HTTPException
from urllib.request import urlopen

import pytest
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.core.exceptions import ImproperlyConfigured
from django.test import Client, RequestFactory
from django.urls import path
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from django_jobqueue import Snooze, task
from django_jobqueue.lifecycle import pause, reap
from django_jobqueue.middleware import prometheus
from django_jobqueue.middleware.chain import make_layer
from django_jobqueue.middleware.prometheus import configuration, metrics, serve
from django_jobqueue.models import Worker as WorkerRow

from ..lifecycle.steps import enqueue, fall_silent, started, worker
from ..tasks import noop
from ..worker.runs import claimed_run, execution, run_sync
from ..worker.workers import drain, make_worker, working

PATH = "django_jobqueue.middleware.prometheus.Prometheus"
OPEN, BUSY = threading.Event(), threading.Event()
TOKEN = "ein langes Geheimnis"

urlpatterns = [path("metrics", metrics)]


@pytest.fixture(autouse=True)
def clean(settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    settings.JOBQUEUE_PROMETHEUS = {"PORT": 0, "TOKEN": TOKEN}
    settings.ROOT_URLCONF = __name__
    for metric in (prometheus.ATTEMPTS, prometheus.RUN, prometheus.WAIT, prometheus.RUNNING):
        metric.clear()
    OPEN.clear()
    BUSY.clear()
    yield
    OPEN.set()


@task(queue_name="mail", max_attempts=2, backoff=0.01)
def fails():
    raise ValueError("no")


@task(queue_name="mail")
async def arests():
    await asyncio.sleep(0.02)


@task(queue_name="mail")
def waits():
    BUSY.set()
    OPEN.wait(20)


@task
def snoozes():
    raise Snooze(3600)


def numbers(text: str) -> dict:
    """Each number by its name and the values of its labels, in the order of these."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def fetch(port: int) -> dict:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        return numbers(response.read().decode())


def port_of(running) -> int:
    """The port of a worker that has just been started."""
    for _ in range(1000):
        if hasattr(running.state, "metrics_port"):
            return running.state.metrics_port
        time.sleep(0.01)
    raise AssertionError("the worker serves nothing")


def free_port(following: int) -> int:
    """A port that is free, and the next ones too, most likely."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port + following < 65536:
            return port


# -- at the worker's port -------------------------------------------------------------------------


def test_attempts_are_counted_and_timed(queue_db):
    enqueue(fails)
    enqueue(arests)
    enqueue(snoozes)
    drain()
    with working() as running:
        found = fetch(port_of(running))
    here = "tests.middleware.test_prometheus"
    assert found["jobqueue_attempts_total", "retrying", "mail", f"{here}.fails"] == 1
    assert found["jobqueue_attempts_total", "failed", "mail", f"{here}.fails"] == 1
    assert found["jobqueue_attempts_total", "succeeded", "mail", f"{here}.arests"] == 1
    assert found["jobqueue_attempts_total", "snoozed", "default", f"{here}.snoozes"] == 1
    assert found["jobqueue_attempt_seconds_count", "mail", f"{here}.fails"] == 2
    assert 0.02 <= found["jobqueue_attempt_seconds_sum", "mail", f"{here}.arests"] < 5
    assert found["jobqueue_wait_seconds_count", "mail", f"{here}.fails"] == 2
    assert found["jobqueue_wait_seconds_sum", "mail", f"{here}.fails"] < 5
    assert found["jobqueue_attempts_in_progress", "mail", f"{here}.fails"] == 0
    assert "python_info" in {key[0] for key in found}, "what else the process counts is there too"


def test_what_runs_now(queue_db, eventually):
    enqueue(waits)
    with working() as running:
        assert BUSY.wait(10)
        name = ("jobqueue_attempts_in_progress", "mail", "tests.middleware.test_prometheus.waits")
        assert fetch(port_of(running))[name] == 1
        OPEN.set()
        eventually(lambda: fetch(port_of(running))[name] == 0)


def test_time_in_line_counts_from_when_the_job_was_due(queue_db):
    enqueue(noop.using(run_after=timedelta(seconds=1)))
    drain(3)
    with working() as running:
        found = fetch(port_of(running))
    assert found["jobqueue_wait_seconds_sum", "default", "tests.tasks.noop"] < 0.9


def test_a_lost_attempt_is_counted_by_who_finds_it(queue_db):
    started(noop)
    fall_silent(WorkerRow.objects.get())
    finder = make_worker()
    finder._reaped(reap("default"))
    finder.announcer.close()
    finder.announcer.run()
    with working(queues="none") as running:
        found = fetch(port_of(running))
    assert found["jobqueue_attempts_total", "lost", "default", "tests.tasks.noop"] == 1


def test_workers_on_one_machine_take_one_port_after_the_other(queue_db, settings):
    port = free_port(10)
    settings.JOBQUEUE_PROMETHEUS = {"PORT": port}
    with working() as first, working() as second:
        ports = sorted([port_of(first), port_of(second)])
        assert port <= ports[0] < ports[1] < port + 10
        for each in ports:
            assert fetch(each)
    with pytest.raises((OSError, HTTPException)):
        fetch(ports[0])
    with working() as third:
        assert port_of(third) == ports[0], "it is free again"


def test_without_a_port_there_is_no_server(queue_db, settings, eventually):
    settings.JOBQUEUE_PROMETHEUS = {"PORT": None}
    with working() as running:
        eventually(lambda: running.desk.id)
        assert not hasattr(running.state, "metrics_port")


@pytest.mark.once
def test_when_no_port_is_left_it_is_said(monkeypatch):
    monkeypatch.setattr(prometheus, "PORTS", 1)
    server, thread = serve("127.0.0.1", 0)
    try:
        with pytest.raises(OSError):
            serve("127.0.0.1", server.server_port)
        with pytest.raises(OSError):
            serve("192.0.2.1", 0)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.processes
def test_each_process_of_a_worker_has_its_port(queue_db, spawn, eventually):
    port = free_port(10)
    enqueue(noop)
    process = spawn(
        "runworker", "--processes", 2, DJANGO_SETTINGS_MODULE="tests.middleware.prometheus_settings", PORT=str(port)
    )
    found = []

    def look():
        found[:] = []
        for each in range(port, port + 5):
            try:
                found.append(fetch(each))
            except (OSError, HTTPException):  # on the same machine a connection may meet itself, and hears its echo
                continue
        return sum(
            key == ("jobqueue_attempts_total", "succeeded", "default", "tests.tasks.noop")
            for each in found
            for key in each
        )

    eventually(look, within=30)
    eventually(lambda: look() == 1 and len(found) == 2)
    process.terminate()
    assert process.wait(30) == 0


# -- what is kept between jobs --------------------------------------------------------------------


def count(path: str, *labels: str) -> float | None:
    names = dict(zip(("task", "queue", "outcome"), labels, strict=False))
    return REGISTRY.get_sample_value(path, names)


NOOP = ("tests.tasks.noop", "default")


@pytest.mark.once
def test_what_threads_that_have_ended_have_counted_stays():
    def work():
        here = execution()
        for _ in range(50):
            run = claimed_run(noop)
            here.run(run, noop)
            assert here.followers(run.job, run.outcome) == [], "it is counted, and has no need of another thread"

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count("jobqueue_attempts_total", *NOOP, "succeeded") == 200
    for name in ("attempt", "wait"):
        assert count(f"jobqueue_{name}_seconds_count", *NOOP) == 200
    assert count("jobqueue_attempts_in_progress", *NOOP) == 0


@pytest.mark.once
@pytest.mark.parametrize("forget", ["clear", "remove"])
def test_a_project_may_take_series_out_and_counting_goes_on(forget):
    def run_one():
        run = claimed_run(noop)
        here = execution()
        here.run(run, noop)
        here.followers(run.job, run.outcome)

    run_one()
    for metric in (prometheus.RUN, prometheus.WAIT, prometheus.RUNNING):
        metric.clear() if forget == "clear" else metric.remove(*NOOP)
    prometheus.ATTEMPTS.clear() if forget == "clear" else prometheus.ATTEMPTS.remove(*NOOP, "succeeded")
    assert count("jobqueue_attempt_seconds_count", *NOOP) is None
    run_one()
    assert count("jobqueue_attempts_total", *NOOP, "succeeded") == 1
    assert count("jobqueue_attempt_seconds_count", *NOOP) == 1
    assert count("jobqueue_wait_seconds_count", *NOOP) == 1


@pytest.mark.once
def test_a_task_that_raises_is_timed_and_runs_no_longer():
    run_sync(fails)
    labels = (fails.module_path, "default")
    assert count("jobqueue_attempt_seconds_count", *labels) == 1
    assert count("jobqueue_attempts_in_progress", *labels) == 0


SEVERAL = """
import django
django.setup()
from tests.tasks import noop
from tests.worker.runs import claimed_run, execution
here = execution()
for _ in range(2):
    run = claimed_run(noop)
    here.run(run, noop)
    here.followers(run.job, run.outcome)
"""


@pytest.mark.once
def test_processes_that_keep_their_numbers_together(tmp_path):
    """As ``prometheus_client`` does where PROMETHEUS_MULTIPROC_DIR is set."""
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.middleware.prometheus_settings",
        "PORT": "0",
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
    }
    subprocess.run([sys.executable, "-c", SEVERAL], env=environment, check=True, timeout=120)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))
    task, queue = NOOP
    labels = {"task": task, "queue": queue}
    assert registry.get_sample_value("jobqueue_attempts_total", {**labels, "outcome": "succeeded"}) == 2
    assert registry.get_sample_value("jobqueue_attempt_seconds_count", labels) == 2
    assert registry.get_sample_value("jobqueue_wait_seconds_count", labels) == 2


# -- the settings ---------------------------------------------------------------------------------


@pytest.mark.once
def test_the_defaults(settings):
    del settings.JOBQUEUE_PROMETHEUS
    assert configuration() == {"PORT": 9191, "ADDRESS": "127.0.0.1", "TOKEN": None}


@pytest.mark.once
@pytest.mark.parametrize(
    "value", [[], {"PORTS": 1}, {"PORT": "9191"}, {"PORT": -1}, {"PORT": True}, {"TOKEN": ""}, {"TOKEN": 7}]
)
def test_what_cannot_be_is_said_when_the_layer_is_made(settings, value):
    settings.JOBQUEUE_PROMETHEUS = value
    with pytest.raises(ImproperlyConfigured, match="JOBQUEUE_PROMETHEUS"):
        make_layer(PATH)


# -- the view -------------------------------------------------------------------------------------


def bearer(token: str = TOKEN) -> dict:
    return {"headers": {"Authorization": f"Bearer {token}"}}


def test_the_numbers_of_the_queues(queue_db, client):
    started(noop)
    worker()
    for func in (noop, noop, noop.using(run_after=timedelta(hours=1)), waits):
        enqueue(func)
    pause("mail")
    response = client.get("/metrics", **bearer())
    assert response.status_code == 200 and response["Content-Type"].startswith("text/plain")
    found = numbers(response.content.decode())
    for name, value in {
        ("jobqueue_queue_ready", "default", "default"): 2,
        ("jobqueue_queue_scheduled", "default", "default"): 1,
        ("jobqueue_queue_running", "default", "default"): 1,
        ("jobqueue_queue_ready", "default", "mail"): 1,
        ("jobqueue_queue_paused", "default", "mail"): 1,
        ("jobqueue_workers", "default", "alive"): 2,
        ("jobqueue_workers", "default", "silent"): 0,
        ("jobqueue_worker_slots", "default"): 2,
        ("jobqueue_jobs", "default", "ready"): 3,
        ("jobqueue_jobs", "default", "failed"): 0,
    }.items():
        assert found[name] == value, name
    assert 0 <= found["jobqueue_queue_oldest_seconds", "default", "mail"] < 30


def test_over_http(live_server):
    connection = HTTPConnection(live_server.thread.host, live_server.thread.port, timeout=5)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert b"jobqueue" not in response.read()
    connection.request("GET", "/metrics", headers={"Authorization": f"bearer {TOKEN}"})
    assert b"jobqueue_workers" in connection.getresponse().read()
    connection.close()


@pytest.mark.parametrize("headers", [{}, bearer("falsch"), bearer(""), {"headers": {"Authorization": TOKEN}}])
def test_nobody_else_gets_in(db, client, headers):
    assert client.get("/metrics", **headers).status_code == 401


@pytest.mark.parametrize("token", ["", "None", TOKEN])
def test_without_a_token_in_the_settings_no_token_opens(db, client, settings, token):
    settings.JOBQUEUE_PROMETHEUS = {}
    assert client.get("/metrics", **bearer(token)).status_code == 401


def test_staff_with_the_permission_gets_in(db):
    permission = Permission.objects.get(content_type__app_label="django_jobqueue", codename="view_job")
    for staff, allowed, status in ((True, True, 200), (True, False, 401), (False, True, 401)):
        user = User.objects.create_user(f"{staff} {allowed}", is_staff=staff)
        user.user_permissions.set([permission] if allowed else [])
        client = Client()
        client.force_login(user)
        assert client.get("/metrics").status_code == status, (staff, allowed)


def test_a_project_without_authentication(db):
    assert metrics(RequestFactory().get("/metrics")).status_code == 401
    request = RequestFactory().get("/metrics")
    request.user = AnonymousUser()
    assert metrics(request).status_code == 401


def test_a_token_works_where_every_view_wants_a_login(db, client, settings):
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    assert client.get("/metrics", **bearer()).status_code == 200


def test_it_only_reads(db, client, django_assert_max_num_queries):
    assert client.post("/metrics", **bearer()).status_code == 405
    with django_assert_max_num_queries(20):
        response = client.get("/metrics", **bearer())
    assert "no-store" in response["Cache-Control"]
