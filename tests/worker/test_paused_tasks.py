"""Paused tasks: none of their jobs is claimed, others are, and however many are in the way, it costs little."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import connection, connections
from django.db.backends.utils import CursorWrapper

from django_jobqueue import enqueue_many
from django_jobqueue.dialects import ANY, Lane
from django_jobqueue.dialects.postgresql import PostgreSQL
from django_jobqueue.lifecycle import QueueSelector, claim, pause, release, resume
from django_jobqueue.models import Job
from django_jobqueue.worker import lanes as module
from django_jobqueue.worker.lanes import Lanes

from ..dialects.test_plans import fill
from ..lifecycle.steps import USING, enqueue, fresh, tick, worker
from ..models import Effect
from ..tasks import add, effect, noop
from .workers import drain, make_worker, working

DEFAULT = Lane("default", 0)


@pytest.fixture(autouse=True)
def database(queue_db):
    pass


def make() -> Lanes:
    return Lanes(QueueSelector(), USING)


def take(lanes: Lanes, limit: int = 1, took: float = 0.0) -> list[Job]:
    """A claim as the claimer makes it."""
    lanes.refresh()
    jobs = claim(lanes.order, limit, worker().pk, USING, floors=lanes.floors, only=lanes.only)
    lanes.learn(jobs, limit, took)
    return jobs


def names() -> list[str]:
    return list(Effect.objects.order_by("pk").values_list("name", flat=True))


# -- what is claimed ------------------------------------------------------------------------------


def test_no_job_of_a_paused_task_is_claimed_and_the_others_are():
    paused, other = enqueue(), enqueue(add, 1, 2)
    pause(task=noop)
    assert [job.pk for job in take(make(), 5)] == [other.pk]
    resume(task=noop)
    assert [job.pk for job in take(make(), 5)] == [paused.pk]


def test_while_nothing_is_paused_the_claim_is_what_it_was():
    enqueue()
    lanes = make()
    lanes.look()
    assert lanes.only is ANY
    pause(task=noop)
    lanes.look()
    assert lanes.only is not ANY
    resume(task=noop)
    lanes.look()
    assert lanes.only is ANY


def test_a_project_that_narrows_claims_still_does_while_a_task_is_paused():
    enqueue_many([noop.s(), add.s(1, 2), add.using(priority=5).s(1, 2)])
    pause(task=noop)
    lanes = make()
    lanes.narrow = lambda jobs: jobs.filter(priority=0)
    assert [(job.task_path, job.priority) for job in take(lanes, 5)] == [(add.module_path, 0)]
    resume(task=noop)
    lanes.look()
    assert [job.task_path for job in take(lanes, 5)] == [noop.module_path]


def test_a_busy_worker_learns_of_a_pause_within_a_second_however_long_a_look_takes():
    enqueue_many([noop.s() for _ in range(9)])
    lanes = make()
    assert len(take(lanes)) == 1
    lanes._not_before = time.monotonic() + 100
    pause(task=noop)
    assert len(take(lanes)) == 1, "not in each claim"
    lanes._asked_at -= module.PATIENCE
    assert take(lanes) == []


def test_an_idle_worker_knows_what_is_paused_before_it_is_told_of_a_job():
    """It claims from the lane that it is told of without another look."""
    pause(task=noop)
    lanes = make()
    lanes.look()
    assert lanes.order == [] and lanes.paused == (noop.module_path,)
    enqueue()
    lanes.tell([DEFAULT])
    assert take(lanes) == []


def test_a_worker_that_runs_obeys_and_goes_on_with_the_others(eventually):
    with working(threads=1) as boss:
        effect.enqueue("before")
        eventually(lambda: names() == ["before"])
        pause(task=effect)
        eventually(lambda: boss.claimer.lanes.paused)
        effect.enqueue("paused")
        noop.enqueue()
        eventually(lambda: Job.objects.filter(status="SUCCESSFUL").count() == 2)
        assert names() == ["before"]
        resume(task=effect)
        eventually(lambda: names() == ["before", "paused"], within=5)


def test_a_job_of_a_paused_task_that_was_put_off_comes_due_and_waits():
    pause(task=noop)
    job = enqueue()
    Job.objects.update(place=None, run_after="2020-01-01T00:00Z")
    assert take(make()) == []
    assert not fresh(job).is_scheduled


# -- the end of a drain ---------------------------------------------------------------------------


def test_a_drain_ends_when_only_paused_jobs_are_left_and_says_so(caplog):
    enqueue_many([effect.s("a"), noop.s(), effect.s("b"), noop.using(queue_name="mail").s()])
    pause(task=noop)
    pause("mail")
    drain(0)
    assert sorted(names()) == ["a", "b"]
    assert "queue mail, task tests.tasks.noop" in caplog.text


def test_a_drain_of_what_is_not_paused_says_nothing(caplog):
    pause(task=noop)
    effect.enqueue("a")
    drain(0)
    assert names() == ["a"] and "paused" not in caplog.text


def test_a_drain_overlooks_nothing_below_a_floor(monkeypatch):
    """What came back in line in front of the paused jobs."""
    monkeypatch.setattr(module, "SHARE", 10**6)
    back, _, _ = enqueue(add, 1, 2), enqueue(), enqueue(add, 1, 2)
    pause(task=noop)
    boss = make_worker(drain=0)
    lanes = boss.claimer.lanes
    first = take(lanes, 2, took=0.1)
    assert len(first) == 2 and take(lanes, 2) == []
    release(first, USING)
    boss._sign_off()
    assert boss.run()
    assert fresh(back).status == "SUCCESSFUL"


# -- what it costs --------------------------------------------------------------------------------


def test_what_is_paused_is_read_over_once_and_not_in_each_claim(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0)
    monkeypatch.setattr(module, "PATIENCE", 0)
    enqueue_many([noop.s() for _ in range(20)])
    tick()
    enqueue_many([add.s(1, 2) for _ in range(20)])
    place = Job.objects.filter(task_path=add.module_path).order_by("place").first().place
    pause(task=noop)
    lanes = make()
    take(lanes, 2, took=1.0)
    for _ in range(5):
        lanes.look()
        assert min(lanes.floors) >= place
        take(lanes, 2)
    assert lanes._front_at > time.monotonic() + 0.5 * module.SHARE


def test_g2_the_front_is_read_again_when_that_takes_little_of_the_time(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0)
    monkeypatch.setattr(module, "SHARE", 1)
    first = enqueue(add, 1, 2)
    tick()
    enqueue(), enqueue(add, 1, 2)
    pause(task=noop)
    lanes = make()
    jobs = take(lanes, 1, took=0.3)
    take(lanes, 1)
    release(jobs, USING)
    lanes.look()
    assert take(lanes, 2) == [], "it is below the floor"
    time.sleep(0.35)
    lanes.look()
    assert take(lanes, 2)[0].pk == first.pk


def test_g2_many_lanes_do_not_put_the_front_off_for_ever(monkeypatch):
    """The last lane is not reached while the first ones have enough: each counts once, and not with each claim."""
    monkeypatch.setattr(module, "INTERVAL", 0)
    enqueue_many([add.using(priority=9).s(1, 2) for _ in range(30)])
    enqueue_many([noop.s(), add.s(1, 2)])
    pause(task=noop)
    lanes = make()
    assert len(take(lanes, 2, took=0.01)) == 2
    at = lanes._front_at
    for _ in range(5):
        assert len(take(lanes, 2, took=0.01)) == 2
    assert lanes._front_at == at


def test_a_lane_that_is_passed_over_on_the_way_to_another_has_a_floor_too(monkeypatch):
    enqueue_many([noop.using(priority=9).s(), *[add.s(1, 2)] * 9])
    pause(task=noop)
    lanes = make()
    assert len(take(lanes, 2)) == 2
    assert min(lanes.floors) > 0


def test_a_changed_pause_begins_at_the_front(monkeypatch):
    first = enqueue()
    enqueue(add, 1, 2)
    pause(task=noop)
    lanes = make()
    take(lanes, 5, took=60.0)
    resume(task=noop)
    pause(task=add)
    lanes.look()
    assert [job.pk for job in take(lanes, 5)] == [first.pk]


def test_a_worker_with_only_paused_jobs_in_line_asks_a_few_times_a_second(monkeypatch):
    enqueue_many([noop.s() for _ in range(50)])
    pause(task=noop)
    boss = make_worker()
    boss.intake.poll = boss.wakeup.poll = 2.0
    asked: list[str] = []
    execute, rows = CursorWrapper.execute, PostgreSQL._rows
    monkeypatch.setattr(CursorWrapper, "execute", lambda *args: asked.append(args[1]) or execute(*args))
    monkeypatch.setattr(PostgreSQL, "_rows", lambda *args: asked.append(args[1]) or rows(*args))
    thread = threading.Thread(target=boss.run)
    thread.start()
    time.sleep(3)  # a worker that has just become idle looks more often
    asked.clear()
    time.sleep(4)
    statements = list(asked)
    boss.stop()
    thread.join(30)
    # in four seconds, of all threads: some are the heartbeat's and the maintenance's
    assert 5 <= len(statements) <= 4 * 12, len(statements)
    assert Job.objects.in_line().count() == 50


@pytest.mark.timeout(120)
def test_g14_a_hundred_thousand_paused_jobs_in_front_slow_nothing_down():
    """The share of the time that goes into reading over them is bounded, and so is how long a job behind them waits."""
    place = "a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n + 1"
    fill(100_000, "READY", place=place)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT setval('django_jobqueue_place', 200000)")
            cursor.execute(f"ANALYZE {Job._meta.db_table}")
    pause(task=noop)
    lanes, took = make(), []
    enqueue_many([add.s(1, 2) for _ in range(400)])
    for _ in range(40):
        began = time.monotonic()
        assert len(take(lanes, 5)) == 5
        took.append(time.monotonic() - began)
    took.sort()
    assert took[len(took) // 2] < took[-1] / 2 or took[-1] < 0.02, "most claims pass them over"
    assert sum(took[:-2]) / len(took[:-2]) < 0.05
    connections[USING].close()
