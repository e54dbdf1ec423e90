"""Waiting for a job's end: what comes of it, how soon, and where it cannot be."""

import asyncio
import copy
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace

import pytest
from asgiref.sync import async_to_sync
from django.db import connection, transaction

from django_jobqueue import task
from django_jobqueue.compat import TaskResultDoesNotExist
from django_jobqueue.dialects.channel import CHANNEL, END_LISTENERS, connect, decode, tell_end
from django_jobqueue.exceptions import JobFailed, WaitInTransaction
from django_jobqueue.lifecycle import cancel, waiting
from django_jobqueue.models import Job
from django_jobqueue.results import JobResult
from django_jobqueue.worker.awaited import Awaited

from ..tasks import add, noop
from ..worker.workers import working
from . import steps

pytestmark = pytest.mark.usefixtures("queue_db")

WAYS = ["sync", "async"]
each_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True)
def nobody_listens_afterwards():
    yield
    for ear in waiting._ears.values():
        ear.end()
    waiting._ears.clear()


def await_it(result, way, timeout=20.0):
    return result.get(timeout) if way == "sync" else async_to_sync(result.aget)(timeout)


@task
def raises():
    raise LookupError("no such order")


@task
def sleeps(seconds):
    time.sleep(seconds)
    return seconds


@contextmanager
def soon(act, after=0.1):
    """``act()`` a moment later, in a thread with a connection of its own."""

    def later():
        time.sleep(after)
        act()
        connection.close()

    thread = threading.Thread(target=later)
    thread.start()
    yield
    thread.join(10)


def waiter(result, found) -> threading.Thread:
    """A thread that waits, and puts what it has found there."""

    def wait():
        found.append(result.get(20))
        connection.close()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


# -- what comes of it -----------------------------------------------------------------------------


@each_way
def test_waiting_returns_what_the_task_returned(way):
    with working():
        result = add.enqueue(1, 2)
        assert await_it(result, way) == 3
        assert result.status == "SUCCESSFUL" and result.return_value == 3, "and the result is up to date"


@each_way
def test_what_is_over_already_is_not_waited_for(way, django_assert_num_queries):
    job = steps.started(noop)
    steps.end(job, steps.succeeded({"a": 1}))
    result = noop.get_result(str(job.pk))
    with django_assert_num_queries(0):
        assert await_it(result, way, 0) == {"a": 1}


@each_way
def test_a_job_that_fails_raises_with_its_result(way):
    with working():
        result = raises.enqueue()
        with pytest.raises(JobFailed, match=rf"raises #{result.id} has failed: LookupError: no such order") as failure:
            await_it(result, way)
    assert failure.value.result is result
    assert result.errors[0].exception_class is LookupError


@each_way
def test_a_job_that_is_cancelled_raises_too(way):
    result = noop.enqueue()
    with soon(lambda: cancel([int(result.id)])), pytest.raises(JobFailed, match="The job was cancelled"):
        await_it(result, way)


@each_way
def test_when_the_time_is_over_it_says_so(way):
    result = noop.enqueue()
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=rf"noop #{result.id} is not over after 0.3 seconds"):
        await_it(result, way, timedelta(seconds=0.3))
    assert 0.25 < time.monotonic() - began < 3
    with pytest.raises(TimeoutError):
        await_it(result, way, 0)


@each_way
def test_a_job_that_is_deleted_meanwhile_does_not_exist(way):
    result = noop.enqueue()
    with soon(lambda: Job.objects.all().delete()), pytest.raises(TaskResultDoesNotExist):
        await_it(result, way)


def test_in_a_transaction_its_end_could_not_be_seen():
    with transaction.atomic():
        result = noop.enqueue()
        with pytest.raises(WaitInTransaction, match="Wait after the commit"):
            result.get(5)
    job = steps.take_one(steps.worker())
    with transaction.atomic(), pytest.raises(WaitInTransaction):
        result.get(5)
    steps.end(job, steps.succeeded(7))
    with transaction.atomic():
        assert result.get(5) == 7, "what is over can be seen"


def test_a_job_that_was_never_enqueued_has_failed():
    result = noop.enqueue()
    object.__setattr__(result, "id", "")
    object.__setattr__(result, "status", "FAILED")
    with pytest.raises(JobFailed):
        result.get(0)


def test_results_are_compared_and_copied_as_ever():
    result = add.enqueue(1, 2)
    again = copy.copy(add.get_result(result.id))
    assert again == result
    assert type(result) is type(again) is JobResult, "a result is made when it is looked at, and then it is one"
    assert repr(result).startswith("JobResult(")
    again.refresh()
    assert again == result


def test_many_may_wait_for_many(eventually):
    results = [sleeps.enqueue(0.05) for _ in range(4)]
    found = []
    threads = [waiter(result, found) for result in results for _ in range(3)]

    async def all_of_them():
        return await asyncio.gather(*(result.aget(20) for result in results))

    with working():
        assert async_to_sync(all_of_them)() == [0.05] * 4
        for thread in threads:
            thread.join(20)
    assert found == [0.05] * 12


# -- how soon -------------------------------------------------------------------------------------


def test_one_looks_often_at_first_and_less_and_less_often():
    assert next(waiting._pauses(None)) == waiting.SHORTEST
    assert list(waiting._pauses(0)) == []
    assert next(waiting._pauses(0.003)) <= 0.003


@pytest.fixture
def notifications():
    if connection.vendor not in END_LISTENERS:
        pytest.skip("nobody is told on this database")


@pytest.fixture
def seldom(monkeypatch):
    """Who is not told does not see it in time."""
    monkeypatch.setattr(waiting, "SHORTEST", 30.0)
    monkeypatch.setattr(waiting, "LONGEST", 30.0)


@each_way
def test_who_waits_is_told_by_the_worker(notifications, seldom, eventually, way):
    with working() as worker:
        eventually(lambda: worker.wakeup.listening)
        began = time.monotonic()
        assert await_it(sleeps.enqueue(0.5), way) == 0.5
        assert time.monotonic() - began < 10
        assert not worker.awaited.jobs, "and forgotten"


def test_who_began_to_wait_before_the_worker_was_there_reminds_it(notifications, seldom, monkeypatch):
    monkeypatch.setattr(waiting, "REMIND", 0.2)
    result, found = sleeps.enqueue(2), []
    thread = waiter(result, found)
    time.sleep(0.5)
    with working():
        thread.join(15)
    assert found == [2]


def test_a_line_that_is_cut_costs_only_the_wait_for_the_next_look(notifications, eventually):
    result, found = noop.enqueue(), []
    thread = waiter(result, found)
    with connection.cursor() as cursor:
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()"
        eventually(lambda: cursor.execute(cut, ["%pg_notify%"]) or cursor.fetchall())
    with working():
        thread.join(15)
    assert found == [None]


def test_the_thread_ends_when_nobody_waits_any_more(notifications, monkeypatch, eventually):
    monkeypatch.setattr(waiting, "IDLE", 0.1)
    job = steps.started(noop)
    result = noop.get_result(str(job.pk))
    with soon(lambda: steps.end(job, steps.succeeded())):
        result.get(10)
    (ear,) = waiting._ears.values()
    eventually(lambda: ear._thread is None)
    with pytest.raises(TimeoutError):
        noop.enqueue().get(0.1)
    assert ear._thread is not None, "and begins again"


def test_what_workers_are_told_of_those_who_wait_wakes_no_claimer():
    assert decode("awaited 1 22").awaited == {1, 22}
    assert decode("awaited one").lanes == frozenset()


def told_of(pk, status):
    return SimpleNamespace(job=Job(pk=pk)), status


def test_a_worker_tells_of_the_jobs_that_are_over_and_somebody_waits_for(monkeypatch):
    told = []
    monkeypatch.setattr("django_jobqueue.worker.awaited.tell_end", lambda using, ids: told.append(set(ids)))
    awaited = Awaited("default")
    awaited.remember({1, 2, 3})
    awaited.tell([told_of(1, "SUCCESSFUL"), told_of(2, "READY"), told_of(3, None), told_of(4, "FAILED")])
    assert told == [{1}] and set(awaited.jobs) == {2, 3}
    awaited.tell([told_of(5, "FAILED")])
    assert told == [{1}], "no notification for nobody"


def test_a_worker_forgets_those_who_do_not_wait_any_more(monkeypatch):
    awaited = Awaited("default")
    awaited.remember({1})
    monkeypatch.setattr("django_jobqueue.worker.awaited.MEMORY", -1.0)
    awaited.remember({2})
    awaited.remember({3})
    assert set(awaited.jobs) == {1, 3}


def test_an_error_in_telling_is_nobodys_problem(monkeypatch):
    def broken(using, ids):
        raise OSError("gone")

    monkeypatch.setattr("django_jobqueue.worker.awaited.tell_end", broken)
    awaited = Awaited("default")
    awaited.remember({1})
    awaited.tell([told_of(1, "SUCCESSFUL")])


def test_numbers_travel_in_as_many_payloads_as_they_need(notifications):
    ids = {2**62 + number for number in range(1000)}
    line = END_LISTENERS["postgresql"]("default")
    try:
        tell_end("default", ids)
        found: set[int] = set()
        end = time.monotonic() + 5
        while found != ids and time.monotonic() < end:
            found |= set(line.wait(0.2))
        assert found == ids
        other = connect("default")
        other.autocommit = True
        other.execute(f"LISTEN {CHANNEL}")
        line.announce(ids)
        payloads = [notify.payload for notify in other.notifies(timeout=1)]
        other.close()
        assert set().union(*(decode(payload).awaited for payload in payloads)) == ids
    finally:
        line.close()
