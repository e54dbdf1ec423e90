"""Claimer: how many jobs a worker takes, and which."""

import threading
import time
from types import SimpleNamespace

import pytest
from django.db import OperationalError

from django_jobqueue import chain, enqueue_many, task
from django_jobqueue.models import Job
from django_jobqueue.worker import claimer as module
from django_jobqueue.worker import lanes

from ..lifecycle.steps import enqueue, fresh
from ..models import Effect
from ..tasks import effect, noop
from .workers import drain, make_worker, working

GATE, STARTED = threading.Event(), threading.Event()


@pytest.fixture(autouse=True)
def database(queue_db):
    GATE.clear()
    STARTED.clear()
    yield
    GATE.set()


@task
def wait():
    STARTED.set()
    GATE.wait(20)


def running() -> int:
    return Job.objects.running().count()


def test_a_worker_that_knows_nothing_of_the_jobs_takes_no_more_than_it_can_start(eventually):
    enqueue_many(wait.s() for _ in range(10))
    with working(threads=2):
        eventually(lambda: running() == 2)
        time.sleep(0.2)
        assert running() == 2, "the others are for other workers"
        GATE.set()


def test_a_claimer_without_room_rests_also_when_a_look_is_due(monkeypatch):
    """The look waits for room too: it was due, could not be had, and was due again at once, with no pause between."""
    enqueue_many(wait.s() for _ in range(3))
    with working(threads=1) as worker:
        assert STARTED.wait(20)
        time.sleep(lanes.INTERVAL + 0.1)
        room, asked = worker.claimer._room, []
        monkeypatch.setattr(worker.claimer, "_room", lambda: asked.append(1) or room())
        time.sleep(1)
        assert 1 <= len(asked) < 20
        GATE.set()


def test_short_jobs_are_claimed_in_advance():
    worker = make_worker(threads=2)
    pace, worker.claimer.mix.share = worker.paces[False], 0.0
    pace.mean, pace.measured = 0.001, 1000
    assert worker.claimer._room() > 50
    pace.measured = 10
    assert worker.claimer._room() == 2 + 10, "no more on trust than it has run: short jobs are the first to end"
    pace.mean = 10.0
    assert worker.claimer._room() == 2
    pace.mean = None
    assert worker.claimer._room() == 2
    worker._sign_off()


def test_jobs_are_not_given_back_while_a_slot_is_free():
    """Counted from the last start alone, what had just been claimed seemed stuck, and was given back for ever."""
    worker = make_worker(threads=1)
    worker.threads._moved -= 10
    assert worker.threads.stuck_for() == 0
    worker.threads.submit(SimpleNamespace(), None)
    assert worker.threads.stuck_for() == 0, "it waits for a thread to take it, not behind a job"
    worker.threads.running[0] = SimpleNamespace()
    assert worker.threads.stuck_for() < 1, "the wait begins with the submission"
    worker.threads._moved -= 10
    assert worker.threads.stuck_for() > 9
    worker._sign_off()


def test_nothing_is_claimed_while_too_much_is_unwritten(monkeypatch):
    monkeypatch.setattr(module, "MAX_UNWRITTEN", 3)
    worker = make_worker()
    for _ in range(3):
        worker.completer.put(None)
    assert worker.claimer._room() == 0


def test_jobs_that_wait_behind_long_ones_are_given_back(monkeypatch, eventually):
    """They were claimed in advance, because those before were short."""
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    enqueue_many([*[noop.s()] * 30, *[wait.s()] * 10])
    with working(threads=1):
        assert STARTED.wait(20)
        waiting = Job.objects.in_line()
        eventually(lambda: waiting.count() == 9 and running() == 1)
        assert not waiting.exclude(attempts=0, tries=0).exists()
        GATE.set()
        eventually(lambda: not Job.objects.unfinished().exists())


def test_g2_a_database_that_is_away_is_waited_for(monkeypatch, caplog):
    peek, tries = lanes.peek, []

    def flaky(using):
        tries.append(1)
        if len(tries) == 2:
            raise OperationalError("the server has gone")
        return peek(using)

    monkeypatch.setattr(lanes, "peek", flaky)
    enqueue_many(noop.s() for _ in range(5))
    drain(0)
    while len(tries) < 2:
        drain(0)
    assert Job.objects.filter(status=Job.Status.SUCCESSFUL).count() == 5
    assert "Cannot claim jobs: the server has gone" in caplog.text


def test_higher_priorities_run_first():
    effect.using(priority=-10).enqueue("low")
    effect.using(priority=10).enqueue("high")
    drain(threads=1)
    assert list(Effect.objects.order_by("pk").values_list("name", flat=True)) == ["high", "low"]


def test_no_queue_starves_another():
    """Each look at the lanes begins with another one."""
    enqueue_many([*[noop.using(queue_name="a").s()] * 5, *[noop.using(queue_name="b").s()] * 5])
    worker = make_worker(max_jobs=1)
    seen = set()
    for _ in range(4):
        worker.claimer.lanes.look()
        seen.add(worker.claimer.lanes.order[0].queue_name)
    assert seen == {"a", "b"}


def test_the_maximum_counts_started_jobs_only():
    stranger = Job.objects.get(pk=noop.enqueue().id)
    Job.objects.filter(pk=stranger.pk).update(task_path="tests.tasks.of_the_next_release")
    enqueue_many(noop.s() for _ in range(3))
    assert make_worker(max_jobs=2).run()
    assert Job.objects.filter(status=Job.Status.SUCCESSFUL).count() == 2
    assert fresh(stranger).is_scheduled


def test_the_claimer_goes_on_after_a_fault_of_ours(monkeypatch, caplog):
    decode, tries = lanes.lanes_in_order, []

    def flaky(*args):
        tries.append(1)
        if len(tries) == 1:
            raise AssertionError("a fault of ours")
        return decode(*args)

    monkeypatch.setattr(lanes, "lanes_in_order", flaky)
    noop.enqueue()
    drain(0)
    assert Job.objects.get().status == Job.Status.SUCCESSFUL
    assert "stumbled" in caplog.text


@pytest.mark.parametrize("options", [7, [1], "concurrency", ["concurrency"], True], ids=str)
def test_g9_a_job_whose_options_are_no_object_runs_without_options(options):
    """A row that somebody has written by hand: as a single job, and as one that has waited for another."""
    first, second = chain(noop.s(), noop.si()).enqueue(), enqueue(noop)
    Job.objects.update(options=options)
    drain(0.3)
    assert set(Job.objects.values_list("status", flat=True)) == {"SUCCESSFUL"}, (first, second)
