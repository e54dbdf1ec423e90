"""pgqueuer: asyncpg and uvloop, batches both ways; a finished job leaves the queue and becomes a line of a log."""

import asyncio
import json
import signal
from datetime import timedelta

import asyncpg
import common
import uvloop
from common import SLOTS, URL, chunks
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.errors import RetryRequested
from pgqueuer.queries import Queries

PACKAGE = "pgqueuer"
DATABASES = ("postgresql",)
KIND = "coroutine"
CONFIG = "run(batch_size=500) with AsyncpgDriver on one connection and uvloop, durable tables"
WAITING = "select count(*) from pgqueuer where status = 'queued'"
FAILED = "select count(*) from pgqueuer_log where status = 'exception'"
UNFINISHED = "select exists(select 1 from pgqueuer)"
FINISHED = "select count(*) from pgqueuer_log where status = 'successful'"
POINT = "select id from pgqueuer order by id limit 1 offset {number}"
PASSED = "select not exists(select 1 from pgqueuer where id = {id})"
TASKS = ("noop", "stamp", "burn", "anoop", "sleep", "fail", "fail_once", "select", "orm", "aselect", "aorm")

if common.ORM:
    common.django_setup()

connection = queries = None


async def connect():
    global connection, queries
    connection = await asyncpg.connect(URL)
    queries = Queries(AsyncpgDriver(connection))


async def disconnect():
    await connection.close()


def setup():
    async def install():
        await connect()
        await queries.install()
        await disconnect()

    asyncio.run(install())
    if common.ORM:
        common.migrate()


async def one(name, value):
    await queries.enqueue(name, json.dumps(value).encode())


async def bulk(name, values):
    for some in chunks(values):
        payloads = [json.dumps(value).encode() for value in some]
        await queries.enqueue([name] * len(some), payloads, [0] * len(some))


async def run():
    pgq = PgQueuer(AsyncpgDriver(await asyncpg.connect(URL)))

    @pgq.entrypoint("noop")
    @pgq.entrypoint("anoop")
    async def noop(job):
        json.loads(job.payload)

    @pgq.entrypoint("stamp")
    async def stamp(job):
        common.stamp_now(json.loads(job.payload))

    @pgq.entrypoint("burn")
    async def burn(job):
        common.burn()

    @pgq.entrypoint("sleep")
    async def sleep(job):
        await asyncio.sleep(common.SLEEP)

    @pgq.entrypoint("fail")
    async def fail(job):
        common.fail(json.loads(job.payload))

    @pgq.entrypoint("fail_once")
    async def fail_once(job):
        if job.attempts == 0:
            raise RetryRequested(reason="the first attempt fails")

    if common.ORM:
        add_orm(pgq)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, pgq.shutdown.set)
    # It wants to run at least two batches at once.
    limit = {"batch_size": SLOTS // 2, "max_concurrent_tasks": SLOTS} if SLOTS else {"batch_size": 500}
    await pgq.run(dequeue_timeout=timedelta(seconds=30), **limit)


def add_orm(pgq):
    """As pgqueuer says that blocking code is run: in the threads of asyncio."""
    from shop import work

    def add(name):
        if name.startswith("a"):

            @pgq.entrypoint(name)
            async def run(job):
                await getattr(work, name)(json.loads(job.payload))
        else:

            @pgq.entrypoint(name)
            async def run(job):
                await asyncio.to_thread(getattr(work, name), json.loads(job.payload))

    for name in ("select", "orm", "aselect", "aorm"):
        add(name)


def worker():
    uvloop.run(run())
