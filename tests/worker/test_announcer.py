"""Receivers that are slower than the jobs: the worker waits for them, and nothing is dropped in silence."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from contextlib import contextmanager, nullcontext

import pytest

from django_jobqueue import enqueue_many, task
from django_jobqueue.compat import TASKS_LOGGER, task_finished
from django_jobqueue.models import Job
from django_jobqueue.worker import announcer, claimer, pace

from ..tasks import add, noop
from .workers import make_worker, working

MOST = 20


@pytest.fixture(autouse=True)
def small_bound(queue_db, monkeypatch):
    monkeypatch.setattr(announcer, "MAX_UNANNOUNCED", MOST)
    monkeypatch.setattr(claimer, "MAX_UNWRITTEN", MOST)  # what is being written will have to be announced too
    monkeypatch.setattr(pace, "PREFETCH", MOST)


@contextmanager
def receiving(receive):
    task_finished.connect(receive)
    try:
        yield
    finally:
        task_finished.disconnect(receive)


@pytest.fixture
def gate():
    """A receiver that lets nothing pass until it is told to, and what it has seen."""
    opened, seen = threading.Event(), []

    def receive(task_result, **kwargs):
        opened.wait(60)
        seen.append((task_result.id, str(task_result.status)))

    with receiving(receive):
        yield opened, seen
    opened.set()


def test_a_slow_receiver_makes_the_worker_wait_and_misses_nothing(gate, eventually, caplog):
    opened, seen = gate
    results = enqueue_many([add.s(number, 1) for number in range(20 * MOST)])
    with working(threads=2) as worker:
        eventually(lambda: worker.announcer.is_behind and worker.desk.idle, within=30)
        done = Job.objects.filter(status="SUCCESSFUL").count()
        # what had been claimed when the bound was reached ends, and is written: no more than that
        assert MOST < done == worker.announcer.unannounced < len(results) / 2
        assert not worker.completer.unwritten
        assert caplog.text.count("slower than the jobs") == 1
        opened.set()
        eventually(lambda: len(seen) == len(results), within=60)
    assert sorted(seen) == sorted((result.id, "SUCCESSFUL") for result in results)
    assert "were not announced" not in caplog.text


def test_a_drain_ends_when_all_receivers_have_been_told(gate, eventually):
    opened, seen = gate
    enqueue_many([noop.s() for _ in range(MOST // 2)])
    worker = make_worker(drain=0.0)
    thread = threading.Thread(target=worker.run)
    thread.start()
    eventually(lambda: worker.announcer.unannounced == MOST // 2, within=30)
    assert thread.is_alive() and not worker.stopping
    opened.set()
    thread.join(60)
    assert len(seen) == MOST // 2


def test_ends_that_a_stop_cannot_wait_for_are_counted_in_the_log(gate, eventually, caplog):
    opened, seen = gate
    enqueue_many([noop.s() for _ in range(5)])
    with working(shutdown_timeout=0.1) as worker:
        eventually(lambda: worker.announcer.unannounced == 5, within=30)
    assert "The ends of 5 jobs were not announced" in caplog.text
    assert Job.objects.filter(status="SUCCESSFUL").count() == 5
    opened.set()
    worker.announcer.join(30)
    assert len(seen) == 1, "the receiver that was at work ended; the others were not called"


class Mistake(Exception):
    pass


LAST: list[weakref.ref] = []


@task
def fail_once():
    error = Mistake("no")
    LAST.append(weakref.ref(error))
    try:
        raise error
    finally:
        del error


@pytest.mark.parametrize("is_heard", [False, True], ids=["unheard", "heard"])
def test_an_exception_is_freed_when_it_has_been_announced(is_heard, eventually, monkeypatch):
    """Without the collector of cycles, which comes late where many jobs fail."""
    LAST.clear()
    monkeypatch.setattr(logging.getLogger(TASKS_LOGGER), "disabled", True)  # pytest keeps its records
    heard = []
    with receiving(lambda task_result, **kwargs: heard.append(task_result.id)) if is_heard else nullcontext():
        result = fail_once.enqueue()
        gc.disable()
        try:
            with working():
                eventually(lambda: LAST and LAST[0]() is None, within=30)
        finally:
            gc.enable()
    assert heard == [result.id] * is_heard
