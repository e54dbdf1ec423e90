"""The database goes away and comes back: workers wait for it, and no job is lost or left lying."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress

import pytest
from django.db import OperationalError, connection

from django_jobqueue import enqueue_many
from django_jobqueue.backend import JobQueueBackend
from django_jobqueue.compat import task_backends
from django_jobqueue.dialects import get_dialect
from django_jobqueue.lifecycle import QueueSelector
from django_jobqueue.models import Job, Worker
from django_jobqueue.worker.claimer import Intake
from django_jobqueue.worker.worker import Worker as WorkerProcess
from tests.tasks import noop

from .conftest import is_working, outcomes, statuses, unfinished, wait_for_exit
from .tasks import work

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


def cut_connections() -> int:
    """End all other connections to the test's database, as a restart of the server does."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return len(cursor.fetchall())
        cursor.execute("SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()")
        numbers = [number for (number,) in cursor.fetchall()]
        for number in numbers:
            with suppress(OperationalError):  # it may have gone by itself
                cursor.execute("KILL %s", [number])
        return len(numbers)


@pytest.fixture
def server(queue_db):
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has no server to lose")


def test_g2_workers_outlive_the_loss_of_their_connections(server, start_worker, journal, eventually):
    number = 600
    crew = [start_worker("--threads", 2, options={"LEASE": 30}) for _ in range(2)]
    eventually(lambda: all(is_working(process) for process in crew), within=20)
    enqueue_many([work.s(0.01) for _ in range(number)])
    # Its row says that a worker is there, not that the worker has heard so.
    eventually(lambda: {line.pid for line in journal.starts()} == {process.pid for process in crew}, within=15)
    cut = 0
    while cut < 10 and Job.objects.in_line().exists():
        before = len(journal.starts())
        eventually(cut_connections)  # not while they are just coming back
        cut += 1
        eventually(lambda: len(journal.starts()) > before or not unfinished(), within=15)  # noqa: B023
    assert cut >= 3
    eventually(lambda: not unfinished(), within=40)  # no lease runs out in that time: nothing was left lying
    assert statuses() == {"SUCCESSFUL": number}
    assert outcomes() == {"succeeded": number}
    assert set(journal.started().values()) == {1}
    for process in crew:
        process.terminate()
    assert [wait_for_exit(process) for process in crew] == [0, 0]
    assert set(Worker.objects.values_list("status", flat=True)) == {"STOPPED"}


def test_g6_an_idle_worker_whose_connections_were_cut_stops_cleanly(server, start_worker, eventually):
    """As at night, when a firewall forgets idle connections."""
    worker = start_worker(options={"LEASE": 60})
    # Its row may be there before it knows: cut off then, it would register once more.
    eventually(lambda: "takes jobs" in worker.log.read_text(), within=20)
    cut_connections()
    worker.terminate()
    assert wait_for_exit(worker) == 0
    assert Worker.objects.get().status == "STOPPED"


def test_g2_a_cut_in_the_middle_of_a_stop_loses_nothing(server, start_worker, journal, eventually):
    enqueue_many([work.s(0.5) for _ in range(4)] + [work.s(0.01) for _ in range(100)])
    worker = start_worker("--threads", 4, options={"LEASE": 60})
    eventually(lambda: len(journal.starts()) >= 4, within=20)
    worker.terminate()
    cut_connections()
    assert wait_for_exit(worker) == 0
    assert set(statuses()) == {"SUCCESSFUL", "READY"}
    assert len(journal.lines("end")) == Job.objects.filter(status="SUCCESSFUL").count()


# -- faults at one exact point, in a worker that runs in threads of this process


@pytest.fixture
def here(queue_db, eventually):
    """A worker in this process, so that a test can put a fault at one exact point of it."""
    workers = []

    def start(**options) -> WorkerProcess:
        backend = task_backends["default"]
        assert isinstance(backend, JobQueueBackend)
        worker = WorkerProcess(backend, Intake(selector=QueueSelector(), poll=0.05), threads=2, **options)
        thread = threading.Thread(target=worker.run)
        thread.start()
        workers.append((worker, thread))
        return worker

    yield start

    for worker, thread in workers:
        worker.stop()
        thread.join(20)


def once_after(function, error, calls):
    """The function, and an error after its first call that did something: as when the reply is lost on its way."""

    def wrapped(*args, **kwargs):
        answer = function(*args, **kwargs)
        if answer and not calls:
            calls.append(answer)
            raise error
        return answer

    return wrapped


def test_g2_a_worker_whose_registration_fails_tries_again(here, monkeypatch, eventually):
    calls: list = []
    module = sys.modules["django_jobqueue.worker.worker"]
    monkeypatch.setattr(module, "REGISTER_PAUSES", (0.05,))
    monkeypatch.setattr(
        module, "register", once_after(module.register, OperationalError("server closed the connection"), calls)
    )
    noop.enqueue()
    worker = here()
    eventually(lambda: not unfinished(), within=20)
    assert calls
    assert worker.id != calls[0].pk  # the row of which it never heard runs out by itself
    assert statuses() == {"SUCCESSFUL": 1}


def test_g2_a_claim_whose_reply_is_lost_is_run_all_the_same(here, monkeypatch, eventually):
    """The database has given the jobs to this worker, which never heard of it, and lives on."""
    dialect, calls = get_dialect("default"), []
    monkeypatch.setattr(
        dialect, "claim", once_after(dialect.claim, OperationalError("server closed the connection"), calls)
    )
    enqueue_many([noop.s() for _ in range(3)])
    here()
    eventually(lambda: not unfinished(), within=20)
    assert calls
    assert statuses() == {"SUCCESSFUL": 3}
    assert set(outcomes()) == {"succeeded"}
    assert set(Job.objects.values_list("tries", "losses")) == {(1, 0)}


def test_g2_an_error_between_claim_and_start_leaves_no_job_lying(here, monkeypatch, eventually):
    calls: list = []
    module = sys.modules["django_jobqueue.lifecycle.claim"]  # the package has a function of that name
    attach = module.attach_past_attempts

    def fault(jobs, using):
        if jobs and not calls:
            calls.append(jobs)
            raise OperationalError("server closed the connection")
        return attach(jobs, using)

    monkeypatch.setattr(module, "attach_past_attempts", fault)
    job = noop.enqueue()
    Job.objects.filter(pk=job.id).update(attempts=1)
    here()
    eventually(lambda: not unfinished(), within=20)
    assert calls
    assert statuses() == {"SUCCESSFUL": 1}


def test_g2_a_finish_whose_reply_is_lost_is_written_once(here, monkeypatch, eventually):
    dialect, calls = get_dialect("default"), []
    monkeypatch.setattr(
        dialect, "succeed", once_after(dialect.succeed, OperationalError("server closed the connection"), calls)
    )
    enqueue_many([noop.s() for _ in range(3)])
    worker = here()
    eventually(lambda: not unfinished() and not worker.desk.runs, within=20)
    assert calls
    assert statuses() == {"SUCCESSFUL": 3}
    assert outcomes() == {"succeeded": 3}
