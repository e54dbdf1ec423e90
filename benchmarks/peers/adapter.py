"""Runs one adapter, in a process of its own: adapter.py PEER COMMAND …

    about                              what the adapter says of itself
    setup                              create the schema
    fill FINISHED WAITING SCHEDULED FOR-SLOTS FOR-A-JOB
                                       put so many jobs into the tables, where the adapter can
    one TASK N, bulk TASK N            enqueue; when a line comes in, after "ready". Answers with its start, its end
                                       and its CPU time
    latency N                          milliseconds from enqueue to start of each of N jobs
    worker                             run a worker until SIGTERM

The last line of the output is the answer, as JSON.
"""

import asyncio
import importlib
import inspect
import json
import os
import random
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common import read_stamps


class Client:
    """A peer as one that enqueues sees it, whether its functions are coroutine functions or not."""

    def __init__(self, peer):
        self.peer = peer
        self.loop = asyncio.new_event_loop()

    def __call__(self, name, *args):
        answer = getattr(self.peer, name)(*args)
        return self.loop.run_until_complete(answer) if inspect.isawaitable(answer) else answer

    def __enter__(self):
        if hasattr(self.peer, "connect"):
            self("connect")
        return self

    def __exit__(self, *exception):
        if hasattr(self.peer, "disconnect"):
            self("disconnect")
        self.loop.close()


def values(count):
    """The arguments of the jobs: a number each, or text of BENCHMARK_BYTES, which no database can compress."""
    size = int(os.environ.get("BENCHMARK_BYTES", "0"))
    if not size:
        return range(count)
    letters = random.Random(0).randbytes(size).hex()  # twice as many as there are bytes
    return [letters[n % size : n % size + size] for n in range(count)]


def enqueue(client, how, task, count):
    """Enqueue when told to, over a connection that is open: when it began and was done, and its CPU time."""
    jobs = values(count)
    if how == "one" and count > 1:
        client("one", task, jobs[0])  # what is set up on first use is set up now
        jobs = jobs[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    start, cpu = time.time(), time.process_time()
    if how == "bulk":
        client("bulk", task, jobs)
    else:
        for value in jobs:
            client("one", task, value)
    return start, time.time(), time.process_time() - cpu


def latency(client, n):
    """Milliseconds from the enqueue to the start of each of n jobs, one about every 100 ms."""
    client("one", "stamp", -1)
    wait_for_stamps(1, "the worker does not run the first job")
    time.sleep(1)
    pace = random.Random(0)  # at irregular times, or a poll might keep step with it
    enqueued = []
    for number in range(n):
        enqueued.append(time.time())
        client("one", "stamp", number)
        time.sleep(pace.uniform(0.05, 0.15))
    stamps = wait_for_stamps(n + 1, "the worker does not run all jobs")
    return [(stamps[number] - moment) * 1000 for number, moment in enumerate(enqueued)]


def wait_for_stamps(count, complaint):
    for _ in range(300):
        if len(stamps := read_stamps()) >= count:
            return stamps
        time.sleep(0.1)
    sys.exit(complaint)


def version_of(package):
    """The version that is installed; of a checkout the commit."""
    module = sys.modules.get(package.replace("-", "_"))
    checkout = module and Path(module.__file__).parent.parent
    if checkout and (checkout / ".git").exists():
        line = ["git", "-C", checkout, "describe", "--always", "--dirty"]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def about(peer):
    return {
        "version": version_of(peer.PACKAGE),
        "uses_django": "django" in sys.modules,
        "config": " ".join(peer.CONFIG.split()),
        "kind": peer.KIND,
        "databases": peer.DATABASES,
        "tasks": list(peer.TASKS),
        "share": getattr(peer, "SHARE", 1),
        "bulk": hasattr(peer, "bulk"),
        "fill": hasattr(peer, "fill"),
        "starts_processes": getattr(peer, "STARTS_PROCESSES", False),
        "waiting": peer.WAITING,
        "unfinished": peer.UNFINISHED,
        "finished": peer.FINISHED,
        "failed": getattr(peer, "FAILED", None),
        "point": getattr(peer, "POINT", None),
        "passed": getattr(peer, "PASSED", None),
        "held": getattr(peer, "HELD", None),
    }


def answer(peer, command, args):
    if command == "about":
        return about(peer)
    if command == "setup":
        return peer.setup()
    if command == "fill":
        return peer.fill(*map(int, args))
    with Client(peer) as client:
        if command == "latency":
            return latency(client, int(args[0]))
        return enqueue(client, command, args[0], int(args[1]))


def main(name, command, *args):
    peer = importlib.import_module(f"peer_{name}")
    if command == "worker":
        peer.worker()
    else:
        print("\n" + json.dumps(answer(peer, command, args)))


if __name__ == "__main__":
    main(*sys.argv[1:])
