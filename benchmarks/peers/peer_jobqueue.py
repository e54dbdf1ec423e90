"""django-jobqueue with its defaults: what a project gets that sets nothing, or what the documentation says to set."""

import asyncio
import time

import common
from common import LAYERS, PROCESSES, RECEIVER, SETTINGS, SLOTS, chunks, django_command, django_setup, migrate

PACKAGE = "django-jobqueue"
DATABASES = ("postgresql", "sqlite", "mariadb")
KIND = "thread"
CONFIG = "runworker: default settings (4 threads, 100 async slots), attempts recorded, rows kept"
# Under a concurrency key a job is under way once it is in line: to let it in is part of what it costs.
WAITING = """select
    (select count(*) from django_jobqueue_job
        where status = 'READY' and place is not null and concurrency_key is null)
    + (select count(*) from django_jobqueue_job
        where status = 'WAITING' and waiting_for = 0 and concurrency_key is not null)"""
# A condition each, so that it finds its partial index: the look must not cost more than what it looks at.
UNFINISHED = """select exists(select 1 from django_jobqueue_job where status = 'READY' and place is not null)
    or exists(select 1 from django_jobqueue_job where status = 'RUNNING')
    or exists(select 1 from django_jobqueue_job
        where status = 'WAITING' and waiting_for = 0 and concurrency_key is not null)"""
FINISHED = "select count(*) from django_jobqueue_job where status = 'SUCCESSFUL'"
FAILED = "select count(*) from django_jobqueue_job where status = 'FAILED'"
POINT = """select id from django_jobqueue_job where status = 'READY' and place is not null
    order by id limit 1 offset {number}"""
PASSED = "select exists(select 1 from django_jobqueue_job where id = {id} and status = 'SUCCESSFUL')"
HELD = "select count(*) from django_jobqueue_job where status = 'WAITING'"
STARTS_PROCESSES = True
OURS = "django_jobqueue.middleware"


def layers_around(words):
    if SETTINGS == "production" and not words:
        import production

        return {"JOBQUEUE_MIDDLEWARE": production.JOBQUEUE_MIDDLEWARE}
    if not words:
        return {}
    if words == "limits":
        layers = [f"{OURS}.concurrency.Concurrency", f"{OURS}.rate_limit.RateLimit"]
    else:
        number, kind = words.split()
        layers = [f"jobqueue_layers.{kind}"] * int(number)
    return {"JOBQUEUE_MIDDLEWARE": [f"{OURS}.database_connections.DatabaseConnections", *layers]}


django_setup(
    "django_jobqueue",
    TASKS={"default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "QUEUES": []}},
    **layers_around(LAYERS),
)

from django.tasks.signals import task_finished  # noqa: E402
from shop import work  # noqa: E402

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
def select(n):
    work.select(n)


@task
def orm(n):
    work.orm(n)


@task
async def aselect(n):
    await work.aselect(n)


@task
async def aorm(n):
    await work.aorm(n)


@task(max_attempts=1)
def fail(n):
    common.fail(n)


@task(max_attempts=2, backoff=0, takes_context=True)
def fail_once(context, n):
    if context.attempt == 1:
        common.fail(n)


@task
async def anoop(n):
    return None


@task
async def sleep(n):
    await asyncio.sleep(common.SLEEP)


OWN = (noop, stamp, burn, select, orm, aselect, aorm, fail, fail_once, anoop, sleep)
TASKS = {task.func.__name__: task for task in OWN}
if LAYERS == "limits":
    import jobqueue_limits  # its options are those of the layers

    TASKS |= jobqueue_limits.TASKS


def setup():
    migrate()


def fill(finished, waiting, scheduled, for_slots, for_a_job):
    import jobqueue_rows  # needs the models

    jobqueue_rows.fill(noop, finished, waiting, scheduled)
    if for_slots:
        jobqueue_rows.wait_for_slots(jobqueue_limits.single, for_slots)
    if for_a_job:
        jobqueue_rows.wait_for_a_job(noop, for_a_job)


def one(name, value):
    TASKS[name].enqueue(value)


def bulk(name, values):
    for some in chunks(values):
        enqueue_many([TASKS[name].s(value) for value in some])


def receive_slowly(sender, **kwargs):
    time.sleep(float(RECEIVER))


def worker():
    if RECEIVER:
        task_finished.connect(receive_slowly)
    options = ["--processes", str(PROCESSES)] if PROCESSES > 1 else []
    options += ["--async-slots", str(SLOTS)] if SLOTS else []
    django_command("runworker", *options)
