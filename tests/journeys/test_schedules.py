"""Schedules and many workers, some of which are killed: each tick is enqueued once."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from django_jobqueue.models import Attempt, Job, Schedule, Worker

from .conftest import wait_for_exit

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

WORKERS = 4
SECOND = timedelta(seconds=1)
EACH_SECOND = ["tests.journeys.scheduled.tasks.second", "cron 0", "cron 1", "cron 2"]


@pytest.fixture
def start(start_worker) -> Callable:
    """A worker of a project with schedules; its lease is not what is tested here."""

    def start(*args: object):
        settings = "tests.journeys.scheduled.settings"
        return start_worker("--threads", 1, *args, options={"LEASE": 60}, DJANGO_SETTINGS_MODULE=settings)

    return start


def ticks(name: str) -> list[datetime]:
    rows = Job.objects.order_by("pk").values_list("options", flat=True)
    return [datetime.fromisoformat(told["scheduled_for"]) for told in rows if told["schedule"] == name]


def delays(names) -> list[float]:
    rows = Job.objects.order_by("pk").values_list("options", "enqueued_at")
    return [
        (at - datetime.fromisoformat(told["scheduled_for"])).total_seconds()
        for told, at in rows
        if told["schedule"] in names
    ]


def check_that_none_is_missing_or_there_twice(names=EACH_SECOND) -> None:
    for name in names:
        found = ticks(name)
        assert len(found) > 5, name
        gaps = {later - earlier for earlier, later in itertools.pairwise(found)}
        assert gaps == {SECOND}, (name, sorted(gaps))


def test_g12_each_tick_is_enqueued_once_by_many_workers_of_which_some_are_killed(queue_db, start, eventually):
    workers = [start() for _ in range(WORKERS)]
    eventually(lambda: Worker.objects.count() == WORKERS and len(ticks("cron 0")) >= 3, within=60)
    killed = 0
    for victim in random.sample(workers, WORKERS - 1):
        seen = len(ticks("cron 0"))
        victim.kill()
        victim.wait()
        killed += 1
        start()
        eventually(lambda seen=seen: len(ticks("cron 0")) >= seen + 3, within=60)
    assert killed == WORKERS - 1
    check_that_none_is_missing_or_there_twice()
    assert Schedule.objects.count() == len(EACH_SECOND) + 1


def test_g12_what_was_missed_while_all_workers_were_dead_is_made_up_for_once(queue_db, start, eventually):
    workers = [start() for _ in range(2)]
    eventually(lambda: all(len(ticks(name)) >= 3 for name in EACH_SECOND), within=60)
    for worker in workers:
        worker.kill()
        worker.wait()
    gone_at = max(ticks("cron 0"))
    eventually(lambda: datetime.now(UTC) - gone_at > 8 * SECOND, within=20)
    for _ in range(WORKERS):
        start()
    eventually(lambda: all(max(ticks(name)) - gone_at > 12 * SECOND for name in EACH_SECOND), within=60)
    check_that_none_is_missing_or_there_twice()


def test_g12_another_worker_enqueues_the_next_tick_when_one_dies(queue_db, start, eventually):
    """Nobody leads, so that nobody has to be elected: the death of a worker delays no tick by as much as a period."""
    workers = [start() for _ in range(3)]
    eventually(lambda: Worker.objects.count() == 3 and len(ticks("cron 0")) >= 3, within=60)
    time.sleep(random.random())
    before = len(delays(EACH_SECOND))
    for victim in workers[:2]:
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
    eventually(lambda: len(delays(EACH_SECOND)) >= before + 12, within=60)
    late = delays(EACH_SECOND)[before:]
    assert sorted(late)[len(late) // 2] < 1.0, late
    check_that_none_is_missing_or_there_twice(["cron 0"])


def test_a_job_that_waits_behind_the_last_one_never_runs_beside_it(queue_db, start, eventually):
    for _ in range(2):
        start()
    jobs = Job.objects.filter(task_path="tests.journeys.scheduled.tasks.long", status="SUCCESSFUL")
    eventually(lambda: jobs.count() >= 4, within=60)
    spans = Attempt.objects.filter(job__in=jobs).order_by("started_at").values_list("started_at", "finished_at")
    assert all(later[0] >= earlier[1] for earlier, later in itertools.pairwise(spans))
    assert all(
        datetime.fromisoformat(job.result) == datetime.fromisoformat(job.options["scheduled_for"]) for job in jobs
    )


def test_a_worker_that_drains_leaves_schedules_alone(queue_db, start):
    assert wait_for_exit(start("--drain"), 60) == 0
    assert not Schedule.objects.exists() and not Job.objects.exists()
