"""A worker that stalls for longer than its lease comes back as a stranger."""

from __future__ import annotations

import pytest

from django_jobqueue import enqueue_many
from django_jobqueue.models import Attempt, Job, Worker

from .conftest import outcomes, statuses, stopped, unfinished, wait_for_exit
from .tasks import async_work, work

pytestmark = [pytest.mark.processes, pytest.mark.core, pytest.mark.timeout(120)]


@pytest.mark.parametrize(
    "task", [pytest.param(work, id="sync"), pytest.param(async_work, id="async", marks=pytest.mark.once)]
)
def test_g4_zombie_writes_nothing(queue_db, start_worker, journal, eventually, task):
    job = task.enqueue(1.0)
    zombie = start_worker()
    eventually(journal.starts, within=20)
    first = Worker.objects.get()
    with stopped(zombie):
        other = start_worker()
        eventually(lambda: not unfinished(), within=25)
        before = Job.objects.values().get(pk=job.id), list(Attempt.objects.order_by("number").values())
        assert [attempt["outcome"] for attempt in before[1]] == ["lost", "succeeded"]
    # It has a new number. Its run of the task has ended by itself or was interrupted, whichever came first.
    eventually(lambda: Worker.objects.filter(pid=zombie.pid).count() == 2, within=10)
    zombie.terminate()
    assert wait_for_exit(zombie) == 0  # by now it has written all that it had to write
    assert before == (Job.objects.values().get(pk=job.id), list(Attempt.objects.order_by("number").values()))
    first.refresh_from_db()
    assert first.status == "LOST"
    other.terminate()
    wait_for_exit(other)


def test_g3_zombie_starts_none_of_the_jobs_it_has_lost(queue_db, start_worker, journal, eventually):
    """What it had claimed ahead belongs to others: it must see that before it starts them, not after."""
    enqueue_many([work.s(0.02) for _ in range(400)])
    zombie = start_worker("--threads", 1)
    eventually(lambda: Job.objects.running().count() > 4, within=20, every=0.005)
    # In the middle of a job: between its look at the lease and the first line of a task nothing holds it back.
    with stopped(zombie, when=lambda: len(journal.starts()) > len(journal.lines("end"))):
        start_worker("--threads", 4)
        eventually(lambda: not unfinished(), within=40)
        in_hand = Attempt.objects.filter(outcome="lost").count()
        starts = len(journal.starts())
    eventually(lambda: Worker.objects.filter(pid=zombie.pid).count() == 2, within=10)
    fresh = work.enqueue()
    eventually(lambda: Job.objects.get(pk=fresh.id).status == "SUCCESSFUL", within=10)
    zombie.terminate()
    assert wait_for_exit(zombie) == 0
    late = [line for line in journal.starts()[starts:] if line.job != int(fresh.id)]
    assert len(late) == 0, f"{len(late)} of {in_hand} lost jobs were started after all"
    assert set(statuses()) == {"SUCCESSFUL"}


def test_g4_a_woken_zombie_goes_on_under_a_new_number(queue_db, start_worker, journal, eventually):
    zombie = start_worker()
    eventually(Worker.objects.exists, within=20)
    with stopped(zombie):
        other = start_worker()
        eventually(lambda: Worker.objects.filter(status="LOST").exists(), within=20)
        other.terminate()
        assert wait_for_exit(other) == 0
    eventually(lambda: Worker.objects.filter(pid=zombie.pid).count() == 2, within=10)
    new = Worker.objects.filter(pid=zombie.pid).latest("pk")
    enqueue_many([work.s() for _ in range(20)])
    eventually(lambda: not unfinished(), within=10)
    assert statuses() == {"SUCCESSFUL": 20}
    assert outcomes() == {"succeeded": 20}
    assert {line.worker for line in journal.starts()} == {new.pk}
