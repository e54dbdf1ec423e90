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


def take(lanes: Lanes, limit: int = 1) -> list[Job]:
    """A claim as the claimer makes it."""
    lanes.refresh()
    began = time.monotonic()
    jobs = claim(lanes.order, limit, worker().pk, USING, floors=lanes.floors, only=lanes.only)
    lanes.learn(jobs, limit, time.monotonic() - began)
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


def test_paused_jobs_among_the_others_are_passed_over_too():
    jobs = []
    for made in (add.s(1, 2), noop.s(), add.s(1, 2), noop.s()):
        jobs += enqueue_many([made])
        tick()
    pause(task=noop)
    assert [job.pk for job in take(make(), 5)] == [int(jobs[0].id), int(jobs[2].id)]


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
    back = enqueue(add, 1, 2)
    tick()
    enqueue(), enqueue(add, 1, 2)
    pause(task=noop)
    boss = make_worker(drain=0)
    lanes = boss.claimer.lanes
    first = take(lanes)
    lanes.look()
    assert first[0].pk == back.pk and len(take(lanes, 2)) == 1
    release(first, USING)
    boss._sign_off()
    assert boss.run()
    assert fresh(back).status == "SUCCESSFUL"


# -- what it costs --------------------------------------------------------------------------------


@pytest.fixture
def begun_at(monkeypatch):
    """The places from which looks have read, to find a job that is not paused."""
    begun, first_place = [], module.first_place

    def noted(lane, floor, paused, using):
        begun.append(floor)
        return first_place(lane, floor, paused, using)

    monkeypatch.setattr(module, "first_place", noted)
    return begun


def test_what_is_paused_is_read_over_once_and_not_in_each_look(monkeypatch, begun_at):
    monkeypatch.setattr(module, "SHARE", 10**6)
    enqueue_many([noop.s() for _ in range(20)])
    tick()
    enqueue_many([add.s(1, 2) for _ in range(20)])
    place = Job.objects.filter(task_path=add.module_path).order_by("place").first().place
    pause(task=noop)
    lanes = make()
    for _ in range(5):
        lanes.look()
        assert lanes.floors[0] >= place
        assert len(take(lanes, 2)) == 2
    assert begun_at[0] == 0 and min(begun_at[1:]) >= place


def test_a_lane_in_which_all_is_paused_is_left_out_until_a_job_comes_that_is_not(monkeypatch, begun_at):
    monkeypatch.setattr(module, "SHARE", 10**6)
    enqueue_many([noop.s() for _ in range(5)])
    pause(task=noop)
    lanes = make()
    lanes.look()
    assert lanes.order == []
    tick()
    job = enqueue(add, 1, 2)
    lanes.look()
    assert lanes.order == [DEFAULT] and [found.pk for found in take(lanes, 5)] == [job.pk]
    assert begun_at[0] == 0 and begun_at[1] > Job.objects.filter(task_path=noop.module_path).latest("place").place


def test_a_job_that_must_run_alone_keeps_its_lane(monkeypatch):
    enqueue()
    alone = enqueue(add, 1, 2)
    Job.objects.filter(pk=alone.pk).update(place=-5)
    pause(task=noop)
    lanes = make()
    lanes.look()
    assert lanes.order == [DEFAULT]


def test_g2_the_front_is_read_again_when_that_takes_little_of_the_time(monkeypatch):
    monkeypatch.setattr(module, "SHARE", 1)
    first_place = module.first_place
    monkeypatch.setattr(module, "first_place", lambda *args: time.sleep(0.3) or first_place(*args))
    first = enqueue(add, 1, 2)
    tick()
    enqueue(), enqueue(add, 1, 2), enqueue(add, 1, 2)
    pause(task=noop)
    lanes = make()
    jobs = take(lanes, 1)
    assert len(take(lanes, 1)) == 1
    front_at, lanes._front_at = lanes._front_at, lanes._front_at + 100
    assert 0 < front_at - time.monotonic() < 0.5
    lanes.look()
    release(jobs, USING)
    lanes.look()
    assert first.pk not in [job.pk for job in take(lanes, 1)], "it is below the floor"
    lanes._front_at -= 100
    time.sleep(0.3)
    lanes.look()
    assert [job.pk for job in take(lanes, 1)] == [first.pk]


def test_a_changed_pause_begins_at_the_front(monkeypatch):
    first = enqueue()
    enqueue(add, 1, 2)
    pause(task=noop)
    lanes = make()
    take(lanes, 5)
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
    time.sleep(1)
    boss.claimer._found_at -= 60  # one that has just become idle looks more often
    time.sleep(1)
    asked.clear()
    time.sleep(4)
    statements = list(asked)
    boss.stop()
    thread.join(30)
    # in four seconds, of all threads: some are the heartbeat's and the maintenance's
    assert len(statements) <= 4 * 8, statements
    assert Job.objects.in_line().count() == 50


@pytest.mark.timeout(120)
def test_g14_a_hundred_thousand_paused_jobs_in_front_slow_nothing_down():
    """One look reads over them; no claim does, and no other look for twenty times as long."""
    fill(100_000, "READY", place="a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n + 1")
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT setval('django_jobqueue_place', 200000)")
            cursor.execute(f"ANALYZE {Job._meta.db_table}")
    enqueue_many([add.s(1, 2) for _ in range(400)])
    pause(task=noop)
    lanes, claims, looks, holder = make(), [], [], worker()
    for _ in range(12):
        began = time.monotonic()
        lanes.look()
        looks.append(time.monotonic() - began)
        for _ in range(4):
            began = time.monotonic()
            assert len(claim(lanes.order, 5, holder.pk, USING, floors=lanes.floors, only=lanes.only)) == 5
            claims.append(time.monotonic() - began)
    told = f"first look {looks[0]:.4f} s, others {sorted(looks[1:])[4]:.4f} s, claims {sorted(claims)[20]:.4f} s"
    print(told)  # noqa: T201
    assert sorted(looks[1:])[4] < max(looks[0] / 2, 0.02), told
    assert sorted(claims)[20] < max(looks[0] / 2, 0.02), told
    connections[USING].close()
