"""Tasks that run for too long, that are cancelled while they run, and that react to nothing."""

from __future__ import annotations

import time

import pytest
from django.core.management import call_command
from django.urls import reverse

from django_jobqueue import enqueue_many
from django_jobqueue.lifecycle.control import cancel
from django_jobqueue.models import Attempt, Job
from django_jobqueue.worker.link import RECYCLE

from .conftest import outcomes, wait_for_exit
from .limit_tasks import (
    blocks_the_loop,
    live_slots,
    loops,
    neighbour,
    sleeps_async,
    spins,
    stays,
    stays_in_own_thread,
    stuck,
    swallows,
    waits,
)
from .tasks import work
from .test_deploy import both

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

#: The lease is not what is tested here, and a machine that is busy must not lose one.
LONG = {"LEASE": 30}


def test_a_task_is_interrupted_when_its_timeout_is_over(queue_db, start_worker, journal, eventually):
    jobs = [int(made.enqueue().id) for made in (loops, sleeps_async)]
    worker = start_worker(options=LONG)
    eventually(lambda: outcomes() == {"timed_out": 2}, within=30)
    assert {line.job for line in journal.lines("outer")} == set(jobs)
    assert len(journal.lines("inner")) == 1
    for attempt in Attempt.objects.select_related("job"):
        assert attempt.message.startswith("TaskTimeout") and "longer than 1.0 seconds" in attempt.message
        assert 0.9 < (attempt.finished_at - attempt.started_at).total_seconds() < 4
        assert (attempt.job.status, attempt.job.tries) == ("READY", 1)  # its second attempt is due in an hour
    work.enqueue()
    eventually(lambda: outcomes().get("succeeded"))
    worker.terminate()
    assert wait_for_exit(worker) == 0


@pytest.mark.parametrize(
    "made",
    [
        stuck,
        pytest.param(swallows, marks=pytest.mark.once),
        pytest.param(blocks_the_loop, marks=pytest.mark.once),
    ],
    ids=lambda made: made.name,
)
def test_g3_g6_what_does_not_react_is_written_off_and_its_process_replaced(
    queue_db, start_worker, journal, eventually, tmp_path, made
):
    """Its neighbour is not charged for it, and runs to its end in the next process."""
    flag = tmp_path / "flag"
    bad, long = int(made.enqueue().id), int(neighbour.enqueue(str(flag)).id)
    worker = start_worker("--threads", 2, "--shutdown-timeout", 1, "--timeout-grace", 2, options=LONG)
    eventually(lambda: {line.job for line in journal.starts()} == {bad, long}, within=20)
    waiting = enqueue_many([work.s() for _ in range(20)]) if made is not blocks_the_loop else []
    assert wait_for_exit(worker, 20) == RECYCLE
    attempt = Attempt.objects.get(job=bad)
    assert attempt.outcome == "timed_out" and "did not react within 2 seconds" in attempt.message
    assert Job.objects.get(pk=bad).status == "FAILED"
    assert Attempt.objects.get(job=long).outcome == "interrupted"
    row = Job.objects.get(pk=long)
    assert (row.status, row.attempts, row.tries, row.losses) == ("READY", 1, 0, 0)
    assert set(Job.objects.filter(pk__in=[one.id for one in waiting]).values_list("losses", flat=True)) <= {0}
    flag.touch()
    assert wait_for_exit(start_worker("--drain", options=LONG), 30) == 0
    assert not Job.objects.exclude(pk=bad).exclude(status="SUCCESSFUL").exists()
    assert journal.started()[bad] == 1 and journal.started()[long] == 2


@pytest.mark.once
def test_g3_there_are_never_more_live_threads_than_slots(queue_db, start_worker, eventually):
    stuck.enqueue()
    worker = start_worker("--threads", 2, "--timeout-grace", 60, options=LONG)
    eventually(lambda: Job.objects.running().exists(), within=20)
    jobs = enqueue_many([live_slots.s() for _ in range(60)])  # before, while and after the other is interrupted
    ids = [one.id for one in jobs]
    eventually(lambda: not Job.objects.filter(pk__in=ids).unfinished().exists(), within=30)
    assert set(Job.objects.filter(pk__in=ids).values_list("result", flat=True)) == {2}
    assert worker.poll() is None


# -- cancel ---------------------------------------------------------------------------------------


def by_command(job, admin_client):
    call_command("jobqueue", "cancel", str(job))


def by_admin(job, admin_client):
    url = reverse("admin:django_jobqueue_job_changelist")
    answer = admin_client.post(url, {"action": "cancel", "_selected_action": [job]}, follow=True)
    assert answer.status_code == 200


def by_api(job, admin_client):
    cancel([job])


@pytest.mark.parametrize(
    "by",
    [pytest.param(by_command, marks=pytest.mark.once), pytest.param(by_admin, marks=pytest.mark.once), by_api],
    ids=lambda by: by.__name__,
)
@pytest.mark.parametrize("made", [spins, waits], ids=["sync", "async"])
def test_g13_cancel_reaches_a_running_job_within_two_seconds(
    queue_db, start_worker, journal, eventually, admin_client, made, by
):
    job = int(made.enqueue().id)
    worker = start_worker(options=LONG)
    eventually(lambda: journal.starts(), within=20)
    began = time.monotonic()
    by(job, admin_client)
    eventually(lambda: Job.objects.get(pk=job).status == "CANCELLED", within=5)
    assert time.monotonic() - began < 2
    assert outcomes() == {"cancelled": 1} and len(journal.lines("outer")) == 1
    work.enqueue()
    eventually(lambda: outcomes().get("succeeded"))
    assert journal.started()[job] == 1
    worker.terminate()
    assert wait_for_exit(worker) == 0


@pytest.mark.parametrize(
    "made",
    [pytest.param(stays, id="sync"), pytest.param(stays_in_own_thread, id="async", marks=pytest.mark.once)],
)
def test_g13_a_cancelled_job_that_does_not_react_is_cancelled_all_the_same(
    queue_db, start_worker, journal, eventually, made
):
    job = int(made.enqueue().id)
    worker = start_worker("--timeout-grace", 1, "--shutdown-timeout", 1, options=LONG)
    eventually(lambda: journal.starts(), within=20)
    cancel([job])
    assert wait_for_exit(worker, 15) == RECYCLE
    assert Job.objects.get(pk=job).status == "CANCELLED"
    assert "did not react within 1 seconds" in Attempt.objects.get(job=job).message
    assert wait_for_exit(start_worker("--drain", options=LONG), 30) == 0
    assert journal.started()[job] == 1


# -- stop -----------------------------------------------------------------------------------------


@both
def test_g6_the_process_ends_soon_after_its_grace_stuck_thread_or_not(
    queue_db, start_worker, journal, eventually, number
):
    jobs = {int(work.enqueue(300).id), int(spins.enqueue().id), int(waits.enqueue().id)}
    worker = start_worker("--shutdown-timeout", 1, options=LONG)
    eventually(lambda: {line.job for line in journal.starts()} == jobs, within=20)
    worker.send_signal(number)
    began = time.monotonic()
    assert wait_for_exit(worker) == 0
    assert time.monotonic() - began < 3
    assert outcomes() == {"interrupted": 3}
    assert len(journal.lines("outer")) == 2
    assert list(Job.objects.in_line().values_list("attempts", "tries", "losses")) == [(1, 0, 0)] * 3
