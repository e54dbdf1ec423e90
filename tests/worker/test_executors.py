"""Executors: slot threads and the event loop hand back every run that they are given, whatever happens in it."""

import asyncio
import sys
import threading
from contextvars import ContextVar
from decimal import getcontext
from queue import Empty, SimpleQueue

import pytest
from django.utils import timezone
from django.utils.translation import activate, get_language

from django_jobqueue import Retry, Snooze, task
from django_jobqueue.models import Job
from django_jobqueue.worker.executors import EventLoop, Threads

from .runs import claimed_run, execution

pytestmark = pytest.mark.once

NEXT: list = []
GATE = threading.Event()
LOOP: SimpleQueue = SimpleQueue()


@task
def make():
    """Raise or return what the test's function makes."""
    what = NEXT[-1]()
    if isinstance(what, BaseException):
        raise what
    return what


@task
async def amake():
    return make.func()


@task
def wait():
    GATE.wait(10)


@task
async def await_gate():
    while not GATE.is_set():
        await asyncio.sleep(0.001)


class Pool:
    """An executor, and what it hands back."""

    def __init__(self, kind, slots, running=execution):
        self.done = SimpleQueue()
        self.executor = kind(slots, running(), self.done.put)
        if hasattr(self.executor, "start"):
            self.executor.start()

    def submit(self, made, pk=1, **row):
        run = claimed_run(made, row={"pk": pk, **row})
        self.executor.submit(run, made)
        return run

    def result(self, within=10.0):
        return self.done.get(timeout=within)


@pytest.fixture
def pool():
    GATE.clear()
    pools = []

    def make_pool(kind, slots, running=execution):
        pools.append(Pool(kind, slots, running))
        return pools[-1]

    yield make_pool
    GATE.set()
    for one in pools:
        one.executor.take_back()
        one.executor.close()
    NEXT.clear()


threads_and_loop = pytest.mark.parametrize(
    ("kind", "made", "waits"), [(Threads, make, wait), (EventLoop, amake, await_gate)], ids=["threads", "loop"]
)


@threads_and_loop
def test_a_run_comes_back_with_its_outcome(pool, kind, made, waits):
    NEXT.append(lambda: 42)
    one = pool(kind, 1)
    submitted = one.submit(made)
    assert one.result() is submitted
    assert submitted.outcome.result == 42 and submitted.ended >= submitted.started
    assert one.executor.load == 0


@threads_and_loop
def test_two_attempts_of_one_job_both_come_back(pool, kind, made, waits, eventually):
    """The first may have been written, and the job been claimed again, before it has left the executor."""
    one = pool(kind, 2)
    submitted = [one.submit(waits, pk=1, attempts=number) for number in (1, 2)]
    eventually(lambda: len(one.executor.running) == 2)
    GATE.set()
    assert {id(one.result()) for _ in range(2)} == set(map(id, submitted)) and one.executor.load == 0


@threads_and_loop
def test_no_more_run_at_once_than_there_are_slots(pool, kind, made, waits, eventually):
    one = pool(kind, 2)
    for pk in range(5):
        one.submit(waits, pk)
    eventually(lambda: len(one.executor.running) == 2)
    assert one.executor.load == 5
    with pytest.raises(Empty):
        one.result(within=0.05)
    GATE.set()
    assert sorted(one.result().job.pk for _ in range(5)) == list(range(5))
    assert one.executor.load == 0


@threads_and_loop
def test_what_has_not_started_can_be_taken_back(pool, kind, made, waits, eventually):
    one = pool(kind, 1)
    for pk in range(4):
        one.submit(waits, pk)
    eventually(lambda: len(one.executor.running) == 1)
    assert [run.job.pk for run in one.executor.take_back()] == [1, 2, 3]
    assert all(run.outcome is None for run in one.executor.take_back())
    GATE.set()
    assert one.result().job.pk == 0
    with pytest.raises(Empty):
        one.result(within=0.05)


STRANGE = {
    "snooze soon": lambda: Snooze("soon"),
    "snooze None": lambda: Snooze(None),
    "snooze inf": lambda: Snooze(float("inf")),
    "snooze 1e300": lambda: Snooze(1e300),
    "delay soon": lambda: Retry(delay="soon"),
    "delay inf": lambda: Retry(delay=float("inf")),
    "priority high": lambda: Retry(priority="high"),
    "priority 40000": lambda: Retry(priority=40_000),
    "no queue": lambda: Retry(queue_name=""),
    "long queue": lambda: Retry(queue_name="q" * 200),
}


@threads_and_loop
@pytest.mark.parametrize("what", STRANGE.values(), ids=STRANGE)
def test_g9_a_control_exception_with_a_value_that_cannot_be_is_a_failure(pool, kind, made, waits, what):
    """It must not kill the thread, nor make a row that stops the queue."""
    NEXT.append(what)
    one = pool(kind, 1)
    one.submit(made, max_attempts=2)
    outcome = one.result().outcome
    assert outcome.state in ("failed", "retrying")
    assert outcome.priority is None and outcome.queue_name is None
    NEXT.append(lambda: "next")
    one.submit(made)
    assert one.result().outcome.result == "next"


class Faulty:
    def run(self, run, task):
        raise AssertionError("a fault of ours")

    async def arun(self, run, task):
        raise AssertionError("a fault of ours")


@threads_and_loop
def test_g9_a_fault_of_ours_is_a_failed_job_and_no_end_of_the_slot(pool, kind, made, waits, caplog):
    one = pool(kind, 1, running=Faulty)
    for _ in range(2):
        one.submit(made)
        outcome = one.result().outcome
        assert (outcome.state, outcome.status) == ("failed", Job.Status.FAILED)
        assert "a fault of ours" in outcome.message


def test_threads_end_with_their_executor(pool, eventually):
    one = pool(Threads, 3)
    one.submit(wait)
    one.executor.close()
    GATE.set()
    one.result()
    eventually(lambda: not any(thread.is_alive() for thread in one.executor._threads))


def test_a_slots_thread_is_named(pool):
    NEXT.append(lambda: threading.current_thread().name)
    one = pool(Threads, 1)
    one.submit(make)
    assert one.result().outcome.result == "jobqueue-slot-1"


def test_the_loop_starts_with_its_first_job(pool):
    before = threading.active_count()
    one = pool(EventLoop, 5)
    assert threading.active_count() == before
    NEXT.append(lambda: threading.current_thread().name)
    one.submit(amake)
    assert one.result().outcome.result == "jobqueue-loop"


@threads_and_loop
def test_a_run_counts_as_load_from_its_submission_to_its_end(pool, kind, made, waits, eventually):
    """Not even while a slot takes it up: the claimer would claim too many, and a stop would overlook it."""
    one = pool(kind, 1)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for pk in range(300):
            GATE.clear()
            one.submit(waits, pk)
            loads = {one.executor.load for _ in range(100)}
            GATE.set()
            one.result()
            assert loads == {1}
    finally:
        sys.setswitchinterval(interval)


SCOPE: ContextVar[str] = ContextVar("scope", default="clean")


@task
async def leave_something_behind():
    before = SCOPE.get()
    SCOPE.set("tainted")
    await asyncio.sleep(0)
    return before


def test_an_async_job_sees_nothing_of_what_another_has_set_in_its_context(pool):
    one = pool(EventLoop, 1)
    for pk in range(6):
        one.submit(leave_something_behind, pk)
    assert {one.result().outcome.result for _ in range(6)} == {"clean"}


def test_an_event_loop_knows_for_how_long_its_jobs_have_waited(pool, eventually):
    one = pool(EventLoop, 1)
    one.submit(await_gate, 1)
    eventually(lambda: len(one.executor.running) == 1)
    assert one.executor.stuck_for() == 0
    one.submit(await_gate, 2)
    one.executor._moved -= 10
    assert one.executor.stuck_for() > 9


@task
async def end_the_loop():
    LOOP.get().close()
    await asyncio.sleep(0)  # so that it stops right after this has ended, before it hears of that


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_event_loop_ends_in_peace_with_a_job_that_ends_in_that_moment(eventually):
    one = Pool(EventLoop, 1)  # it closes itself
    LOOP.put(one.executor)
    one.submit(end_the_loop)
    assert one.result().outcome.state == "succeeded"
    eventually(one.executor._loop.is_closed)


SET_BY_JOBS: ContextVar = ContextVar("set_by_jobs", default=None)


@threads_and_loop
def test_g9_each_job_begins_in_a_fresh_context(pool, kind, made, waits):
    """Language, time zone, decimal precision, context variables: the next job of the thread has none of it."""

    def found():
        return SET_BY_JOBS.get(), get_language(), timezone.get_current_timezone_name(), getcontext().prec

    def change():
        SET_BY_JOBS.set("a tenant")
        activate("de")
        timezone.activate("Asia/Tokyo")
        getcontext().prec = 5
        return list(found())

    one = pool(kind, 1)
    outcomes = []
    for what in (lambda: list(found()), change, lambda: list(found())):
        NEXT.append(what)
        one.submit(made)
        outcomes.append(one.result().outcome.result)
    before, changed, after = outcomes
    assert changed == ["a tenant", "de", "Asia/Tokyo", 5]
    assert after == before
