"""Shared threads: async jobs share a few threads and connections, and none waits for a job that waits for it."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import SyncToAsync, async_to_sync, sync_to_async
from django.db import connection, transaction

from django_jobqueue.worker.shared_threads import Lease, SharedThreads, lease_here

from ..models import Effect


@pytest.fixture
def threads():
    made = []

    def make(bound=2, max_age=60.0):
        made.append(SharedThreads(bound, max_age))
        return made[-1]

    yield make
    for each in made:
        each.close()
        for thread in threading.enumerate():
            if thread.name.startswith("jobqueue-async-"):
                thread.join(10)
                assert not thread.is_alive()


def run(threads, *jobs, apart=()):
    """What these async jobs come to, all at once."""

    async def one(job):
        lease = Lease(job)
        lease.is_apart = job in apart
        lease_here.set(lease)
        try:
            return await asyncio.wait_for(job(), 20)
        finally:
            threads.end(lease)

    async def all_of_them():
        SyncToAsync.thread_sensitive_context.set(threads.context)
        threads.loop = asyncio.get_running_loop()
        return await asyncio.gather(*map(one, jobs), return_exceptions=True)

    return asyncio.run(all_of_them())


def raw():
    Effect.objects.count()
    return connection.connection


async def use():
    return await sync_to_async(raw)()


def test_many_jobs_share_a_few_connections(queue_db, threads):
    found = run(threads(bound=2), *[use] * 30)
    assert 1 <= len(set(map(id, found))) <= 2 and None not in found


def test_a_connection_outlives_the_job(queue_db, threads):
    shared = threads()
    (first,), (second,) = run(shared, use), run(shared, use)
    assert first is second


def test_the_calls_of_one_job_run_one_after_another(threads):
    at_once, most = [], []

    def call():
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.005)
        at_once.pop()

    async def job():
        await asyncio.gather(*[sync_to_async(call)() for _ in range(5)])

    assert run(threads(bound=4), job) == [None] and max(most) == 1


def test_g9_what_an_open_transaction_holds_stays_with_its_job(queue_db, threads):
    """Between its calls others run; none of them sees the transaction, or is rolled back with it."""
    in_between = asyncio.Event()

    async def hold():
        atomic = transaction.atomic()
        await sync_to_async(atomic.__enter__)()
        first = await use()
        in_between.set()
        await asyncio.sleep(0.1)
        second = await use()
        await sync_to_async(atomic.__exit__)(None, None, None)
        return first, second

    async def other():
        await in_between.wait()
        return await use()

    (first, second), *others = run(threads(bound=1), hold, *[other] * 5)
    assert first is second
    assert all(each is not first for each in others)


def test_g9_jobs_that_hold_transactions_do_not_keep_those_waiting_that_they_wait_for(queue_db, threads):
    if connection.vendor == "sqlite":
        pytest.skip("there is one transaction at a time")
    done = asyncio.Event()

    async def hold():
        atomic = transaction.atomic()
        await sync_to_async(atomic.__enter__)()
        await use()
        await done.wait()
        await sync_to_async(atomic.__exit__)(None, None, None)

    async def finish():
        await asyncio.sleep(0.05)
        await use()
        done.set()

    assert run(threads(bound=2), hold, hold, hold, finish) == [None] * 4


def test_g9_jobs_that_await_each_other_never_wait_for_a_thread(queue_db, threads):
    done = asyncio.Event()

    async def wait():
        await use()
        await done.wait()
        await use()

    async def finish():
        await asyncio.sleep(0.05)
        await use()
        done.set()

    assert run(threads(bound=1), *[wait] * 5, finish) == [None] * 6


def test_an_open_cursor_stays_with_its_job(queue_db, threads):
    Effect.objects.bulk_create([Effect(name=str(number)) for number in range(300)])

    async def read():
        return [effect.name async for effect in Effect.objects.order_by("pk").aiterator(chunk_size=50)]

    async def other():
        await asyncio.sleep(0.001)
        await use()

    read_by, *_ = run(threads(bound=1), read, *[other] * 20)
    assert read_by == [str(number) for number in range(300)]


def test_g9_what_a_job_leaves_open_is_rolled_back(queue_db, threads, caplog, eventually):
    def leave():
        transaction.atomic().__enter__()
        Effect.objects.create(name="left behind")
        return connection.connection

    async def job():
        return await sync_to_async(leave)()

    shared = threads(bound=1)
    (first,), (second,) = run(shared, job), run(shared, use)
    assert first is not second
    assert not Effect.objects.exists()
    eventually(lambda: "left a transaction open" in caplog.text)  # the second job may have got another thread


def test_an_interrupted_job_gives_its_thread_back_when_its_code_has_ended(queue_db, threads, eventually):
    gate, names = threading.Event(), []

    def stay():
        gate.wait(10)
        names.append(threading.current_thread().name)

    async def job():
        await asyncio.wait_for(asyncio.shield(sync_to_async(stay)()), 0.05)

    async def name():
        return await sync_to_async(lambda: threading.current_thread().name)()

    shared = threads(bound=1)

    async def both():
        lease = Lease("interrupted")
        lease_here.set(lease)
        SyncToAsync.thread_sensitive_context.set(shared.context)
        stuck = asyncio.ensure_future(sync_to_async(stay)())
        await asyncio.sleep(0.05)
        shared.end(lease)
        lease_here.set(Lease("another"))
        others = await asyncio.wait_for(name(), 10)
        gate.set()
        await stuck
        return others

    assert asyncio.run(both()) not in names and names


def test_a_job_that_blocks_its_thread_takes_none_of_the_few(threads):
    gate = threading.Event()

    async def block():
        await sync_to_async(gate.wait)(10)

    async def free():
        await sync_to_async(gate.set)()

    assert run(threads(bound=1), block, free, apart=(block,)) == [None, None]


def test_a_call_that_is_not_wanted_any_more_is_passed_over(threads):
    gate = threading.Event()

    async def job():
        first = asyncio.ensure_future(sync_to_async(gate.wait)(10))
        await asyncio.sleep(0.02)
        second = threads_here.submit(lambda: 1)
        assert second.cancel()
        gate.set()
        return await first, await sync_to_async(lambda: 3)()

    threads_here = threads(bound=1)
    assert run(threads_here, job) == [(True, 3)]


def test_sync_code_of_a_job_may_run_a_loop_of_its_own(threads):
    def sync():
        def in_a_new_loop():
            SyncToAsync.thread_sensitive_context.set(shared.context)
            lease_here.set(Lease("another"))
            return asyncio.run(both())

        async def both():
            return await asyncio.gather(sync_to_async(lambda: 1)(), sync_to_async(lambda: 2)())

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(in_a_new_loop).result(10)

    async def job():
        return await sync_to_async(sync)(), await sync_to_async(async_to_sync(inner))()

    async def inner():
        return await sync_to_async(lambda: 3)()

    shared = threads(bound=3)
    assert run(shared, job, job) == [([1, 2], 3)] * 2


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(3), StopIteration(5)])
def test_what_sync_code_raises_reaches_the_job(threads, error):
    def fail():
        raise error

    async def job():
        try:
            await sync_to_async(fail)()
        except BaseException as caught:
            return caught

    (caught,) = run(threads(), job)
    assert caught is error or "StopIteration" in str(caught)


def test_a_call_that_ends_when_its_loop_is_gone_harms_nobody(threads):
    gate, shared, loop = threading.Event(), threads(bound=1), asyncio.new_event_loop()

    async def leave():
        shared.loop = loop
        shared.submit(gate.wait, 10)

    loop.run_until_complete(leave())
    loop.close()
    gate.set()
    assert run(shared, use_no_database) == [7]


async def use_no_database():
    return await sync_to_async(lambda: 7)()


def test_what_runs_outside_of_any_job_leaves_nothing(queue_db, threads):
    shared = threads(bound=1)

    async def outside():
        SyncToAsync.thread_sensitive_context.set(shared.context)
        await sync_to_async(lambda: transaction.atomic().__enter__())()
        await sync_to_async(lambda: Effect.objects.create(name="left behind"))()

    asyncio.run(outside())
    run(shared, use)
    assert Effect.objects.count() == 1
