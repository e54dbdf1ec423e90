"""django-jobqueue with its defaults: what a project gets that sets nothing."""

import asyncio

import common
from common import LAYERS, PROCESSES, SLOTS, chunks, django_command, django_setup, migrate

PACKAGE = "django-jobqueue"
DATABASES = ("postgresql", "sqlite", "mariadb")
KIND = "thread"
CONFIG = """runworker: default settings (4 threads, 100 async slots), attempts recorded, rows kept; log level WARNING;
    CONN_MAX_AGE=None"""
WAITING = "select count(*) from django_jobqueue_job where status = 'READY' and place is not null"
# Two conditions, so that each finds its partial index: the look must not cost more than what it looks at.
UNFINISHED = """select exists(select 1 from django_jobqueue_job where status = 'READY' and place is not null)
    or exists(select 1 from django_jobqueue_job where status = 'RUNNING')"""
FINISHED = "select count(*) from django_jobqueue_job where status = 'SUCCESSFUL'"
POINT = """select id from django_jobqueue_job where status = 'READY' and place is not null
    order by id limit 1 offset {number}"""
PASSED = "select exists(select 1 from django_jobqueue_job where id = {id} and status = 'SUCCESSFUL')"
STARTS_PROCESSES = True


def layers_around(words):
    if not words:
        return {}
    number, kind = words.split()
    default = "django_jobqueue.middleware.database_connections.DatabaseConnections"
    return {"JOBQUEUE_MIDDLEWARE": [default, *[f"jobqueue_layers.{kind}"] * int(number)]}


django_setup(
    "django_jobqueue",
    TASKS={"default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "QUEUES": []}},
    **layers_around(LAYERS),
)

from django_jobqueue import enqueue_many, task  # noqa: E402


@task
def noop(n):
    return None


@task
def stamp(n):
    common.stamp_now(n)


@task
def burn(n):
    common.burn()


@task
async def anoop(n):
    return None


@task
async def sleep(n):
    await asyncio.sleep(common.SLEEP)


TASKS = {"noop": noop, "stamp": stamp, "burn": burn, "anoop": anoop, "sleep": sleep}


def setup():
    migrate()


def fill(finished, waiting, scheduled):
    import jobqueue_rows  # needs the models

    jobqueue_rows.fill(noop, finished, waiting, scheduled)


def one(name, value):
    TASKS[name].enqueue(value)


def bulk(name, values):
    for some in chunks(values):
        enqueue_many([TASKS[name].s(value) for value in some])


def worker():
    options = ["--processes", str(PROCESSES)] if PROCESSES > 1 else []
    options += ["--async-slots", str(SLOTS)] if SLOTS else []
    django_command("runworker", *options)
