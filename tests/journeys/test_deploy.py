"""Workers that are told to stop: nothing is lost, and nothing is charged for it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from contextlib import suppress

import pytest

from django_jobqueue import enqueue_many
from django_jobqueue.models import Attempt, Job, Worker

from .conftest import is_working, outcomes, statuses, wait_for_exit
from .tasks import async_work, patient, work

pytestmark = [pytest.mark.processes, pytest.mark.core, pytest.mark.timeout(120)]

#: What comes of a stop is for each database to show; that Ctrl-C is one too is not.
both = pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="SIGTERM"),
        pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.once),
    ],
)


@both
def test_g6_sigterm_costs_no_attempt(queue_db, start_worker, journal, eventually, number):
    """In the middle of a batch, with jobs claimed ahead: the running ones end, the others are given back."""
    enqueue_many([work.s(0.01) for _ in range(600)])
    worker = start_worker("--threads", 2)
    eventually(lambda: Job.objects.running().count() > 2, within=20, every=0.005)  # claimed ahead
    worker.send_signal(number)
    assert wait_for_exit(worker) == 0
    left = Job.objects.exclude(status="SUCCESSFUL")
    assert left.exists()
    assert set(left.values_list("status", "attempts", "tries", "losses", "worker", "fence", "started_at")) == {
        ("READY", 0, 0, 0, None, None, None)
    }
    assert set(outcomes()) == {"succeeded"}
    assert set(journal.started()) == set(Job.objects.filter(status="SUCCESSFUL").values_list("pk", flat=True))
    assert len(journal.lines("end")) == len(journal.starts())
    assert list(Worker.objects.values_list("status", flat=True)) == ["STOPPED"]


@pytest.mark.once
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere one cannot say which thread gets a signal")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_g6_a_signal_that_another_thread_than_the_main_one_gets_stops_the_worker_too(
    queue_db, start_worker, eventually, number
):
    """The system picks a thread itself when the main one has a signal to see to already, as after a SIGCONT."""
    worker = start_worker()
    eventually(lambda: is_working(worker), within=20)
    others = eventually(
        lambda: [int(name) for name in os.listdir(f"/proc/{worker.pid}/task") if int(name) != worker.pid]
    )
    assert ctypes.CDLL(None, use_errno=True).tgkill(worker.pid, others[0], number) == 0
    assert wait_for_exit(worker) == 0
    assert list(Worker.objects.values_list("status", flat=True)) == ["STOPPED"]


@both
def test_g6_a_job_that_does_not_end_is_given_back_after_the_grace(queue_db, start_worker, journal, eventually, number):
    stuck = [work.enqueue(60), async_work.enqueue(60)]
    worker = start_worker("--shutdown-timeout", 1)
    eventually(lambda: len(journal.starts()) == 2, within=20)  # not only claimed
    worker.send_signal(number)
    began = time.monotonic()
    assert wait_for_exit(worker) == 0
    assert 0.8 < time.monotonic() - began < 4
    rows = Job.objects.filter(pk__in=[result.id for result in stuck]).in_line()
    assert list(rows.values_list("attempts", "tries", "losses")) == [(1, 0, 0)] * 2
    assert outcomes() == {"interrupted": 2}


@both
def test_g6_a_second_signal_stops_at_once(queue_db, start_worker, journal, eventually, number):
    work.enqueue(60)
    worker = start_worker("--shutdown-timeout", 50)
    eventually(lambda: len(journal.starts()) == 1, within=20)
    worker.send_signal(number)
    eventually(lambda: Worker.objects.filter(status="STOPPING").exists(), within=5)
    worker.send_signal(number)
    assert wait_for_exit(worker, 4) == 0
    assert statuses() == {"READY": 1}
    assert outcomes() == {"interrupted": 1}


@pytest.mark.once
def test_g6_long_tasks_learn_that_the_worker_stops(queue_db, start_worker, journal, eventually):
    job = patient.enqueue(60)
    worker = start_worker("--shutdown-timeout", 30)
    eventually(lambda: len(journal.starts()) == 1, within=20)
    worker.terminate()
    assert wait_for_exit(worker, 5) == 0
    assert "asked to stop: shutdown" in Attempt.objects.get(job=job.id).message


def test_g6_a_rolling_deploy_under_load_charges_nothing(queue_db, start_worker, journal, eventually):
    """Each worker is replaced, again and again, with SIGTERM: every job is started once."""
    enqueue_many([work.s(0.01) for _ in range(600)])
    crew = [start_worker(options={"LEASE": 30}) for _ in range(2)]
    for turn in range(4):
        place = turn % 2
        eventually(lambda: is_working(crew[place]), within=20)  # noqa: B023
        eventually(lambda: Job.objects.running().exists() or not Job.objects.unfinished().exists())
        crew[place].terminate()
        assert wait_for_exit(crew[place]) == 0
        crew[place] = start_worker(options={"LEASE": 30})
    eventually(lambda: not Job.objects.unfinished().exists(), within=40)
    assert statuses() == {"SUCCESSFUL": 600}
    assert outcomes() == {"succeeded": 600}
    assert set(journal.started().values()) == {1}
    assert set(Job.objects.values_list("attempts", flat=True)) == {1}


@pytest.mark.once
def test_autoreload_restarts_on_a_change_and_loses_no_job(queue_db, start_worker, journal, eventually, tmp_path):
    module = tmp_path / "changing.py"
    module.write_text("number = 1\n")
    path = {"PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(tmp_path), os.getcwd()])}
    enqueue_many([work.s(0.02) for _ in range(200)])
    worker = start_worker("--autoreload", JOURNEY_IMPORT="changing", **path)
    eventually(lambda: Worker.objects.exists() and journal.starts(), within=20)

    def restarted() -> bool:
        module.touch()  # again and again: the reloader has to have seen it once before
        return Worker.objects.count() > 1

    eventually(restarted, within=20, every=1.5)
    eventually(lambda: not Job.objects.unfinished().exists(), within=40)
    assert statuses() == {"SUCCESSFUL": 200}
    assert set(journal.started().values()) == {1}
    children = {line.pid for line in journal.starts()}
    worker.terminate()
    wait_for_exit(worker)
    eventually(lambda: not any(is_alive(pid) for pid in children), within=10)


@pytest.mark.once
@both
def test_autoreload_ends_with_its_parent(queue_db, start_worker, eventually, number):
    worker = start_worker("--autoreload")
    eventually(lambda: Worker.objects.exists(), within=20)
    child = Worker.objects.get().pid
    assert child != worker.pid
    worker.send_signal(number)
    wait_for_exit(worker)
    eventually(lambda: not is_alive(child), within=12)


@pytest.mark.once
@pytest.mark.parametrize("to", ["all", "child"])
def test_g6_one_signal_under_autoreload_counts_once_whoever_gets_it(queue_db, start_worker, journal, eventually, to):
    """As from a terminal, which sends it to all of the group; a second one would interrupt the job."""
    work.enqueue(1.5)
    worker = start_worker("--autoreload")
    eventually(lambda: journal.starts(), within=20)
    child = Worker.objects.get().pid
    if to == "all":
        os.killpg(worker.pid, signal.SIGINT)
    else:
        os.kill(child, signal.SIGINT)
    assert wait_for_exit(worker) == 0
    eventually(lambda: not is_alive(child), within=12)
    assert outcomes() == {"succeeded": 1} and Worker.objects.get().status == "STOPPED"


@pytest.mark.once
def test_g6_a_burst_of_signals_ends_a_worker_under_autoreload(queue_db, start_worker, journal, eventually):
    work.enqueue(60)
    worker = start_worker("--autoreload")
    eventually(lambda: journal.starts(), within=20)
    for _ in range(100):
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGINT)
            os.killpg(worker.pid, signal.SIGTERM)
    assert wait_for_exit(worker) == 0
    assert statuses() == {"READY": 1} and outcomes() == {"interrupted": 1}


@pytest.mark.once
def test_g6_a_reloaded_worker_whose_parent_is_killed_stops(queue_db, start_worker, eventually):
    worker = start_worker("--autoreload")
    eventually(lambda: Worker.objects.exists(), within=20)
    worker.kill()
    eventually(lambda: Worker.objects.get().status == "STOPPED", within=12)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
