"""A database that was away is used again as soon as one thread has heard from it, however long it was away (C6)."""

from __future__ import annotations

import os
import threading
from urllib.parse import urlsplit

import pytest
from django.db import OperationalError, connection, connections

from django_jobqueue.models import Job
from django_jobqueue.worker import recovery
from django_jobqueue.worker.recovery import LATER, SOON, Recovery

from .. import databases
from ..silence import Way, silent_way
from ..tasks import add
from .test_own_sessions import SERVERS_ONLY
from .workers import working


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.mark.once
def test_c6_the_question_is_asked_again_soon_however_long_the_database_was_away(monkeypatch):
    clock, told = Clock(), threading.Event()
    monkeypatch.setattr(recovery, "time", clock)
    monkeypatch.setattr(
        recovery, "problem_of", lambda using: OperationalError("away") if clock.now < 1000.0 + 3600 else None
    )
    one = Recovery("default")
    one.came_back.append(told.set)
    one.is_away()
    assert told.wait(30)
    assert max(clock.slept) <= LATER * 1.25, "it hears of the end within a second or so"
    assert max(clock.slept[:4]) <= SOON * 1.25, "of a restart even sooner"
    assert not one.away


@pytest.mark.once
def test_c6_one_thread_asks_and_its_answer_wakes_all_who_wait(monkeypatch, eventually):
    is_back, asking, most, lock = threading.Event(), [], [], threading.Lock()

    def problem_of(using):
        with lock:
            asking.append(1)
            most.append(len(asking))
        is_back.wait(0.01)
        with lock:
            asking.pop()
        return None if is_back.is_set() else OperationalError("away")

    monkeypatch.setattr(recovery, "problem_of", problem_of)
    one = Recovery("default")
    waiting = [threading.Thread(target=one.pause, args=[3600.0, lambda: False], daemon=True) for _ in range(8)]
    for thread in waiting:
        thread.start()
    eventually(lambda: one._answered >= len(waiting), within=30)
    assert one.away and all(thread.is_alive() for thread in waiting)
    is_back.set()
    for thread in waiting:
        thread.join(20)
    assert not any(thread.is_alive() for thread in waiting), "none waits for the end of a pause of its own"
    assert set(most) == {1}


@SERVERS_ONLY
def test_c6_a_worker_runs_jobs_and_hears_of_new_ones_again_once_the_database_is_back(elsewhere, eventually):
    with silent_way(elsewhere, os.environ["DATABASE_URL"]) as way, working(threads=2) as worker:
        first = add.enqueue(1, 2)
        eventually(lambda: Job.objects.get(pk=first.id).status == "SUCCESSFUL", within=60)
        connections.close_all()
        way.cut()
        eventually(lambda: worker.recovery.away, within=60)
        way.mend()
        eventually(lambda: not worker.recovery.away, within=60)
        second = add.enqueue(3, 4)
        eventually(lambda: Job.objects.get(pk=second.id).status == "SUCCESSFUL", within=60)
        if connection.vendor == "postgresql":
            eventually(lambda: worker.wakeup.listening, within=60)


@SERVERS_ONLY
def test_c6_a_worker_that_starts_before_its_database_waits_for_it(worker_env, spawn, eventually):
    job = add.enqueue(1, 2)
    url = urlsplit(worker_env["DATABASE_URL"])
    with Way(databases.way_in(worker_env["DATABASE_URL"])) as way:
        way.cut()
        address = f"{url.username}@127.0.0.1:{way.port}"
        process = spawn("runworker", "--drain", DATABASE_URL=url._replace(netloc=address, query="").geturl())
        eventually(lambda: "The worker waits for it." in process.log.read_text(), within=60)
        assert process.poll() is None and "Traceback" not in process.log.read_text()
        way.mend()
        assert process.wait(60) == 0
    assert Job.objects.get(pk=job.id).status == "SUCCESSFUL"


@pytest.mark.once
def test_a_file_that_cannot_be_opened_is_told_of_at_once(worker_env, spawn):
    process = spawn(
        "runworker", DATABASE_URL="sqlite:////nowhere/db.sqlite3", JOBQUEUE_TEST_DATABASE="/nowhere/db.sqlite3"
    )
    assert process.wait(60) == 1
    text = process.log.read_text()
    assert "CommandError: The database 'default' cannot be reached: unable to open" in text
    assert "/nowhere/db.sqlite3" in text and "Traceback" not in text
