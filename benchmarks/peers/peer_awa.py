"""awa: its engine is Rust's, in the wheel; Python gives it the tasks. Storage by append, in partitions that rotate."""

import asyncio
from dataclasses import dataclass

import common
import orm_coroutines
from awa import AsyncClient
from common import SLOTS, URL, chunks, until_signal

PACKAGE = "awa-pg"
DATABASES = ("postgresql",)
KIND = "coroutine"
LIMIT = SLOTS or 500
CONFIG = """AsyncClient.start([("default", 500)]) on its queue storage (migrate, then install_queue_storage), which
    drops the rows of finished jobs and keeps their number"""
# Its own view of all jobs takes seconds. Numbers are handed out in line, and what has ended is counted.
ENQUEUED = "select coalesce(sum(awa.sequence_next_value(seq_name)) - count(*), 0)::int from awa.queue_enqueue_heads"
CLAIMED = "select coalesce(sum(awa.sequence_next_value(seq_name)) - count(*), 0)::int from awa.queue_claim_heads"
ENDED = """select (
    (select coalesce(sum(pruned_{state}_count), 0) from awa.queue_terminal_rollups)
    + (select count(*) from awa.done_entries where state = '{state}')
    + {more})::int"""
FINISHED = ENDED.format(
    state="completed", more="(select coalesce(sum(completed_count), 0) from awa.receipt_completion_batches)"
)
FAILED = ENDED.format(state="failed", more="(select count(*) from awa.dlq_entries)")
WAITING = f"select ({ENQUEUED}) - ({CLAIMED})"
UNFINISHED = f"select ({ENQUEUED}) > ({FINISHED}) + ({FAILED})"


@dataclass
class Noop:
    n: object


@dataclass
class Anoop:
    n: object


@dataclass
class Stamp:
    n: int


@dataclass
class Burn:
    n: int


@dataclass
class Sleep:
    n: int


@dataclass
class Fail:
    n: int


@dataclass
class Orm:
    n: int


@dataclass
class Aorm:
    n: int


TASKS = {"noop": Noop, "stamp": Stamp, "burn": Burn, "anoop": Anoop, "sleep": Sleep, "fail": Fail}
TASKS |= {"orm": Orm, "aorm": Aorm}

client = None


async def connect():
    global client
    client = AsyncClient(URL)


async def disconnect():
    await client.close()


def setup():
    async def create():
        await connect()
        await client.migrate()
        await client.install_queue_storage()
        await disconnect()

    asyncio.run(create())
    if common.ORM:
        common.migrate()


async def one(name, value):
    await client.insert(TASKS[name](value), max_attempts=1)


async def bulk(name, values):
    for some in chunks(values):
        await client.enqueue_many_copy([TASKS[name](value) for value in some], max_attempts=1)


def declare():
    @client.task(Noop)
    async def noop(job):
        pass

    @client.task(Anoop)
    async def anoop(job):
        pass

    @client.task(Stamp)
    async def stamp(job):
        common.stamp_now(job.args.n)

    @client.task(Burn)
    async def burn(job):
        common.burn()

    @client.task(Sleep)
    async def sleep(job):
        await asyncio.sleep(common.SLEEP)

    @client.task(Orm)
    async def orm(job):
        await orm_coroutines.orm(job.args.n)

    @client.task(Aorm)
    async def aorm(job):
        await orm_coroutines.aorm(job.args.n)

    @client.task(Fail)
    async def fail(job):
        common.fail(job.args.n)


async def main(stop):
    await connect()
    declare()
    await client.start([("default", LIMIT)])
    await stop.wait()
    await client.shutdown()
    await disconnect()


def worker():
    until_signal(main)
