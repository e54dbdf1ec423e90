"""Worker processes to start, to stop and to kill, and the journal of what their tasks did."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.db import connection

from django_jobqueue.models import Attempt, Job, Worker

#: Seconds; the shortest lease that two busy cores keep.
LEASE = 2.0


@dataclass(frozen=True, slots=True)
class Line:
    what: str
    job: int
    attempt: int
    worker: int
    time: float
    pid: int


class Journal:
    """What the tasks noted, in the order in which they did."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self, what: str | None = None) -> list[Line]:
        if not self.path.exists():
            return []
        found = []
        for text in self.path.read_text().splitlines():
            word, job, attempt, worker, moment, pid = text.split()
            if what in (None, word):
                found.append(Line(word, int(job), int(attempt), int(worker), float(moment), int(pid)))
        return found

    def starts(self) -> list[Line]:
        return self.lines("start")

    def started(self) -> Counter[int]:
        """How often each job was started."""
        return Counter(line.job for line in self.starts())


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture
def start_worker(spawn: Callable[..., subprocess.Popen], journal: Journal) -> Iterator[Callable[..., subprocess.Popen]]:
    """``start_worker("--drain", options={"LEASE": 2})``: a ``runworker`` in a process of its own."""

    groups = []

    def start(*args: object, options: dict | None = None, command: str = "runworker", **env: str) -> subprocess.Popen:
        settings = {"LEASE": LEASE, **(options or {})}
        process = spawn(
            command,
            *args,
            **{
                "DJANGO_SETTINGS_MODULE": "tests.journeys.settings",
                "JOURNEY_OPTIONS": json.dumps(settings),
                "JOURNEY_JOURNAL": str(journal.path),
                **env,
            },
        )
        groups.append(process.pid)
        return process

    yield start

    for group in groups:  # a reloader has a child
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def statuses() -> dict[str, int]:
    return dict(Counter(Job.objects.values_list("status", flat=True)))


def outcomes() -> dict[str, int]:
    return dict(Counter(Attempt.objects.values_list("outcome", flat=True)))


def unfinished() -> int:
    return Job.objects.unfinished().count()


def is_working(process: subprocess.Popen) -> bool:
    """Has this process told the database that it is there?"""
    return Worker.objects.filter(pid=process.pid).exists()


def wait_for_exit(process: subprocess.Popen, within: float = 15.0) -> int:
    try:
        return process.wait(within)
    except subprocess.TimeoutExpired:
        pytest.fail(f"the process still runs after {within} s")


@contextmanager
def stopped(process: subprocess.Popen, when: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """The process, held as if its machine had stalled; but not with SQLite's one lock in its hand, and in a moment
    of which ``when`` holds.
    """
    halt(process)
    while not (can_write() and when()):
        process.send_signal(signal.SIGCONT)
        time.sleep(0.005)
        halt(process)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def halt(process: subprocess.Popen) -> None:
    """Stop the process, and wait until the last of its threads stands still: the signal only asks for it."""
    process.send_signal(signal.SIGSTOP)
    threads = Path(f"/proc/{process.pid}/task")
    while any(stat.read_text().rpartition(")")[2].split()[0] != "T" for stat in threads.glob("*/stat")):
        time.sleep(0.001)


def can_write() -> bool:
    """Does nobody hold the lock that SQLite has for the whole database? A stalled machine would stop all with it."""
    if connection.vendor != "sqlite":
        return True
    with closing(sqlite3.connect(connection.settings_dict["NAME"], timeout=0.2, isolation_level=None)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        other.execute("ROLLBACK")
    return True


def is_postgresql() -> bool:
    return connection.vendor == "postgresql"
