"""Tasks that start processes, fork, leave threads behind, or hold the interpreter."""

import asyncio
import concurrent.futures
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time

from asgiref.sync import sync_to_async
from django.db import transaction

from django_jobqueue import task
from tests.models import Effect

from .tasks import note

HOW = {
    "returns": lambda: None,
    "exits": lambda: sys.exit(3),
    "raises": lambda: (_ for _ in ()).throw(ValueError("of the copy")),
    "queries": lambda: Effect.objects.create(name="by the copy"),
}
CODES = {"returns": 0, "exits": 3, "raises": 1, "queries": 0}


def wait_for(pid):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"


def fork_and(how):
    """What the child is left by; in the parent its exit code."""
    pid = os.fork()
    if pid:
        return wait_for(pid)
    return HOW[how]()


@task(takes_context=True)
def forks(context, how):
    note(context, "start")
    Effect.objects.count()  # a connection that both have
    code = fork_and(how)
    if not isinstance(code, int | str):
        return None  # the child
    Effect.objects.count()
    note(context, "end")
    return code


@task(atomic=True)
def forks_in_transaction(how):
    Effect.objects.create(name="by the parent")
    with transaction.atomic():
        code = fork_and(how)
        Effect.objects.create(name="after the fork")
    return code


@task
async def async_forks(how):
    return fork_and(how)


@task
async def async_forks_and_awaits():
    pause = asyncio.ensure_future(asyncio.sleep(0.05))
    pid = os.fork()
    await pause
    return wait_for(pid) if pid else None


@task
async def forks_in_thread(how):
    code = await asyncio.to_thread(fork_and, how)
    return [code, await sync_to_async(fork_and)(how)]


@task
def terminates_children(method):
    """The exit codes of children that were terminated, in the middle of their work and in their first moment."""
    context = multiprocessing.get_context(method)
    codes = []
    for pause in (0.2, 0.0):
        child = context.Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(pause)
        child.terminate()
        child.join(10)
        codes.append(child.exitcode)
        if child.exitcode is None:
            child.kill()
    return codes


@task
def uses_pool(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(abs, [-1, 2, -3])


ASK = """
import os, signal, sys
def is_open(end):
    try: os.fstat(end)
    except OSError: return False
    return True
print([signal.getsignal(number) is usual for number, usual in (
    (signal.SIGTERM, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler))],
    [end for end in range(3, 200) if is_open(end)])
"""


@task
def asks_subprocess():
    return subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True).stdout.strip()


@task
def leaves_process():
    """A copy that outlives its parent: does it hold on to anything of the worker's?"""
    if pid := os.fork():
        return pid
    os.setsid()
    time.sleep(60)


@task
async def to_thread(seconds):
    await asyncio.to_thread(time.sleep, seconds)


@task(takes_context=True)
def leaves_thread(context, kind="thread"):
    note(context, "start")
    if kind == "thread":
        threading.Thread(target=time.sleep, args=(60,), daemon=False).start()
    elif kind == "pool":
        concurrent.futures.ThreadPoolExecutor(1).submit(time.sleep, 60)
    else:
        concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")).submit(time.sleep, 60)


@task(takes_context=True, timeout=1)
def holds_interpreter(context):
    """A regular expression that Python is in for longer than anybody waits, without letting another thread run."""
    note(context, "start")
    re.match(r"(a+)+$", "a" * 40 + "b")
