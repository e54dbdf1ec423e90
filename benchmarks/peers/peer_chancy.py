"""chancy: claims in batches, writes completions in batches too, once a second."""

import asyncio
import logging

import common
import orm_coroutines
from chancy import Chancy, Job, Queue, Worker
from common import SLOTS, URL, chunks, until_signal

PACKAGE = "chancy"
DATABASES = ("postgresql",)
KIND = "coroutine"
SHARE = 0.3
CONFIG = """Queue(concurrency=2000, executor=Async, eager_polling=True), NOTIFY on, default plugins; completions written
    once a second, its default"""
WAITING = "select count(*) from chancy_jobs where state = 'pending'"
UNFINISHED = """select exists(select 1 from chancy_jobs where state = 'pending')
    or exists(select 1 from chancy_jobs where state = 'running')"""
FINISHED = "select count(*) from chancy_jobs where state = 'succeeded'"

chancy = Chancy(URL, log=logging.getLogger("chancy"))
chancy.log.setLevel(logging.WARNING)


async def noop(*, n: object):
    return None


async def stamp(*, n: int):
    common.stamp_now(n)


async def burn(*, n: int):
    common.burn()


async def sleep(*, n: int):
    await asyncio.sleep(common.SLEEP)


TASKS = {"noop": noop, "stamp": stamp, "burn": burn, "anoop": noop, "sleep": sleep}
TASKS |= {"orm": orm_coroutines.orm, "aorm": orm_coroutines.aorm}


def connect():
    chancy.sync_pool.open()


def disconnect():
    chancy.sync_pool.close()


def setup():
    async def create():
        async with chancy:
            await chancy.migrate()
            queue = Queue("default", concurrency=2000, executor=Chancy.Executor.Async, eager_polling=True)
            await chancy.declare(queue, upsert=True)

    asyncio.run(create())
    if common.ORM:
        common.migrate()


def one(name, value):
    chancy.sync_push(Job.from_func(TASKS[name], kwargs={"n": value}))


def bulk(name, values):
    for some in chunks(values):
        for _ in chancy.sync_push_many([Job.from_func(TASKS[name], kwargs={"n": value}) for value in some]):
            pass


async def main(stop):
    async with chancy:
        if SLOTS:
            queue = Queue("default", concurrency=SLOTS, executor=Chancy.Executor.Async, eager_polling=True)
            await chancy.declare(queue, upsert=True)
        async with Worker(chancy, register_signal_handlers=False):
            await stop.wait()


def worker():
    until_signal(main)
