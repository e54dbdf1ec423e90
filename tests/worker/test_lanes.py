"""Lanes: when the claimer looks, and where a claim begins."""

import time
from datetime import timedelta

import pytest
from django.db.models.functions import Now

from django_jobqueue import enqueue_many
from django_jobqueue.dialects import Lane
from django_jobqueue.lifecycle import QueueSelector, claim, release
from django_jobqueue.models import Job, Queue
from django_jobqueue.worker import lanes as module
from django_jobqueue.worker.lanes import Lanes

from ..lifecycle.steps import USING, enqueue, worker
from ..tasks import noop

pytestmark = pytest.mark.django_db

DEFAULT = Lane("default", 0)
#: Seconds until a moment of the monotonic clock are not exact to the last digit.
ROUNDING = 0.001


def make(queues: str = "") -> Lanes:
    return Lanes(QueueSelector.parse(queues), USING)


def take(lanes: Lanes, limit: int = 1) -> list[Job]:
    """A claim as the claimer makes it."""
    lanes.refresh()
    jobs = claim(lanes.order, limit, worker().pk, USING, floors=lanes.floors)
    lanes.learn(jobs, limit, 0.0)
    return jobs


@pytest.fixture
def no_look(monkeypatch):
    def look(using):
        raise AssertionError("it looked")

    monkeypatch.setattr(module, "peek", look)


def test_the_first_thing_is_a_look():
    enqueue(noop.using(queue_name="mail", priority=3))
    lanes = make()
    assert lanes.seconds_to_look() <= 0
    lanes.refresh()
    assert lanes.order == [Lane("mail", 3)]
    assert Queue.objects.filter(name="mail").exists()


def test_the_next_claim_begins_where_the_last_has_ended(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 1000)
    jobs = [enqueue() for _ in range(6)]
    Job.objects.update(place=100)
    for number, job in enumerate(jobs):
        Job.objects.filter(pk=job.pk).update(place=100 + number)
    lanes = make()
    first = take(lanes, 2)
    assert lanes.floors == [101]
    release(first, USING)
    assert [job.place for job in take(lanes, 3)] == [101, 102, 103], "what came back below is not seen yet"


def test_g2_what_came_back_below_the_floor_is_found_by_the_next_look(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0)
    monkeypatch.setattr(module, "SHARE", 0)
    enqueue_many([noop.s() for _ in range(6)])
    lanes = make()
    first = take(lanes, 2)
    release(first, USING)
    assert [job.pk for job in take(lanes, 3)][:2] == [job.pk for job in first]


def test_a_lane_that_is_told_is_claimed_from_without_a_look(monkeypatch):
    lanes = make()
    assert take(lanes) == []
    monkeypatch.setattr(module, "peek", None)
    job = enqueue()
    lanes.tell([DEFAULT])
    assert [found.pk for found in take(lanes)] == [job.pk]


def test_after_what_was_told_it_looks_for_more():
    lanes = make()
    take(lanes)
    lanes.tell([DEFAULT])
    lanes._not_before = 0.0
    take(lanes)
    assert lanes.seconds_to_look() <= 0


def test_told_lanes_are_put_in_their_order(no_look):
    lanes = make("urgent,*")
    lanes.tell([Lane("a", 5), Lane("urgent", -5)])
    lanes.tell([Lane("a", 9)])
    lanes.refresh()
    assert lanes.order == [Lane("urgent", -5), Lane("a", 9), Lane("a", 5)]


def test_to_be_told_that_there_is_something_somewhere_means_to_look():
    lanes = make()
    lanes.look()
    lanes._not_before = 0.0
    assert lanes.seconds_to_look(lambda: 5.0) > 4
    lanes.tell(())
    assert lanes.seconds_to_look(lambda: 5.0) <= 0


def test_a_look_that_nobody_asked_for_waits_as_long_as_it_is_told_to():
    lanes = make()
    lanes.look()
    assert 4 < lanes.seconds_to_look(lambda: 5.0) < 5 + ROUNDING
    assert lanes.seconds_to_look(lambda: 9.0) < 5 + ROUNDING, "once it is decided, it holds until the look"


def test_g14_looks_take_little_of_the_time_however_long_one_takes(monkeypatch):
    peek = module.peek
    enqueue()

    def slow(using):
        time.sleep(0.05)
        return peek(using)

    monkeypatch.setattr(module, "peek", slow)
    lanes = make()
    lanes.refresh()
    lanes.learn([Job(place=1, queue_name="default")], 1, 0.1)  # the claim without a floor is part of the look
    assert 0.15 * (module.SHARE - 1) < lanes.seconds_to_look() < 1.0 * module.SHARE
    lanes.tell(())
    assert 0 < lanes.seconds_to_look() < module.PATIENCE + ROUNDING, "there may be something to find"


def test_one_look_that_was_held_up_does_not_put_off_the_next(monkeypatch):
    peek = module.peek
    delays = [0.0, 0.3]

    def held_up(using):
        time.sleep(delays.pop(0))
        return peek(using)

    monkeypatch.setattr(module, "peek", held_up)
    enqueue()
    lanes = make()
    lanes.look()
    quick = lanes.seconds_to_look()
    lanes.look()
    lanes.learn([Job(place=1, queue_name="default")], 1, 0.3)
    assert lanes.seconds_to_look() < quick + 0.5


def test_it_looks_when_the_next_scheduled_job_is_due():
    job = enqueue(noop.using(run_after=timedelta(seconds=60)))
    lanes = make()
    lanes.look()
    assert lanes.order == []
    assert 50 < lanes.seconds_to_look(lambda: 1000.0) <= 61
    Job.objects.filter(pk=job.pk).update(run_after=Now() - timedelta(seconds=1))
    lanes.look()
    assert lanes.order == [DEFAULT] and Job.objects.in_line().count() == 1


def test_a_paused_queue_is_left_alone_also_when_its_lane_is_told():
    Queue.objects.create(name="default", paused_at=Now())
    enqueue()
    lanes = make()
    lanes.look()
    assert lanes.order == []
    lanes.tell([DEFAULT])
    assert take(lanes) == []


def test_g2_where_jobs_come_without_end_it_looks_all_the_same(monkeypatch):
    """Else it would never see what has become due, nor what has come back below the floor."""
    looks = []
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    peek = module.peek
    monkeypatch.setattr(module, "peek", lambda using: looks.append(1) or peek(using))
    lanes = make()
    for _ in range(10):
        enqueue()
        lanes.tell([DEFAULT])
        take(lanes)
    assert len(looks) >= 3


def test_a_queue_that_was_only_told_of_is_noted_all_the_same():
    lanes = make()
    lanes.look()
    lanes.tell([Lane("fresh", 0)])
    lanes.refresh()
    assert Queue.objects.filter(name="fresh").exists()


def test_what_is_due_does_not_wait_for_a_slow_claim_to_be_worth_it():
    enqueue()
    enqueue(noop.using(run_after=timedelta(seconds=0.01)))
    lanes = make()
    lanes.look()
    lanes.learn([Job(place=1, queue_name="default")], 1, 60.0)
    lanes._due_at = time.monotonic()
    assert lanes.seconds_to_look() < module.PATIENCE + ROUNDING
