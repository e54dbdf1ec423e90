"""Workers whose clocks are wrong: nothing depends on them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from django_jobqueue import enqueue_many
from django_jobqueue.models import Attempt, Job, Worker

from .conftest import outcomes, statuses, unfinished, wait_for_exit
from .tasks import work

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

DAYS = 86_400.0
MINUTES = 60.0


def skewed(seconds: float) -> dict[str, str]:
    return {"JOURNEY_SKEW": str(seconds), "DJANGO_SETTINGS_MODULE": "tests.journeys.skewed"}


@pytest.mark.parametrize("skew", [10 * MINUTES, -10 * MINUTES], ids=["fast", "slow"])
def test_g15_clock_skew_of_workers_changes_nothing(queue_db, start_worker, journal, eventually, skew):
    """A right and a wrong worker side by side, a job longer than the lease, a schedule, a retry's pause."""
    long = work.enqueue(5)
    start_worker("--threads", 1)
    eventually(journal.starts, within=20)
    start_worker("--threads", 2, **skewed(skew))
    eventually(lambda: Worker.objects.count() == 2, within=20)
    due = timezone.now() + timedelta(seconds=2)
    soon = work.using(run_after=due).enqueue()
    later = work.using(run_after=timedelta(minutes=5)).enqueue()
    enqueue_many([work.s(0.01) for _ in range(50)])
    eventually(lambda: unfinished() == 1, within=30)

    assert Job.objects.get(pk=later.id).is_scheduled
    assert outcomes() == {"succeeded": 52}  # nothing was lost, however long it took
    assert set(journal.started().values()) == {1}
    assert Attempt.objects.get(job=long.id).duration >= timedelta(seconds=5)
    assert Attempt.objects.get(job=soon.id).started_at >= due - timedelta(milliseconds=5)
    now = timezone.now()
    moments = [moment for times in Attempt.objects.values_list("started_at", "finished_at") for moment in times]
    moments += [moment for times in Worker.objects.values_list("started_at", "heartbeat_at") for moment in times]
    assert all(abs(now - moment) < timedelta(minutes=2) for moment in moments)
    assert set(Worker.objects.values_list("status", flat=True)) == {"RUNNING"}


def test_g15_a_dead_worker_is_found_by_one_with_a_slow_clock(queue_db, start_worker, journal, eventually):
    work.enqueue(3)
    victim = start_worker()
    eventually(journal.starts, within=20)
    victim.kill()
    start_worker(**skewed(-10 * MINUTES))
    eventually(lambda: not unfinished(), within=20)
    assert statuses() == {"SUCCESSFUL": 1}
    assert outcomes() == {"lost": 1, "succeeded": 1}


def test_g15_a_fast_clock_prunes_nothing_early(queue_db, start_worker, journal, eventually):
    enqueue_many([work.s() for _ in range(5)])
    assert wait_for_exit(start_worker("--drain", 0.5), 20) == 0
    code = "from django_jobqueue.lifecycle import prune; print(prune(7 * 86400))"
    process = start_worker("-v", 0, "-c", code, command="shell", **skewed(8 * DAYS))
    assert wait_for_exit(process, 20) == 0
    assert process.log.read_text().split() == ["0"]
    assert statuses() == {"SUCCESSFUL": 5}
