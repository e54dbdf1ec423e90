"""Control of many, and pauses, while worker processes claim what is being changed."""

from __future__ import annotations

import re
import signal
import time

import pytest

from django_jobqueue import enqueue_many
from django_jobqueue.lifecycle import cancel, move, pause, resume
from django_jobqueue.lifecycle.portions import BATCH
from django_jobqueue.models import Job

from .conftest import is_working, outcomes, statuses, unfinished, wait_for_exit
from .policy_tasks import crowded
from .tasks import work

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

#: The lease is not what is tested here.
LONG = {"LEASE": 60}
#: Seconds for a job, where the workers must not be done before the test has looked twice.
BUSY = 0.01


def enqueue(number, seconds=0.0, queue_name="default"):
    call = work.using(queue_name=queue_name)
    return [int(result.id) for result in enqueue_many([call.s(seconds) for _ in range(number)])]


def test_g3_what_is_moved_is_not_run_where_it_was_and_what_runs_is_not_moved(
    queue_db, start_worker, journal, eventually
):
    number = 4000
    enqueue(number, BUSY, "here")
    crew = [start_worker("--queues", "here", "--drain", 1, options=LONG) for _ in range(2)]
    eventually(lambda: len(journal.starts()) > 50, within=30)
    moved = move(Job.objects.filter(queue_name="here"), "there")
    assert [wait_for_exit(process, 60) for process in crew] == [0, 0]
    started = journal.started()
    there = set(Job.objects.filter(queue_name="there").values_list("pk", flat=True))
    assert 0 < moved == len(there) < number
    assert not there & started.keys() and len(started) == number - moved
    assert set(started.values()) == {1} and statuses() == {"SUCCESSFUL": number - moved, "READY": moved}


def test_g13_cancelling_all_while_they_are_claimed_leaves_none_between(queue_db, start_worker, journal, eventually):
    number = 4000
    enqueue(number, BUSY)
    for _ in range(2):
        start_worker(options=LONG)
    eventually(lambda: len(journal.starts()) > 50, within=30)
    done = cancel(Job.objects.filter(task_path=work.module_path))
    eventually(lambda: not unfinished(), within=30)
    started = set(journal.started())
    cancelled = set(Job.objects.filter(status="CANCELLED").values_list("pk", flat=True))
    assert done.cancelled > 0
    never_started = set(Job.objects.filter(attempts=0).values_list("pk", flat=True))
    assert never_started <= cancelled and not never_started & started
    # some that were asked to stop had been claimed in advance, and were given back before they started
    assert done.cancelled <= len(never_started) <= done.cancelled + done.requested
    assert Job.objects.filter(status="SUCCESSFUL").count() + len(cancelled) == number


def test_several_operators_and_workers_at_once_block_nobody_and_lose_nothing(
    queue_db, start_worker, spawn, journal, eventually
):
    number = 3000
    enqueue(number, 0.005, queue_name="here")
    crew = [start_worker("--drain", 2, options=LONG) for _ in range(2)]
    eventually(lambda: len(journal.starts()) > 20, within=30)
    operators = [
        spawn("jobqueue", "move", "--to", "there", "--queue", "here", "--json"),
        spawn("jobqueue", "priority", "--to", 7, "--task", work.module_path, "--json"),
        spawn("jobqueue", "reschedule", "--to", "1s", "--task", work.module_path, "--json"),
        spawn("jobqueue", "priority", "--to", -7, "--task", work.module_path, "--json"),
    ]
    assert [wait_for_exit(process, 60) for process in operators] == [0] * 4
    assert [wait_for_exit(process, 60) for process in crew] == [0, 0]
    assert statuses() == {"SUCCESSFUL": number}
    assert set(journal.started().values()) == {1} and len(journal.started()) == number


def test_ctrl_c_leaves_whole_batches_and_says_how_many(queue_db, spawn, eventually):
    enqueue(12 * BATCH)
    command = spawn("jobqueue", "move", "--to", "there", "--queue", "default")
    moved = Job.objects.filter(queue_name="there")
    eventually(lambda: moved.exists(), within=30, every=0.005)
    command.send_signal(signal.SIGINT)
    code = wait_for_exit(command, 30)
    text = command.log.read_text()
    if code == 0:
        pytest.skip("it was through before the signal came")
    assert code == 130
    [number] = re.findall(r"Interrupted. Before that: ([\d,]+) jobs moved", text)
    assert 0 < int(number.replace(",", "")) == moved.count() < 12 * BATCH, "what was written is what is told"


def test_a_paused_task_is_not_started_any_more_and_resumes(queue_db, start_worker, journal, eventually):
    enqueue(400, 0.02)
    workers = [start_worker("--threads", 2, options=LONG) for _ in range(2)]
    eventually(lambda: all(map(is_working, workers)) and len(journal.starts()) > 20, within=30)
    assert pause(task=work)
    time.sleep(2)  # a second to learn of it, and what had been claimed ahead
    eventually(lambda: not Job.objects.running().exists())
    before = len(journal.starts())
    enqueue(5)
    time.sleep(1.5)
    assert len(journal.starts()) == before < 400 and statuses()["READY"] == 405 - before
    assert resume(task=work)
    eventually(lambda: statuses() == {"SUCCESSFUL": 405}, within=30)
    assert set(journal.started().values()) == {1}


def test_a_worker_that_starts_while_a_task_is_paused_knows_it(queue_db, start_worker, journal):
    enqueue(3)
    pause(task=work)
    process = start_worker("--drain", 0.5)
    assert wait_for_exit(process, 40) == 0
    assert statuses() == {"READY": 3} and not journal.starts()
    assert f"task {work.module_path}" in process.log.read_text()


def test_g10_under_a_paused_key_nothing_starts_until_it_is_resumed(queue_db, start_worker, journal, eventually):
    """Paused and resumed in the midst of it, again and again: no job is lost, none runs twice, none stays behind."""
    enqueue_many([crowded.s(0.01) for _ in range(120)])
    workers = [start_worker("--threads", 3, options=LONG) for _ in range(2)]
    eventually(lambda: all(map(is_working, workers)) and len(journal.starts()) > 5, within=30)
    for _ in range(3):
        assert pause(key="crew")
        eventually(lambda: not Job.objects.running().exists() and not Job.objects.in_line().exists(), within=30)
        before = len(journal.starts())
        time.sleep(0.5)
        assert len(journal.starts()) == before
        assert resume(key="crew")
        time.sleep(0.3)
    eventually(lambda: statuses() == {"SUCCESSFUL": 120}, within=60)
    assert set(journal.started().values()) == {1}
    assert set(outcomes()) == {"succeeded"}, "no attempt is burned"
    assert set(Job.objects.values_list("tries", flat=True)) == {1}
