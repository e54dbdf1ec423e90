"""Whatever a worker holds is in an executor, being written, or given back, also when any statement finds its
connection cut: every job is run in the end, while the worker lives.
"""

from __future__ import annotations

import sys
import threading

import pytest
from django.db import connection

from django_jobqueue import chain, enqueue_many, task
from django_jobqueue.dialects import get_dialect
from django_jobqueue.middleware.concurrency import Concurrency
from django_jobqueue.models import Attempt, Job
from tests.refusals import Cutting, refusing

from ..lifecycle.steps import enqueue, fresh
from ..tasks import noop
from .workers import working

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no connection to cut"),
]

gate = threading.Event()


@task
def waits():
    assert gate.wait(60)


@task(middleware=[Concurrency], concurrency=1)
def limited():
    pass


@pytest.fixture(autouse=True)
def closed_gate():
    gate.clear()
    yield
    gate.set()


def cut(monkeypatch, owner, name, times=2, when=lambda: True) -> Cutting:
    cutting = Cutting(getattr(owner, name), times, when)
    monkeypatch.setattr(owner, name, cutting)
    return cutting


def unfinished() -> int:
    return Job.objects.unfinished().count()


def ran_once() -> bool:
    return set(Attempt.objects.values_list("outcome", "number")) == {("succeeded", 1)}


#: The statements of a worker, and how often each finds its connection cut, one time after the other.
STATEMENTS = ["claim", "peek", "lanes", "succeed", "finish", "release", "promote", "admit", "note_ends"]


@pytest.mark.parametrize(("name", "times"), [*((name, 1) for name in STATEMENTS), ("succeed", 7), ("note_ends", 7)])
def test_g2_any_statement_may_find_its_connection_cut(monkeypatch, eventually, name, times):
    cutting = cut(monkeypatch, get_dialect("default"), name, times)
    enqueue_many([noop.s() for _ in range(20)])
    chain(noop.s(), noop.si()).enqueue()
    limited.enqueue()
    with working(threads=2):
        eventually(lambda: not unfinished(), within=40)
    assert set(Job.objects.values_list("status", flat=True)) == {"SUCCESSFUL"} and ran_once()
    assert cutting.cuts or name in ("finish", "release", "promote", "admit", "note_ends", "lanes")


@pytest.mark.parametrize("times", [1, 6])
def test_g2_jobs_that_are_given_back_from_behind_long_ones(monkeypatch, eventually, times):
    """The worker has taken them from the executor, and cannot write that they are given back."""
    with working(threads=1) as worker:
        enqueue_many([noop.s() for _ in range(30)])
        eventually(lambda: not unfinished(), within=20)
        cutting = cut(monkeypatch, get_dialect("default"), "release", times)
        long = waits.enqueue()
        enqueue_many([noop.s() for _ in range(10)])
        eventually(lambda: cutting.cuts, within=40)
        running = Job.objects.running().values_list("pk", flat=True)
        eventually(lambda: set(running.all()) == set(worker.desk.runs) == {int(long.id)}, within=20)
        gate.set()
        eventually(lambda: not unfinished(), within=40)
    assert ran_once()


@pytest.mark.parametrize("times", [1, 6])
def test_g2_jobs_that_are_sent_to_their_keys(monkeypatch, eventually, times):
    """They were enqueued before their task had a limit."""
    enqueue_many([limited.s() for _ in range(4)])
    Job.objects.update(concurrency_key=None, status="READY")
    cutting = cut(monkeypatch, sys.modules["django_jobqueue.worker.claimer"], "send_to_keys", times)
    with working(threads=2):
        eventually(lambda: not unfinished(), within=40)
    assert cutting.cuts and ran_once()  # of several cuts a statement that is sent again meets the first ones only


@pytest.mark.parametrize("times", [1, 6])
def test_g2_jobs_of_unknown_tasks_are_put_off(monkeypatch, eventually, times):
    stranger, job = enqueue(), enqueue()
    Job.objects.filter(pk=stranger.pk).update(task_path="tests.tasks.not_there")
    cutting = cut(monkeypatch, get_dialect("default"), "release", times)
    with working(threads=2) as worker:
        eventually(lambda: fresh(job).status == "SUCCESSFUL" and cutting.cuts, within=40)
        eventually(lambda: fresh(stranger).is_scheduled and not worker.desk.runs, within=40)
    assert fresh(stranger).attempts == 0


@pytest.mark.parametrize("times", [1, 6])
def test_g2_jobs_claimed_under_a_number_that_was_given_up(monkeypatch, eventually, times):
    """The lease is lost while the claim is on its way."""
    dialect = get_dialect("default")
    claim, done = dialect.claim, []
    with working(threads=2) as worker:

        def claim_late(*args, **kwargs):
            jobs = claim(*args, **kwargs)
            if jobs and not done:
                done.append(jobs)
                worker._start_over()
            return jobs

        monkeypatch.setattr(dialect, "claim", claim_late)
        cutting = cut(monkeypatch, dialect, "release", times)
        enqueue_many([noop.s() for _ in range(5)])
        eventually(lambda: not unfinished(), within=40)
    assert cutting.cuts and ran_once()  # of several cuts a statement that is sent again meets the first ones only


def test_g2_jobs_that_no_thread_can_be_started_for(monkeypatch, eventually):
    """An executor that cannot take a job is no place for it."""
    with working(threads=1) as worker:
        submit, failures = worker.threads.submit, []

        def fails_once(run, work):
            if not failures:
                failures.append(run)
                raise RuntimeError("can't start new thread")
            submit(run, work)

        monkeypatch.setattr(worker.threads, "submit", fails_once)
        enqueue_many([noop.s() for _ in range(5)])
        eventually(lambda: not unfinished(), within=40)
    assert failures and ran_once()


def test_g9_a_row_that_refuses_to_be_given_back_stops_nothing(eventually):
    with working(threads=1) as worker:
        enqueue_many([noop.s() for _ in range(30)])
        eventually(lambda: not unfinished(), within=20)
        long = waits.enqueue()
        jobs = enqueue_many([noop.s() for _ in range(6)])
        bad = int(jobs[2].id)
        with refusing(f"NEW.id = {bad} AND NEW.status = 'READY'"):
            eventually(lambda: fresh(Job(pk=bad)).status in ("FAILED", "READY"), within=20)
            gate.set()
            eventually(lambda: not unfinished(), within=40)
    assert fresh(Job(pk=int(long.id))).status == "SUCCESSFUL"
    assert worker.exit_code == 0
