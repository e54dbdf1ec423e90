"""What a worker takes, in what order, and when it has had enough."""

from __future__ import annotations

from datetime import timedelta

import pytest

from django_jobqueue import enqueue_many
from django_jobqueue.lifecycle import pause, resume
from django_jobqueue.models import Attempt, Job, Queue

from .conftest import outcomes, statuses, unfinished, wait_for_exit
from .tasks import work

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


def drain(start_worker, *args):
    process = start_worker("--drain", 0.5, *args)
    assert wait_for_exit(process, 40) == 0
    return process


def enqueue(queue_name="default", priority=0, number=1):
    call = work.using(queue_name=queue_name, priority=priority)
    return [int(result.id) for result in enqueue_many([call.s() for _ in range(number)])]


def order(journal):
    return [line.job for line in journal.starts()]


def test_drain_ends_when_nothing_is_left_that_is_due_soon(queue_db, start_worker):
    soon = work.using(run_after=timedelta(seconds=1.5)).enqueue()
    later = work.using(run_after=timedelta(hours=1)).enqueue()
    enqueue(number=20)
    assert wait_for_exit(start_worker("--drain", 5), 30) == 0
    assert Job.objects.get(pk=soon.id).status == "SUCCESSFUL"
    assert Job.objects.get(pk=later.id).is_scheduled
    assert statuses() == {"SUCCESSFUL": 21, "READY": 1}


def test_drain_of_nothing_ends(queue_db, start_worker):
    drain(start_worker)


@pytest.mark.parametrize("most", [1, 7, 150])
def test_max_jobs_runs_so_many_and_no_more(queue_db, start_worker, most):
    enqueue(number=200)
    assert wait_for_exit(start_worker("--max-jobs", most), 30) == 0
    assert statuses() == {"SUCCESSFUL": most, "READY": 200 - most}
    assert outcomes() == {"succeeded": most}
    assert set(Job.objects.filter(status="READY").values_list("attempts", flat=True)) == {0}


def test_queues_are_served_in_the_order_given(queue_db, start_worker, journal):
    other = enqueue("other", priority=100)
    images = enqueue("images-small", number=2) + enqueue("images-large", number=2)
    mail = enqueue("mail", priority=-5, number=3)
    drain(start_worker, "--threads", 1, "--queues", "mail,images*")
    ran = order(journal)
    assert ran[:3] == mail
    assert sorted(ran[3:]) == sorted(images)
    assert Job.objects.get(pk=other[0]).status == "READY"


def test_larger_priorities_run_first_and_equal_ones_in_the_order_of_their_enqueueing(queue_db, start_worker, journal):
    middle, low, high = enqueue(priority=0, number=5), enqueue(priority=-100, number=5), enqueue(priority=100, number=5)
    drain(start_worker, "--threads", 1)
    assert order(journal) == high + middle + low


def test_g2_a_paused_queue_waits(queue_db, start_worker):
    enqueue("closed", number=3)
    enqueue("open", number=3)
    assert pause("closed")
    drain(start_worker)
    assert dict(Job.objects.values_list("queue_name", "status")) == {"closed": "READY", "open": "SUCCESSFUL"}
    assert resume("closed")
    drain(start_worker)
    assert statuses() == {"SUCCESSFUL": 6}
    assert set(Queue.objects.values_list("name", flat=True)) == {"open", "closed"}


def test_equal_queues_take_turns(queue_db, start_worker, journal, eventually):
    """A queue with many jobs lets one with few have its share."""
    crowd = [work.using(queue_name="a").s(0.1) for _ in range(150)]
    enqueue_many(crowd)
    few = [int(result.id) for result in enqueue_many([work.using(queue_name="b").s(0.1) for _ in range(5)])]
    start_worker("--threads", 2)
    eventually(lambda: Job.objects.filter(pk__in=few, status="SUCCESSFUL").count() == 5, within=20)
    assert unfinished() > 60


def test_g3_four_workers_claim_each_job_once(queue_db, start_worker, journal, eventually):
    number = 3000
    for start in range(0, number, 1000):
        enqueue_many([work.s() for _ in range(min(1000, number - start))])
    crew = [start_worker("--drain", 0.5, options={"LEASE": 60}) for _ in range(4)]
    assert [wait_for_exit(process, 60) for process in crew] == [0] * 4
    assert statuses() == {"SUCCESSFUL": number}
    assert set(journal.started().values()) == {1} and len(journal.started()) == number
    assert Attempt.objects.count() == number
    assert set(Attempt.objects.values_list("number", "outcome")) == {(1, "succeeded")}
    assert set(Job.objects.values_list("attempts", "tries", "losses", "fence", "worker")) == {(1, 1, 0, None, None)}


def test_g13_cancel_reaches_jobs_that_were_claimed_but_not_started(queue_db, start_worker, journal, eventually):
    from django_jobqueue.lifecycle import cancel

    enqueue_many([work.s(0.01) for _ in range(20)])
    enqueue_many([work.s(1.2) for _ in range(4)])
    start_worker("--threads", 1)
    eventually(lambda: Job.objects.running().count() > 1 and len(journal.starts()) > 20, within=20, every=0.01)
    last = Job.objects.order_by("-pk").values_list("pk", flat=True)[0]
    cancel([last])
    eventually(lambda: not unfinished(), within=30)
    assert Job.objects.get(pk=last).status == "CANCELLED"
    assert last not in journal.started()
