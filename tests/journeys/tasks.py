"""Tasks for the journeys. Each start and end leaves a line in a file that outlives the process: the journal."""

import asyncio
import importlib
import os
import signal
import sys
import time

from django.db import connection, transaction

from django_jobqueue import Retry, Skip, Snooze, task
from tests.models import Effect


def note(context, what):
    """One line, written at once and whole: with O_APPEND no process cuts into another's line."""
    line = f"{what} {context.job.pk} {context.attempt} {context.job.worker_id} {time.time():.6f} {os.getpid()}\n"
    journal = os.open(os.environ["JOURNEY_JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(journal, line.encode())
    finally:
        os.close(journal)


@task(takes_context=True)
def work(context, seconds=0.0):
    note(context, "start")
    if seconds:
        time.sleep(seconds)
    note(context, "end")


@task(takes_context=True)
async def async_work(context, seconds=0.0):
    note(context, "start")
    await asyncio.sleep(seconds)
    note(context, "end")


@task
def effect(name):
    Effect.objects.create(name=name)


@task(takes_context=True)
def patient(context, seconds=30.0):
    """Ends early when it is asked to."""
    note(context, "start")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if reason := context.should_stop():
            raise RuntimeError(f"asked to stop: {reason}")
        time.sleep(0.02)


# -- what kills its worker


@task(takes_context=True)
def kill_worker(context):
    note(context, "start")
    os.kill(os.getpid(), signal.SIGKILL)


@task(takes_context=True)
def exit_worker(context):
    note(context, "start")
    os._exit(1)


# -- what must not hurt its worker


@task
def sys_exit():
    sys.exit(1)


@task
def keyboard_interrupt():
    raise KeyboardInterrupt


@task
def generator_exit():
    raise GeneratorExit


@task
def stop_iteration():
    raise StopIteration


@task
async def async_sys_exit():
    sys.exit(1)


@task
async def async_cancel_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(5)


@task
async def async_orphan_exits():
    """Leaves a child behind that raises what an event loop does not survive."""

    async def child():
        sys.exit(1)

    asyncio.get_running_loop().create_task(child())
    await asyncio.sleep(0.05)


@task
def returns_object():
    return object()


@task
def returns_nan():
    return float("nan")


@task
def returns_nul():
    return "a\x00b"


@task
def returns_surrogate():
    return {"\ud800": 1}


@task
def returns_itself():
    value = []
    value.append(value)
    return value


@task
def returns_deep_list():
    value = []
    for _ in range(900):
        value = [value]
    return value


@task
def nul_in_message():
    raise ValueError("a\x00b \ud800")


@task
def huge_message():
    raise ValueError("x" * 5_000_000)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")

    __repr__ = __str__


@task
def unspeakable():
    raise Unspeakable


@task
def recurse():
    def deeper():
        deeper()

    deeper()


@task
def long_class_name():
    raise type("E" * 400, (Exception,), {})("long")


@task
def skip_with_nul():
    raise Skip("a\x00b")


@task
def snooze_nonsense():
    raise Snooze("soon")


@task
def snooze_for_ever():
    raise Snooze(1e300)


@task(max_attempts=3)
def retry_nonsense_delay():
    raise Retry(delay="soon")


@task(max_attempts=3)
def retry_nonsense_time():
    raise Retry(at="tomorrow")


@task(max_attempts=3)
def retry_nonsense_queue():
    raise Retry(delay=1, queue_name="q" * 300)


@task(max_attempts=3)
def retry_nonsense_priority():
    raise Retry(delay=1, priority=10**9)


@task
def one_argument(number):
    return number


@task
def leaves_transaction_open():
    transaction.atomic().__enter__()
    Effect.objects.create(name="in an open transaction")


@task
def turns_autocommit_off():
    transaction.set_autocommit(False)
    Effect.objects.create(name="without autocommit")


@task
def breaks_transaction():
    transaction.atomic().__enter__()
    connection.cursor().execute("SELECT * FROM no_such_table")


@task
def closes_connection():
    Effect.objects.count()
    connection.close()


@task
def breaks_connection():
    """Closes it behind Django's back."""
    connection.ensure_connection()
    connection.connection.close()


@task
def big_result(megabytes):
    return "x" * (megabytes * 1_000_000)


if "JOURNEY_IMPORT" in os.environ:
    importlib.import_module(os.environ["JOURNEY_IMPORT"])

if "JOURNEY_RECEIVERS" in os.environ:
    from . import receivers  # noqa: F401
