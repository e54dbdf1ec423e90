"""Workers that hang, or that cannot end for what their jobs have left: they are gone in time, and replaced."""

from __future__ import annotations

import os
import re
import time

import pytest

from django_jobqueue import enqueue_many
from django_jobqueue.models import Attempt, Job, Worker

from .conftest import outcomes, statuses, unfinished, wait_for_exit
from .process_tasks import holds_interpreter, leaves_thread, to_thread
from .tasks import async_work, work

pytestmark = [pytest.mark.processes, pytest.mark.once, pytest.mark.timeout(120)]


@pytest.mark.parametrize("kind", ["thread", "pool", "processes"])
def test_g6_an_end_does_not_wait_for_threads_that_jobs_have_left(queue_db, start_worker, journal, eventually, kind):
    leaves_thread.enqueue(kind)
    worker = start_worker("--shutdown-timeout", 1, options={"LEASE": 60})
    eventually(lambda: not unfinished(), within=20)
    worker.terminate()
    assert wait_for_exit(worker, 8) == 0
    assert Worker.objects.get().status == "STOPPED"
    if kind != "processes":
        assert re.search(r"threads that jobs have left: \w*(Thread|ThreadPoolExecutor)-\w", worker.log.read_text())


def test_g6_an_interrupted_async_job_holds_up_neither_the_end_nor_other_jobs(
    queue_db, start_worker, journal, eventually
):
    job = to_thread.enqueue(60)
    worker = start_worker("--shutdown-timeout", 0.5, options={"LEASE": 60})
    eventually(lambda: Job.objects.running().exists(), within=20)
    async_work.enqueue()
    eventually(lambda: statuses() == {"RUNNING": 1, "SUCCESSFUL": 1})
    worker.terminate()
    began = time.monotonic()
    assert wait_for_exit(worker, 10) == 0
    assert time.monotonic() - began < 8
    assert "threads that jobs have left: asyncio_0." in worker.log.read_text()
    assert Job.objects.get(pk=job.id).status == "READY" and outcomes() == {"interrupted": 1, "succeeded": 1}


def test_g2_a_worker_that_has_run_its_max_jobs_is_replaced_whatever_they_have_left(
    queue_db, start_worker, journal, eventually
):
    enqueue_many([leaves_thread.s(kind) for kind in ("thread", "pool", "thread")])
    supervisor = start_worker("--processes", 2, "--threads", 1, "--max-jobs", 1, options={"LEASE": 60})
    eventually(lambda: not unfinished() and Worker.objects.count() >= 4, within=40)
    assert statuses() == {"SUCCESSFUL": 3}
    supervisor.terminate()
    assert wait_for_exit(supervisor) == 0
    assert "is killed" not in supervisor.log.read_text()


# -- workers that are not heard of ----------------------------------------------------------------


def test_g2_a_job_that_holds_the_interpreter_costs_its_worker_not_the_queue(
    queue_db, start_worker, journal, eventually
):
    """No time limit, and no heartbeat, gets a turn in there. The supervisor does."""
    supervisor = start_worker("--processes", 2, "--threads", 1, options={"LEASE": 2})
    eventually(lambda: Worker.objects.count() == 2, within=30)
    job = holds_interpreter.enqueue()
    eventually(lambda: journal.starts(), within=20)
    (holder,) = {line.pid for line in journal.starts()}
    eventually(lambda: not os.path.exists(f"/proc/{holder}"), within=30)
    work.enqueue()
    eventually(lambda: "SUCCESSFUL" in statuses(), within=20)
    assert "has not been heard of" in supervisor.log.read_text()
    assert Attempt.objects.filter(job_id=job.id).values_list("outcome", flat=True)[0] == "lost"
    supervisor.terminate()
    supervisor.terminate()
    wait_for_exit(supervisor)
