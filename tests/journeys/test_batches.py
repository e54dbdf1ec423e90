"""Chains and groups under several workers, of which some are killed: each step comes once, after its predecessors."""

from __future__ import annotations

import os
import random
import time
from datetime import timedelta

import pytest

from django_jobqueue import chain, group
from django_jobqueue.models import Dependency, Job

from . import batch_tasks as tasks
from .conftest import statuses

SCALE = int(os.environ.get("JOURNEY_SCALE", "1"))
WORKERS = 4


#: A job's times count from when the database claimed it, by the worker's clock from when the answer was there: so they
#: are early by as long as the answer took.
READ_LATE = timedelta(seconds=0.5)


def check_order() -> None:
    """Nobody began before what it waited for had ended, and everybody knows what that came to."""
    jobs = {job.pk: job for job in Job.objects.only("pk", "status", "started_at", "finished_at")}
    assert not Dependency.objects.filter(status__isnull=True).exists()
    for on_id, job_id, status in Dependency.objects.values_list("on_id", "job_id", "status"):
        on, job = jobs[on_id], jobs[job_id]
        assert on.status == status
        assert job.started_at > on.finished_at - READ_LATE, (on_id, job_id)
    assert not Job.objects.filter(has_dependents=True).exists()


def wait_until_done(chaos=lambda: None, seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while Job.objects.unfinished().exists():
        assert time.monotonic() < deadline, statuses()
        chaos()
        time.sleep(0.1)


@pytest.mark.processes
@pytest.mark.timeout(900)
def test_g17_chains_lose_and_repeat_no_step_under_kill_9(queue_db, start_worker):
    dice = random.Random(17)
    chains = [
        chain(
            tasks.first.s(number),
            tasks.link.s(1),
            tasks.alink.s(2),
            group(tasks.link.s(3), tasks.link.s(4)),
            tasks.gather_lists.s(),
        ).enqueue()
        for number in range(40 * SCALE)
    ]
    crew = [start_worker() for _ in range(WORKERS)]
    kills = 0
    killed_at = time.monotonic()

    def kill_one() -> None:
        nonlocal kills, killed_at
        if time.monotonic() - killed_at < 0.4:
            return
        victim = dice.randrange(WORKERS)
        crew[victim].kill()
        crew[victim].wait()
        crew[victim] = start_worker()
        kills, killed_at = kills + 1, time.monotonic()

    wait_until_done(kill_one)
    print(f"{len(chains)} chains, {kills} kills: {statuses()}")  # noqa: T201
    assert statuses() == {"SUCCESSFUL": 240 * SCALE}
    results = {job.pk: job.result for job in Job.objects.filter(task_path__endswith="gather_lists")}
    for number, enqueued in enumerate(chains):
        assert results[int(enqueued[-1].id)] == [[number, 1, 2, 3], [number, 1, 2, 4]]
    check_order()
    assert kills >= 2


@pytest.mark.processes
@pytest.mark.timeout(900)
def test_g17_a_group_of_thousands_has_one_end(queue_db, start_worker):
    size = 3000 * SCALE
    enqueued = group(*(tasks.member.s(number) for number in range(size))).then(tasks.gather.s()).enqueue()
    for _ in range(WORKERS):
        start_worker("--threads", 8)
    wait_until_done()
    last = Job.objects.get(pk=enqueued[-1].id)
    assert (last.status, last.result, last.attempts) == ("SUCCESSFUL", sum(range(size)), 1)
    assert last.args == [list(range(size))]
    check_order()


@pytest.mark.processes
@pytest.mark.timeout(900)
def test_g17_a_batch_that_grows_in_all_workers_has_one_end(queue_db, start_worker):
    depth = 5
    enqueued = group(*(tasks.grow.s(depth) for _ in range(4))).then(tasks.gather.s()).enqueue()
    for _ in range(WORKERS):
        start_worker("--threads", 4, options={"LEASE": 30})  # a lost job would grow twice
    wait_until_done()
    size = 4 * (2 ** (depth + 1) - 1)
    assert Job.objects.count() == size + 1
    assert Job.objects.get(pk=enqueued[-1].id).result == size
    check_order()
