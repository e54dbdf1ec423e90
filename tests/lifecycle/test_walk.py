"""Walk: it reads on where it was, passes by what is kept, and misses nothing for long."""

from datetime import timedelta
from importlib import import_module

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from django_jobqueue.lifecycle import Pruner
from django_jobqueue.lifecycle import walk as walk_module
from django_jobqueue.lifecycle.walk import Sweep, walks_for
from django_jobqueue.models import Job

from .test_prune import DAY, job

pytestmark = pytest.mark.django_db
HOUR = 3600


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(import_module("django_jobqueue.lifecycle.prune"), "BATCH", 10)


def pruner(**ages) -> Pruner:
    return Pruner("default", {"SUCCESSFUL": None, "FAILED": None, "CANCELLED": None} | ages)


def steps_of(prunes: Pruner, batches=None) -> tuple[int, int]:
    """How many jobs one turn deletes, and in how many steps through the table."""
    with CaptureQueriesContext(connection) as queries:
        deleted = prunes.turn(batches)
    return deleted, sum("enqueued_at" in query["sql"] and "ORDER BY" in query["sql"] for query in queries)


def test_jobs_that_are_kept_for_longer_are_read_once_and_passed_by_from_then_on():
    for _ in range(100):
        job("FAILED", enqueued=3, finished=3)
    first, _young = job(enqueued=2, finished=2), job(enqueued=0.5, finished=0.5)
    prunes = pruner(SUCCESSFUL=DAY)
    assert steps_of(prunes) == (1, 11)
    assert not Job.objects.filter(pk=first.pk).exists()
    job(enqueued=1.5, finished=1.5)
    assert steps_of(prunes) == (1, 1), "on from where it was"


def test_jobs_that_say_themselves_how_long_they_are_kept_are_passed_by_too():
    for _ in range(100):
        job(enqueued=3, finished=3)
    Job.objects.update(prune_at=Now() + timedelta(days=9))
    job(enqueued=0.5, finished=0.5)
    prunes = pruner(SUCCESSFUL=DAY)
    assert steps_of(prunes) == (0, 11)
    assert steps_of(prunes) == (0, 1)


def test_a_long_walk_goes_on_where_it_was_however_small_the_steps():
    for _ in range(95):
        job("FAILED", enqueued=3, finished=3)
    job(enqueued=2, finished=2)
    prunes = pruner(SUCCESSFUL=DAY)
    assert [prunes.turn(batches=4) for _ in range(3)] == [0, 0, 1]


def test_what_will_be_due_soon_is_met_again():
    nearly = job(enqueued=2, finished=1 - 0.5 / 24)
    for _ in range(30):
        job("FAILED", enqueued=1.5, finished=1.5)
    prunes = pruner(SUCCESSFUL=DAY)
    assert prunes.turn() == 0
    Job.objects.filter(pk=nearly.pk).update(finished_at=Now() - timedelta(days=1, seconds=1))
    assert prunes.turn() == 1


def test_what_runs_and_was_not_enqueued_long_ago_is_met_again():
    running = job("RUNNING", enqueued=1.02)
    for _ in range(30):
        job("FAILED", enqueued=1.01, finished=1.01)
    prunes = pruner(SUCCESSFUL=DAY)
    assert prunes.turn() == 0
    Job.objects.filter(pk=running.pk).update(status="SUCCESSFUL", finished_at=Now() - timedelta(days=1, seconds=1))
    assert prunes.turn() == 1


def test_what_is_left_behind_is_found_within_an_hour(monkeypatch):
    late = job("READY", enqueued=9)
    for _ in range(30):
        job("FAILED", enqueued=3, finished=3)
    prunes = pruner(SUCCESSFUL=DAY)
    assert prunes.turn() == 0
    Job.objects.filter(pk=late.pk).update(status="SUCCESSFUL", finished_at=Now() - timedelta(days=2))
    assert prunes.turn() == 0, "far behind"
    clock = walk_module.time.monotonic
    monkeypatch.setattr(walk_module.time, "monotonic", lambda: clock() + HOUR)
    assert prunes.turn() == 1


def test_a_sweep_rests_after_its_end_and_not_in_the_middle(monkeypatch):
    for _ in range(35):
        job("FAILED", enqueued=3, finished=3)
    (sweep,) = [walk for walk in pruner(SUCCESSFUL=DAY).walks if isinstance(walk, Sweep)]
    assert sweep.rests
    clock = walk_module.time.monotonic
    monkeypatch.setattr(walk_module.time, "monotonic", lambda: clock() + HOUR)
    for _ in range(4):
        assert not sweep.rests
        sweep.take(sweep.look("default", 10))
    assert sweep.rests and sweep.here == 0


def test_each_status_has_its_time():
    made = {
        (status, days): job(status, enqueued=days, finished=days)
        for status in ("SUCCESSFUL", "FAILED", "CANCELLED")
        for days in (40, 8, 2)
    }
    assert pruner(SUCCESSFUL=DAY, FAILED=30 * DAY).turn() == 4
    left = {key for key, each in made.items() if Job.objects.filter(pk=each.pk).exists()}
    assert left == {("FAILED", 8), ("FAILED", 2), ("CANCELLED", 40), ("CANCELLED", 8), ("CANCELLED", 2)}


def test_statuses_that_are_kept_alike_are_found_in_one_walk_and_others_by_their_index():
    day, week = timedelta(days=1), timedelta(days=7)
    kinds = [
        (sorted(walk.statuses), walk.age, walk.only)
        for walk in walks_for({"SUCCESSFUL": day, "FAILED": week, "CANCELLED": day})
        if not isinstance(walk, Sweep)
    ]
    assert kinds == [(["CANCELLED", "SUCCESSFUL"], day, ""), (["FAILED"], week, "FAILED")]
    assert walks_for(dict.fromkeys(["SUCCESSFUL", "FAILED", "CANCELLED"])) == []
