"""Tasks for the tests to enqueue. A worker in another process imports them by their paths, so they live here."""

import asyncio
import os
import signal
import threading
import time

from django.db import connection

from django_jobqueue import Fail, Retry, Skip, Snooze, task

from .models import Effect


class Broken(Exception):
    """What the failing tasks raise."""


@task
def noop():
    pass


@task
def add(a, b):
    return a + b


@task
def echo(*args, **kwargs):
    return {"args": list(args), "kwargs": kwargs}


@task
def fail(message="no"):
    raise Broken(message)


@task(max_attempts=3, backoff=0.01)
def fail_thrice(message="no"):
    raise Broken(message)


@task(takes_context=True, max_attempts=5, backoff=0.01)
def succeed_at(context, attempt):
    """Fail until this attempt."""
    if context.attempt < attempt:
        raise Broken(f"attempt {context.attempt}")
    return context.attempt


@task
def unstorable():
    """Return what no JSON can hold."""
    return object()


@task
def effect(name, value=None):
    """Leave a row behind, one for each time it runs."""
    Effect.objects.create(name=name, value=value)


@task
def effect_then_fail(name):
    Effect.objects.create(name=name)
    raise Broken(name)


@task
def sleep(seconds):
    time.sleep(seconds)


@task
def database_vendor():
    """Use the database from the thread that runs the job."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return [connection.vendor, *cursor.fetchone()]


@task
def thread_name():
    return threading.current_thread().name


@task
def process_id():
    return os.getpid()


@task
def kill_own_process():
    """A poison job: it takes its worker along."""
    os.kill(os.getpid(), signal.SIGKILL)


@task
def retry_later(delay=60.0):
    raise Retry(delay=delay)


@task
def snooze(delay=60.0):
    raise Snooze(delay)


@task
def skip(reason="not needed"):
    raise Skip(reason)


@task(max_attempts=5)
def give_up(reason="hopeless"):
    raise Fail(reason)


@task
async def async_add(a, b):
    await asyncio.sleep(0)
    return a + b


@task
async def async_fail(message="no"):
    await asyncio.sleep(0)
    raise Broken(message)


@task
async def async_sleep(seconds):
    await asyncio.sleep(seconds)


@task
async def async_effect(name, value=None):
    await Effect.objects.acreate(name=name, value=value)
