"""Time limits and interrupts: what stops a running task, on every path, and that nothing else is ever hit by it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from queue import SimpleQueue

import pytest
from asgiref.sync import sync_to_async
from django.db import connection

from django_jobqueue import Retry, task
from django_jobqueue.compat import task_backends
from django_jobqueue.exceptions import TaskTimeout
from django_jobqueue.interrupts import JobCancelled, JobTimeout, WorkerShutdown
from django_jobqueue.worker import interrupting
from django_jobqueue.worker.execution import Execution
from django_jobqueue.worker.executors import EventLoop, Threads
from django_jobqueue.worker.interrupting import ask_to_stop
from django_jobqueue.worker.timekeeper import Timekeeper

from .runs import Boss, claimed_run

pytestmark = pytest.mark.once

STARTED = threading.Event()
NOTES: list[object] = []
INTERRUPT: list[Callable[[], bool]] = []
DECIDED, THROUGH = threading.Event(), threading.Event()


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@task
def loop_for(seconds):
    STARTED.set()
    spin(seconds)
    return "through"


@task
async def sleep_for(seconds):
    STARTED.set()
    await asyncio.sleep(seconds)
    return "through"


@task
def cleans_up():
    try:
        try:
            STARTED.set()
            spin(30)
        finally:
            NOTES.append("inner")
            spin(0.05)
            NOTES.append("inner through")
    except BaseException as error:
        NOTES.append(type(error).__name__)
        raise
    finally:
        NOTES.append("outer")


@task
async def cleans_up_async():
    try:
        try:
            STARTED.set()
            await asyncio.sleep(30)
        finally:
            NOTES.append("inner")
            await asyncio.sleep(0.05)
            NOTES.append("inner through")
    except BaseException as error:
        NOTES.append(type(error).__name__)
        raise
    finally:
        NOTES.append("outer")


@task(takes_context=True)
def catches(context, then):
    try:
        STARTED.set()
        spin(30)
    except BaseException as error:
        NOTES.append((type(error).__name__, context.should_stop()))
        if then == "retry":
            raise Retry("by itself") from None
        if then == "raise":
            raise ValueError("made of it") from None
        return "partial"


@task(takes_context=True)
async def catches_async(context, then):
    try:
        STARTED.set()
        await asyncio.sleep(30)
    except BaseException as error:
        NOTES.append((type(error).__name__, context.should_stop()))
        if then == "retry":
            raise Retry("by itself") from None
        if then == "raise":
            raise ValueError("made of it") from None
        return "partial"


@task(timeout=0.2)
async def own_thread(seconds):
    STARTED.set()
    try:
        await sync_to_async(lambda: (time.sleep(seconds), NOTES.append("sync code through")))()
    finally:
        NOTES.append("async code told")


@task
def name_of_thread():
    return threading.current_thread().name, connection.connection is None


@task
async def interrupted_in_its_last_step():
    await sync_to_async(int)()  # the job has a thread of its own, and waits for its end
    assert INTERRUPT[-1]()
    return "through"


@task
async def cancels_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(5)


@task
def in_the_midst():
    connection.ensure_connection()
    STARTED.set()
    spin(30)


@task
def ends_when_decided():
    DECIDED.wait(10)
    THROUGH.set()
    return "through"


@pytest.fixture(autouse=True)
def fresh():
    STARTED.clear()
    NOTES.clear()
    yield
    assert not any(target.kind for target in interrupting._armed.values())


class Pool:
    """Both executors, and the timekeeper above them."""

    def __init__(self, slots: int = 1, grace: float = 10.0) -> None:
        self.overdue: SimpleQueue = SimpleQueue()
        self.done: SimpleQueue = SimpleQueue()
        self.timekeeper = Timekeeper(self.overdue.put, grace)
        self.execution = Execution(Boss(), task_backends["default"], self.timekeeper)
        self.threads = Threads(slots, self.execution, self.done.put)
        self.loop = EventLoop(100, self.execution, self.done.put)
        self.threads.start()

    def submit(self, made, *args, pk=1, **options):
        made = replace(made, **options) if options else made
        run = claimed_run(made, *args, row={"pk": pk})
        (self.loop if asyncio.iscoroutinefunction(made.func) else self.threads).submit(run, made)
        return run

    def run(self, made, *args, **options):
        """The outcome, and how long it took."""
        run = self.submit(made, *args, **options)
        assert self.done.get(timeout=20) is run
        return run.outcome, run.ended - run.started


@pytest.fixture
def pool():
    pools = []

    def make(**options):
        pools.append(Pool(**options))
        return pools[-1]

    yield make
    for one in pools:
        one.threads.close()
        one.loop.close()
        one.timekeeper.close()


def told(outcome):
    return outcome.state, outcome.status


both = pytest.mark.parametrize("made", [loop_for, sleep_for], ids=["sync", "async"])
KINDS = [(JobTimeout, ("timed_out", "FAILED")), (JobCancelled, ("cancelled", "CANCELLED"))]
KINDS += [(WorkerShutdown, ("interrupted", "READY"))]
each_kind = pytest.mark.parametrize(("kind", "ends"), KINDS, ids=[kind.__name__ for kind, _ in KINDS])


# -- time limits ----------------------------------------------------------------------------------


@both
def test_a_task_is_interrupted_when_its_timeout_is_over(pool, made):
    outcome, took = pool().run(made, 30, timeout=0.2, max_attempts=2, backoff=1.0)
    assert told(outcome) == ("timed_out", "READY") and outcome.counted and outcome.delay == 1.0
    assert isinstance(outcome.exception, TaskTimeout) and "longer than 0.2 seconds" in outcome.message
    assert "30" not in outcome.message and "in " in outcome.traceback
    assert 0.19 < took < 2


@both
def test_a_task_that_ends_in_time_is_left_alone_and_so_is_the_next(pool, made):
    one = pool()
    for _ in range(20):
        outcome, _ = one.run(made, 0.01, timeout=0.3)
        assert told(outcome) == ("succeeded", "SUCCESSFUL")
    outcome, _ = one.run(made, 0.5)  # beyond all the deadlines of before
    assert told(outcome) == ("succeeded", "SUCCESSFUL")


@both
def test_the_backends_timeout_holds_for_a_task_that_has_none(pool, made, settings):
    settings.TASKS = {"default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "OPTIONS": {"TIMEOUT": 0.2}}}
    one = pool()
    assert told(one.run(made, 30)[0]) == ("timed_out", "FAILED")
    assert told(one.run(made, 0.4, timeout=30)[0]) == ("succeeded", "SUCCESSFUL")


@pytest.mark.parametrize("made", [cleans_up, cleans_up_async], ids=["sync", "async"])
def test_what_a_task_does_in_finally_still_runs(pool, made):
    outcome, _ = pool().run(made, timeout=0.1)
    assert told(outcome) == ("timed_out", "FAILED")
    name = "JobTimeout" if made is cleans_up else "CancelledError"
    assert ["inner", "inner through", name, "outer"] == NOTES


@pytest.mark.parametrize("made", [catches, catches_async], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("then", "ends"), [("return", "succeeded"), ("retry", "retrying"), ("raise", "timed_out")], ids=lambda x: x
)
def test_a_task_may_catch_the_interrupt_and_say_how_it_ends(pool, made, then, ends):
    outcome, _ = pool().run(made, then, timeout=0.1, max_attempts=2)
    assert outcome.state == ends
    assert [note[1] for note in NOTES] == ["timeout"]
    if then == "raise":
        assert "made of it" in outcome.traceback


def test_a_cancellation_of_the_tasks_own_is_no_timeout(pool):
    outcome, _ = pool().run(cancels_itself, timeout=30)
    assert told(outcome) == ("failed", "FAILED") and "CancelledError" in outcome.message


def test_many_time_limits_at_once(pool):
    one = pool()
    runs = [one.submit(sleep_for, 30, pk=pk, timeout=0.2 + pk / 1000) for pk in range(100)]
    for _ in runs:
        one.done.get(timeout=10)
    assert {run.outcome.state for run in runs} == {"timed_out"}
    late = [run.ended - run.started - 0.2 - run.job.pk / 1000 for run in runs]
    assert min(late) > -0.005 and sorted(late)[50] < 0.5


# -- every path -----------------------------------------------------------------------------------


def sync_layer(context, call_next):
    try:
        return call_next()
    finally:
        NOTES.append("sync layer")


async def async_layer(context, call_next):
    try:
        return await call_next()
    finally:
        NOTES.append("async layer")


async def sleeping_layer(context, call_next):
    STARTED.set()
    try:
        await asyncio.sleep(30)
        return await call_next()
    finally:
        NOTES.append("async layer")


def spinning_layer(context, call_next):
    STARTED.set()
    try:
        spin(30)
        return call_next()
    finally:
        NOTES.append("sync layer")


MIXES = {
    "sync task under an async layer": (loop_for, [async_layer], ["async layer"]),
    "sync task under both": (loop_for, [sync_layer, async_layer], ["async layer", "sync layer"]),
    "sync task under both, the other way": (loop_for, [async_layer, sync_layer], ["sync layer", "async layer"]),
    "sync task, the async layer sleeps": (loop_for, [sync_layer, sleeping_layer], ["async layer", "sync layer"]),
    "sync task, the sync layer spins": (loop_for, [async_layer, spinning_layer], ["sync layer", "async layer"]),
    "sync task, a layer in between": (
        loop_for,
        [async_layer, sync_layer, async_layer],
        ["async layer", "sync layer", "async layer"],
    ),
    "async task under a sync layer": (sleep_for, [sync_layer], ["sync layer"]),
    "async task under both": (sleep_for, [async_layer, sync_layer], ["sync layer", "async layer"]),
    "async task, the async layer sleeps": (sleep_for, [sync_layer, sleeping_layer], ["async layer", "sync layer"]),
}


@each_kind
@pytest.mark.parametrize(("made", "around", "notes"), MIXES.values(), ids=MIXES)
def test_an_interrupt_comes_through_layers_of_either_kind(pool, made, around, notes, kind, ends, eventually):
    one = pool()
    for _ in range(2):  # and what runs next in the same thread is sound
        NOTES.clear()
        STARTED.clear()
        run = one.submit(made, 30, middleware=tuple(around))
        assert STARTED.wait(10)
        time.sleep(0.05)
        began = time.monotonic()
        assert one.timekeeper.interrupt(run, kind)
        assert one.done.get(timeout=10) is run
        assert time.monotonic() - began < 3
        assert told(run.outcome) == ends
        eventually(lambda: sorted(NOTES) == sorted(notes))
    one.execution._plans.clear()
    again = tuple(layer for layer in around if layer not in (sleeping_layer, spinning_layer))
    assert told(one.run(made, 0.01, middleware=again)[0]) == ("succeeded", "SUCCESSFUL")


def test_sync_code_in_an_async_jobs_own_thread_runs_to_its_end_and_the_job_waits_for_it(pool, eventually):
    one, before = pool(), set(threading.enumerate())
    outcome, took = one.run(own_thread, 0.6)
    assert told(outcome) == ("timed_out", "FAILED")
    assert NOTES == ["async code told", "sync code through"] and took > 0.55
    eventually(lambda: {thread.name[:9] for thread in set(threading.enumerate()) - before} == {"jobqueue-"})


def test_an_interrupted_jobs_connections_are_closed(pool, transactional_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = []
    one = pool()
    assert told(one.run(in_the_midst, timeout=0.2)[0]) == ("timed_out", "FAILED")
    outcome, _ = one.run(name_of_thread)
    assert outcome.result == ["jobqueue-slot-1", True]


# -- cancel and shutdown --------------------------------------------------------------------------


@each_kind
@both
def test_an_interrupt_from_outside(pool, made, kind, ends):
    one = pool()
    run = one.submit(made, 30, max_attempts=1)
    assert STARTED.wait(10)
    time.sleep(0.02)
    assert one.timekeeper.interrupt(run, kind)
    assert not one.timekeeper.interrupt(run, kind), "an attempt gets one interrupt"
    assert one.done.get(timeout=10) is run
    assert told(run.outcome) == ends and run.stop_reason == kind.reason
    assert not one.timekeeper.interrupt(run, kind), "it has ended"


@both
def test_g13_a_job_that_was_cancelled_while_it_waited_for_a_slot_does_not_run(pool, made):
    one = pool()
    run = claimed_run(made, 0)
    ask_to_stop(run, "cancel")
    (one.loop if made is sleep_for else one.threads).submit(run, made)
    assert one.done.get(timeout=10) is run
    assert told(run.outcome) == ("cancelled", "CANCELLED") and not STARTED.is_set()


def test_the_weightier_reason_stays():
    run = claimed_run(loop_for, 0)
    assert ask_to_stop(run, "shutdown") and ask_to_stop(run, "cancel")
    assert not ask_to_stop(run, "timeout") and run.stop_reason == "cancel"
    assert ask_to_stop(run, "lost") and not ask_to_stop(run, "cancel")


# -- what does not react --------------------------------------------------------------------------


@task(timeout=0.2)
def swallows(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            spin(seconds)
        except BaseException:
            NOTES.append("swallowed")


@task(timeout=0.2)
async def blocks_the_loop(seconds):
    time.sleep(seconds)


@task(timeout=0.2)
def blocks(seconds):
    time.sleep(seconds)


@pytest.mark.parametrize("made", [swallows, blocks, blocks_the_loop, own_thread])
def test_a_task_that_does_not_react_is_reported_once_after_the_grace(pool, made):
    one = pool(grace=0.4)
    run = one.submit(made, 1.2)
    assert one.overdue.get(timeout=5) is run
    assert 0.55 < time.monotonic() - run.started < 1.1 and run.ended is None
    outcome = one.execution.overdue(run)
    assert told(outcome) == ("timed_out", "FAILED") and "did not react within 0.4 seconds" in outcome.message
    assert one.done.get(timeout=5) is run
    assert one.overdue.empty() and not one.timekeeper.moments


def test_a_task_that_reacts_within_the_grace_is_not_reported(pool):
    one = pool(grace=0.3)
    assert told(one.run(cleans_up, timeout=0.1)[0]) == ("timed_out", "FAILED")
    time.sleep(0.5)
    assert one.overdue.empty() and not one.timekeeper.moments


# -- nothing else is hit --------------------------------------------------------------------------


@task
def about(seconds):
    spin(seconds)
    return "through"


@task
async def about_async(seconds):
    await asyncio.sleep(seconds)
    return "through"


#: Of its limit: nothing for some jobs and plenty for others, so that there are some of each end on any machine.
ABOUT = (0.0, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 5.0)


# One that surfaces in a callback of the garbage collector is swallowed there; such a job ends as if it had none.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("made", [about, about_async], ids=["sync", "async"])
def test_g4_thousands_of_jobs_that_take_about_as_long_as_they_may(pool, made):
    """Each ends as it should, its outcome is whole, no thread dies, and no interrupt surfaces in a later job."""
    one, limit, number = pool(slots=2), 0.004, 3000
    escaped: list[object] = []
    formerly, threading.excepthook = threading.excepthook, lambda args: escaped.append(args)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        runs = [one.submit(made, limit * ABOUT[pk % len(ABOUT)], pk=pk, timeout=limit) for pk in range(number)]
        for _ in runs:
            one.done.get(timeout=60)
    finally:
        sys.setswitchinterval(interval)
        threading.excepthook = formerly
    ends = Counter(run.outcome.state.value for run in runs)
    assert set(ends) == {"succeeded", "timed_out"} and min(ends.values()) > 20, ends
    assert {run.outcome.result for run in runs if run.outcome.state == "succeeded"} == {"through"}
    assert not escaped and all(thread.is_alive() for thread in one.threads._threads)
    assert not one.timekeeper.moments
    for _ in range(20):
        assert told(one.run(made, 0.005)[0]) == ("succeeded", "SUCCESSFUL")


def test_g4_an_interrupt_decided_on_in_the_last_moment_is_waited_for(pool, monkeypatch):
    """The interrupter is held between its decision and the interrupt, while the chain comes to its end."""
    raise_it = interrupting._set_async_exception

    def slowly(thread, kind):
        if kind is not None:
            DECIDED.set()
            THROUGH.wait(10)
            time.sleep(0.1)
        raise_it(thread, kind)

    monkeypatch.setattr(interrupting, "_set_async_exception", slowly)

    one = pool()
    for _ in range(20):
        DECIDED.clear()
        THROUGH.clear()
        outcome, _ = one.run(ends_when_decided, timeout=0.01)
        assert (outcome.state, outcome.result) == ("succeeded", "through")
        assert told(one.run(loop_for, 0.001)[0]) == ("succeeded", "SUCCESSFUL")


def test_g4_a_cancellation_that_comes_when_the_chain_has_ended_hits_nothing(pool):
    one = pool()
    run = claimed_run(interrupted_in_its_last_step)
    INTERRUPT.append(lambda: one.timekeeper.interrupt(run, JobTimeout))
    one.loop.submit(run, interrupted_in_its_last_step)
    assert one.done.get(timeout=10) is run
    assert (run.outcome.state, run.outcome.result) == ("succeeded", "through")


def test_no_thread_is_started_for_jobs_without_a_time_limit(pool):
    one = pool()
    one.run(loop_for, 0)
    assert one.timekeeper._thread is None
    one.run(loop_for, 0, timeout=5)
    one.run(loop_for, 0, timeout=5)
    assert sum(thread.name == "jobqueue-timekeeper" for thread in threading.enumerate() if thread.is_alive()) >= 1
    assert one.timekeeper._thread.is_alive()
