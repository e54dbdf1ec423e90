"""Workers killed at random moments: nothing is lost, and nothing runs twice at a time."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from itertools import pairwise

import pytest

from django_jobqueue import enqueue_many
from django_jobqueue.models import Attempt, Job

from .conftest import is_working, outcomes, statuses
from .tasks import work

JOBS = int(os.environ.get("JOURNEY_JOBS", "1500"))
WORKERS = 4
#: How long a job takes; together with the number of jobs, how many kills there is time for.
LONGEST = 0.15


def enqueue(number: int, longest: float = LONGEST) -> None:
    dice = random.Random(number)
    calls = [work.s(round(dice.choice([0, 0, 1, 2]) * longest / 2, 3)) for _ in range(number)]
    for start in range(0, number, 1000):
        enqueue_many(calls[start : start + 1000])


@pytest.fixture(scope="module")
def seed() -> int:
    return int(os.environ.get("JOURNEY_SEED", random.randrange(10**6)))


@pytest.mark.processes
@pytest.mark.core
@pytest.mark.timeout(900)
def test_g2_g3_no_job_is_lost_or_run_twice_at_a_time_under_kill_9(queue_db, start_worker, journal, eventually, seed):
    print(f"JOURNEY_SEED={seed}")  # noqa: T201
    dice, kills, began = random.Random(seed), 0, time.monotonic()
    enqueue(JOBS)
    crew = [start_worker() for _ in range(WORKERS)]
    deadline = time.monotonic() + 60 + JOBS * 0.05
    while Job.objects.unfinished().exists():
        assert time.monotonic() < deadline, f"{statuses()} after {kills} kills"
        time.sleep(dice.uniform(0.1, 0.9))
        # the others must have a chance to reap: a crew that dies faster than its lease proves nothing
        if Job.objects.in_line().exists() or dice.random() < 0.2:
            victim = dice.randrange(WORKERS)
            crew[victim].kill()
            crew[victim].wait()
            crew[victim] = start_worker()
            kills += 1
    took = time.monotonic() - began
    print(f"{JOBS} jobs, {kills} kills, {took:.1f} s: {statuses()} {outcomes()}")  # noqa: T201
    for process in crew:
        eventually(lambda process=process: is_working(process))
        process.terminate()
    assert [process.wait(30) for process in crew] == [0] * WORKERS

    check_story(journal)
    assert kills >= 3


def check_story(journal) -> None:
    """Every job succeeded, every attempt is explained, and no two of one job overlapped."""
    failed = list(Job.objects.exclude(status="SUCCESSFUL").values_list("pk", "status", "attempts", "losses")[:5])
    assert not failed, f"{statuses()}: {failed}"
    assert set(journal.started()) == set(Job.objects.values_list("pk", flat=True))

    attempts: dict[int, list[Attempt]] = {}
    for attempt in Attempt.objects.order_by("job_id", "number"):
        attempts.setdefault(attempt.job_id, []).append(attempt)
    losses = dict(Job.objects.values_list("pk", "losses"))
    for job, tries in attempts.items():
        assert [attempt.number for attempt in tries] == list(range(1, len(tries) + 1)), tries
        assert tries[-1].outcome == "succeeded", tries
        assert {attempt.outcome for attempt in tries[:-1]} <= {"lost", "interrupted"}, tries
        assert sum(attempt.outcome == "lost" for attempt in tries) == losses[job], tries
        for before, after in pairwise(tries):
            assert after.started_at >= before.finished_at, (before, after)

    # The same from the tasks' side: one start for each attempt, and none before its predecessor was given up.
    # SQLite knows milliseconds only.
    starts = journal.starts()
    twice = [key for key, number in Counter((line.job, line.attempt) for line in starts).items() if number > 1]
    assert not twice
    ended = {(a.job_id, a.number): a for tries in attempts.values() for a in tries}
    for line in starts:
        assert ended[line.job, line.attempt].worker_id == line.worker
        if line.attempt > 1:
            assert line.time >= ended[line.job, line.attempt - 1].finished_at.timestamp() - 0.002, line
