"""procrastinate: a statement per fetch and per finish, coroutines."""

import asyncio

import common
from common import SLOTS, URL, chunks
from procrastinate import App, PsycopgConnector, RetryStrategy, SyncPsycopgConnector

PACKAGE = "procrastinate"
DATABASES = ("postgresql",)
KIND = "coroutine"
SHARE = 0.1
CONFIG = "run_worker(concurrency=10), LISTEN on, up to 15 connections, delete_jobs=never"
WAITING = "select count(*) from procrastinate_jobs where status = 'todo'"
FAILED = "select count(*) from procrastinate_jobs where status = 'failed'"
UNFINISHED = "select exists(select 1 from procrastinate_jobs where status in ('todo', 'doing'))"
FINISHED = "select count(*) from procrastinate_jobs where status = 'succeeded'"

app = App(connector=SyncPsycopgConnector(conninfo=URL))


@app.task(name="noop")
async def noop(n):
    return None


@app.task(name="stamp")
async def stamp(n):
    common.stamp_now(n)


@app.task(name="burn")
async def burn(n):
    common.burn()


@app.task(name="sleep")
async def sleep(n):
    await asyncio.sleep(common.SLEEP)


@app.task(name="fail")
async def fail(n):
    common.fail(n)


@app.task(name="fail_once", pass_context=True, retry=RetryStrategy(max_attempts=1))
async def fail_once(context, n):
    if context.job.attempts == 0:
        common.fail(n)


TASKS = {"noop": noop, "stamp": stamp, "burn": burn, "anoop": noop, "sleep": sleep, "fail": fail}
TASKS |= {"fail_once": fail_once}
ORM = {"select", "orm", "aselect", "aorm"}
if common.ORM:
    common.django_setup()
    from shop import work

    # A plain function runs in a thread of its own.
    TASKS |= {name: app.task(name=name)(getattr(work, name)) for name in ORM}
else:
    TASKS |= dict.fromkeys(ORM)


def connect():
    app.open()


def disconnect():
    app.close()


def setup():
    with app.open():
        app.schema_manager.apply_schema()
    if common.ORM:
        common.migrate()


def one(name, value):
    TASKS[name].defer(n=value)


def bulk(name, values):
    for some in chunks(values):
        TASKS[name].batch_defer(*({"n": value} for value in some))


def worker():
    app.with_connector(PsycopgConnector(conninfo=URL, max_size=15)).run_worker(concurrency=SLOTS or 10)
