"""A job that kills its worker ends FAILED, and takes no other job with it."""

from __future__ import annotations

import pytest

from django_jobqueue import enqueue_many
from django_jobqueue.models import Attempt, Job

from .conftest import statuses, unfinished
from .tasks import exit_worker, kill_worker, work

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

NEIGHBOURS = 200


@pytest.mark.parametrize(
    "poison",
    [pytest.param(kill_worker, id="kill -9"), pytest.param(exit_worker, id="os._exit", marks=pytest.mark.once)],
)
def test_g7_poison_job_ends_failed_and_takes_no_neighbour(queue_db, start_worker, journal, eventually, poison):
    good = [work.s(0.001) for _ in range(NEIGHBOURS)]
    results = enqueue_many([*good[: NEIGHBOURS // 2], poison.s(), *good[NEIGHBOURS // 2 :]])
    bad = int(results[NEIGHBOURS // 2].id)
    keeper = [start_worker(options={"LEASE": 1.0})]

    def ended() -> bool:
        if keeper[-1].poll() is not None:
            keeper.append(start_worker(options={"LEASE": 1.0}))
        return not unfinished()

    eventually(ended, within=100, every=0.05)

    poisoned = Job.objects.get(pk=bad)
    assert poisoned.status == "FAILED"
    last = Attempt.objects.filter(job=bad).order_by("number").last()
    assert last.outcome == "lost"
    assert "vanished" in last.message and "failed" in last.message
    assert last.exception_class_path == "django_jobqueue.exceptions.JobLost"
    neighbours = Job.objects.exclude(pk=bad)
    assert set(neighbours.values_list("status", flat=True)) == {"SUCCESSFUL"}, statuses()
    assert set(neighbours.values_list("max_attempts", "tries")) == {(1, 1)}
    # it was alone when it took its last workers along
    assert journal.started()[bad] == poisoned.losses
    assert len(keeper) == poisoned.losses + 1


def test_g7_a_suspect_does_not_stop_the_queue_behind_long_jobs(queue_db, start_worker, eventually):
    """A job that has to run alone waits for that; the others must not wait with it for as long as the longest job."""
    suspect = work.enqueue()
    Job.objects.filter(pk=suspect.id).update(place=-1, losses=2)
    work.enqueue(30)
    start_worker("--threads", 2)
    eventually(lambda: Job.objects.running().exists() or None, within=10)
    for _ in range(32):  # longer than the pause after which the worker tries again to let the suspect run
        work.enqueue(0.3)
    eventually(lambda: Job.objects.filter(status="SUCCESSFUL").count() >= 30, within=20)
