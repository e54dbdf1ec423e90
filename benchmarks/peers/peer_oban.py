"""oban, for Python: claims in batches, acknowledges in one transaction row by row."""

import asyncio
import sys

import common
import orm_coroutines
from common import SLOTS, URL, chunks
from oban import Oban, job
from oban.schema import install

PACKAGE = "oban"
DATABASES = ("postgresql",)
KIND = "event loop"
SHARE = 0.3
LIMIT = SLOTS or 500
CONFIG = "oban start --queues default:500 (its command line uses uvloop and orjson), a pool of 10 connections"
WAITING = "select count(*) from oban_jobs where state = 'available'"
UNFINISHED = """select exists(select 1 from oban_jobs where state = 'available')
    or exists(select 1 from oban_jobs where state = 'executing')"""
FINISHED = "select count(*) from oban_jobs where state = 'completed'"
POINT = "select id from oban_jobs order by id limit 1 offset {number}"
PASSED = "select exists(select 1 from oban_jobs where id = {id} and state = 'completed')"


@job(queue="default")
def noop(n):
    return None


@job(queue="default")
def stamp(n):
    common.stamp_now(n)


@job(queue="default")
def burn(n):
    common.burn()


@job(queue="default")
async def anoop(n):
    return None


@job(queue="default")
async def sleep(n):
    await asyncio.sleep(common.SLEEP)


@job(queue="default")
async def orm(n):
    await orm_coroutines.orm(n)


@job(queue="default")
async def aorm(n):
    await orm_coroutines.aorm(n)


TASKS = {"noop": noop, "stamp": stamp, "burn": burn, "anoop": anoop, "sleep": sleep, "orm": orm, "aorm": aorm}

pool = oban = None


async def connect():
    global pool, oban
    pool = await Oban.create_pool(URL)
    oban = Oban(pool=pool)


async def disconnect():
    await pool.close()


def setup():
    async def create():
        await connect()
        await install(pool)
        await disconnect()

    asyncio.run(create())
    if common.ORM:
        common.migrate()


async def one(name, value):
    await oban.enqueue(TASKS[name].new(value))


async def bulk(name, values):
    for some in chunks(values):
        await oban.enqueue_many(TASKS[name].new(value) for value in some)


def worker():
    from oban.cli import main

    sys.argv = ["oban", "start", "--dsn", URL, "--queues", f"default:{LIMIT}"]
    sys.argv += ["--log-level", "WARNING", "--cron-modules", "peer_oban"]
    main()
