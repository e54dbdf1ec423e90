"""ShutdownNotifications: who opted in learns of the stop at once, who did not has the whole grace."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from django_jobqueue import task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.interrupts import WorkerShutdown

from ..lifecycle.steps import enqueue, fresh, outcomes
from ..worker.workers import working

PATH = "django_jobqueue.middleware.shutdown_notifications.ShutdownNotifications"
started = threading.Event()
#: Seconds that a task runs which is not told. Long enough to tell it from one that is.
LONG = 1.5


@pytest.fixture(autouse=True)
def used(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    started.clear()


def spin(seconds):
    started.set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)


def told(then):
    if then == "return":
        return "in order"
    if then == "fail":
        raise ValueError("made of it") from None
    raise


def work(seconds, then="pass"):
    try:
        spin(seconds)
    except WorkerShutdown:
        return told(then)
    return "through"


async def awork(seconds, then="pass"):
    try:
        started.set()
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        return told(then)
    return "through"


@task
def plain(seconds=LONG, then="pass"):
    return work(seconds, then)


@task
async def aplain(seconds=LONG, then="pass"):
    return await awork(seconds, then)


@task(middleware=[PATH], notify_shutdown=True)
def wants(seconds=LONG):
    return work(seconds)


@task(middleware=[PATH], notify_shutdown=True)
async def awants(seconds=LONG):
    return await awork(seconds)


@task(middleware=[PATH], notify_shutdown=False)
def does_not(seconds=LONG):
    return work(seconds)


@task(middleware=[PATH], notify_shutdown=False)
async def adoes_not(seconds=LONG):
    return await awork(seconds)


@task
def goes_on():
    try:
        spin(30)
    except WorkerShutdown:
        spin(30)


@task
async def agoes_on():
    try:
        started.set()
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        await asyncio.sleep(30)


BY_TASK = {(None, False): plain, (True, False): wants, (False, False): does_not}
BY_TASK |= {(None, True): aplain, (True, True): awants, (False, True): adoes_not}
either = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


def stop_while_running(job, **options):
    """Stop a worker in the midst of the job; how long it took to end."""
    with working(**options) as worker:
        assert started.wait(10)
        time.sleep(0.05)
        began = time.monotonic()
        worker.stop()
        assert worker.finished.wait(10)
    return time.monotonic() - began


@either
@pytest.mark.parametrize("by_default", [None, False, True])
@pytest.mark.parametrize("by_using", [None, False, True])
@pytest.mark.parametrize("by_task", [None, False, True])
def test_who_opted_in_is_told_at_once(settings, by_task, by_using, by_default, is_async):
    if by_default is not None:
        settings.JOBQUEUE_DEFAULTS = {"notify_shutdown": by_default}
    made = BY_TASK[by_task, is_async]
    seconds = 0.4
    job = enqueue(made if by_using is None else made.using(notify_shutdown=by_using), seconds)
    stop_while_running(job)
    counts = next((value for value in (by_using, by_task, by_default) if value is not None), False)
    assert outcomes(job) == ["interrupted" if counts else "succeeded"]
    row = fresh(job)
    assert (row.status, row.tries) == (("READY", 0) if counts else ("SUCCESSFUL", 1))


@either
def test_it_comes_at_once(is_async):
    job = enqueue(BY_TASK[None, is_async].using(notify_shutdown=True), 30)
    assert stop_while_running(job) < 2
    assert outcomes(job) == ["interrupted"]


@either
def test_a_task_may_put_things_in_order_and_return(is_async):
    job = enqueue(BY_TASK[None, is_async].using(notify_shutdown=True), 30, "return")
    assert stop_while_running(job) < 2
    assert (fresh(job).status, fresh(job).result, outcomes(job)) == ("SUCCESSFUL", "in order", ["succeeded"])


@either
def test_what_else_it_raises_then_counts_as_the_interrupt(is_async):
    job = enqueue(BY_TASK[None, is_async].using(notify_shutdown=True), 30, "fail")
    stop_while_running(job)
    assert outcomes(job) == ["interrupted"] and fresh(job).tries == 0


@either
def test_a_task_that_goes_on_has_the_grace_and_no_more(is_async):
    job = enqueue((agoes_on if is_async else goes_on).using(notify_shutdown=True))
    assert 0.3 < stop_while_running(job, shutdown_timeout=0.4) < 5
    assert outcomes(job) == ["interrupted"]


def test_it_is_told_once_and_others_are_left_alone():
    jobs = [enqueue(plain.using(notify_shutdown=value), 0.4) for value in (True, False)]
    stop_while_running(jobs[0])
    assert sorted(outcomes(jobs[0]) + outcomes(jobs[1])) == ["interrupted", "succeeded"]


def test_a_value_that_is_neither_yes_nor_no_is_refused():
    with pytest.raises(InvalidTask, match="notify_shutdown"):
        plain.using(notify_shutdown=1)
