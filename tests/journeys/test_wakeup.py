"""An idle worker: it sleeps, costs next to nothing, and is there when a job comes."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest
from django.db import connection
from django.db.backends.signals import connection_created
from django.db.models import F
from django.utils import timezone

from django_jobqueue.compat import task_backends
from django_jobqueue.dialects.channel import LISTENERS
from django_jobqueue.lifecycle import QueueSelector
from django_jobqueue.models import Attempt, Job
from django_jobqueue.models import Worker as Row
from django_jobqueue.worker.claimer import Intake
from django_jobqueue.worker.lanes import PATIENCE
from django_jobqueue.worker.wakeup import LONGEST
from django_jobqueue.worker.worker import Worker
from tests.tasks import noop

from .conftest import is_working, unfinished
from .policy_tasks import of_tenant

pytestmark = [pytest.mark.processes, pytest.mark.core, pytest.mark.timeout(120)]

#: Seconds for which an idle worker is watched: long against its pauses, which are drawn by lot, so that their mean
#: counts; and short of its first prune.
WATCHED = 30.0
#: Seconds, far less than a worker sleeps that nobody wakes. On a busy machine a look may wait for its turn so long, and
#: somewhat more: how quick it is where nothing else runs is for the benchmarks to say.
IN_TIME = PATIENCE + 0.5


class Account:
    """What this process asks of the database, and how often it connects to it."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.connections = 0

    def note(self, execute, sql, params, many, context):
        self.statements.append(sql)
        return execute(sql, params, many, context)

    def watch(self, connection, **kwargs) -> None:
        self.connections += 1
        connection.execute_wrappers.append(self.note)


@pytest.fixture
def account(queue_db):
    account = Account()
    connection_created.connect(account.watch)
    yield account
    connection_created.disconnect(account.watch)


@pytest.fixture
def idle_worker(account, eventually):
    """In this process, so that all of its connections can be watched, with a worker's own defaults."""
    worker = Worker(task_backends["default"], Intake(QueueSelector()))
    thread = threading.Thread(target=worker.run)
    thread.start()
    eventually(lambda: worker.wakeup.listening or (worker.id and connection.vendor not in LISTENERS), within=20)
    yield worker
    worker.stop()
    thread.join(20)
    assert not thread.is_alive()


def server_processes() -> set[int]:
    """The server's own word on who is connected, for connections that Django does not know of."""
    if connection.vendor != "postgresql":
        return set()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"
        )
        return {pid for (pid,) in cursor.fetchall()}


def test_an_idle_worker_asks_less_than_once_a_second_and_opens_no_connection(idle_worker, account, eventually):
    idle_worker.claimer._found_at -= 60  # as if it had found nothing for a minute
    row = Row.objects.filter(pk=idle_worker.id)
    eventually(lambda: row.filter(heartbeat_at__gt=F("started_at")).exists(), within=20, every=1)  # all have connected
    peers = server_processes()  # some may be of tests before this one, and on their way out
    account.statements.clear()
    connected, began = account.connections, time.process_time()
    time.sleep(WATCHED)
    used, statements = time.process_time() - began, list(account.statements)
    assert len(statements) < WATCHED, statements
    assert account.connections == connected
    assert server_processes() <= peers
    assert used < WATCHED * 0.02  # it needs less than a quarter of that where the machine has nothing else to do


@pytest.fixture
def sleeping_worker(start_worker, eventually):
    """In a process of its own, until it has gone to sleep."""
    if connection.vendor not in LISTENERS:
        pytest.skip("this database has no channel: workers poll")
    process = start_worker(options={"LEASE": 30})
    eventually(lambda: is_working(process), within=20)
    noop.enqueue()
    eventually(lambda: not unfinished())
    time.sleep(1)
    return process


def start_of(result) -> float:
    return Attempt.objects.get(job_id=result.id).started_at.timestamp()


@pytest.mark.parametrize("made", [noop, of_tenant], ids=["free", "waits for a slot"])
def test_a_sleeping_worker_takes_a_job_at_once(sleeping_worker, eventually, made):
    delays = []
    for number in range(4):
        time.sleep(0.5)
        enqueued = timezone.now().timestamp()
        result = made.enqueue(number % 2) if made is not noop else made.enqueue()
        eventually(lambda: not unfinished())
        delays.append(start_of(result) - enqueued)
    assert sorted(delays)[1] < IN_TIME, delays


def test_a_sleeping_worker_is_in_time_for_a_job_that_is_due_soon(sleeping_worker, eventually):
    delays = []
    for _ in range(3):
        due = timezone.now() + timedelta(seconds=0.5)
        result = noop.using(run_after=due).enqueue()
        eventually(lambda: not unfinished())
        delays.append(start_of(result) - due.timestamp())
    assert min(delays) >= -0.005, delays
    assert sorted(delays)[1] < IN_TIME, delays


def test_a_job_that_nobody_was_told_of_is_found_all_the_same(sleeping_worker, eventually):
    """As after a process that died before it could say so; SQLite hears of each commit."""
    job = Job(task_path="tests.tasks.noop", enqueued_at=timezone.now())
    job.save(force_insert=True)
    eventually(lambda: not unfinished(), within=2 * LONGEST)
