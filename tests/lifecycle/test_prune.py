"""Prune: delete what finished long ago, and nothing else."""

from datetime import timedelta
from importlib import import_module

import pytest
from django.db import connection
from django.utils import timezone
from model_bakery import baker

from django_jobqueue.exceptions import ArchiveFailed
from django_jobqueue.lifecycle import Pruner, prune, retry
from django_jobqueue.models import Attempt, Job, Worker

from ..models import Effect
from .steps import worker

pytestmark = pytest.mark.django_db

DAY = 86_400


def days_ago(days: float):
    return timezone.now() - timedelta(days=days)


def job(status: str = "SUCCESSFUL", *, enqueued: float, finished: float | None = None, attempts: int = 0) -> Job:
    """A job of so many days ago."""
    made = baker.make(
        Job,
        task_path="tests.tasks.noop",
        status=status,
        enqueued_at=days_ago(enqueued),
        finished_at=None if finished is None else days_ago(finished),
        attempts=attempts,
    )
    for number in range(1, attempts + 1):
        at = days_ago(enqueued)
        Attempt.objects.create(job=made, number=number, started_at=at, finished_at=at, outcome="succeeded")
    return made


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(import_module("django_jobqueue.lifecycle.prune"), "BATCH", 10)


def test_only_finished_jobs_that_are_old_enough_are_deleted():
    old = [job(status, enqueued=9, finished=8) for status in ("SUCCESSFUL", "FAILED", "CANCELLED")]
    kept = [
        job("READY", enqueued=9),
        job("RUNNING", enqueued=9),
        job("WAITING", enqueued=9),
        job("SUCCESSFUL", enqueued=9, finished=6),
        job("SUCCESSFUL", enqueued=1, finished=0),
    ]
    assert prune(7 * DAY) == len(old)
    assert set(Job.objects.all()) == set(kept)


def test_attempts_go_with_their_job_and_others_stay():
    job(enqueued=9, finished=8, attempts=3)
    kept = job(enqueued=9, finished=6, attempts=2)
    assert prune(7 * DAY) == 1
    assert {attempt.job_id for attempt in Attempt.objects.all()} == {kept.pk}
    assert Attempt.objects.count() == 2


def test_pruning_twice_deletes_nothing_more():
    job(enqueued=9, finished=8)
    assert (prune(7 * DAY), prune(7 * DAY)) == (1, 0)


def test_an_empty_table_is_nothing_to_prune():
    assert prune(7 * DAY) == 0


def test_old_jobs_behind_many_unfinished_ones_are_found(small_batches):
    for _ in range(25):
        job("READY", enqueued=9)
    old = [job(enqueued=9, finished=8) for _ in range(15)]
    assert prune(7 * DAY) == len(old)
    assert Job.objects.count() == 25


def test_the_scan_stops_where_jobs_are_too_young(small_batches, django_assert_max_num_queries):
    job(enqueued=9, finished=8)
    for _ in range(100):
        job(enqueued=1, finished=0)
    # What is due by itself, one look at the first batch, one deletion in a transaction, results, workers, limits: not
    # eleven batches.
    with django_assert_max_num_queries(13):
        assert prune(7 * DAY) == 1


def test_the_work_of_one_prune_can_be_bounded(small_batches):
    for _ in range(35):
        job(enqueued=9, finished=8)
    assert prune(7 * DAY, batches=2) == 20
    assert prune(7 * DAY, batches=0) == 0
    assert prune(7 * DAY, batches=9) == 15


def test_a_job_that_is_retried_meanwhile_stays(monkeypatch):
    module = import_module("django_jobqueue.lifecycle.prune")
    doomed, saved = job(enqueued=9, finished=8), job("FAILED", enqueued=9, finished=8, attempts=1)
    delete = module.delete

    def retried_first(*args):
        retry([saved.pk])
        return delete(*args)

    monkeypatch.setattr(module, "delete", retried_first)
    assert prune(7 * DAY) == 1
    assert not Job.objects.filter(pk=doomed.pk).exists()
    assert Job.objects.get(pk=saved.pk).status == Job.Status.READY
    assert Attempt.objects.filter(job_id=saved.pk).exists()


def test_a_job_that_is_retried_meanwhile_and_ends_again_stays_too(monkeypatch):
    saved, kept = (job("FAILED", enqueued=9, finished=8, attempts=1) for _ in range(2))
    Job.objects.filter(pk=kept.pk).update(prune_at=days_ago(1))
    module = import_module("django_jobqueue.lifecycle.prune")
    delete = module.delete

    def ended_anew_first(*args):
        Job.objects.filter(pk=saved.pk).update(status="SUCCESSFUL", finished_at=timezone.now())
        Job.objects.filter(pk=kept.pk).update(prune_at=timezone.now() + timedelta(days=1))
        return delete(*args)

    monkeypatch.setattr(module, "delete", ended_anew_first)
    assert prune(7 * DAY) == 0


def test_workers_that_ended_before_then_are_forgotten():
    old, recent, alive = worker(), worker(), worker()
    Worker.objects.filter(pk=old.pk).update(status="STOPPED", stopped_at=days_ago(8))
    Worker.objects.filter(pk=recent.pk).update(status="LOST", stopped_at=days_ago(6))
    Worker.objects.filter(pk=alive.pk).update(started_at=days_ago(9), heartbeat_at=days_ago(9))
    prune(7 * DAY)
    assert set(Worker.objects.all()) == {recent, alive}


def test_a_worker_whose_job_still_waits_for_the_reaper_is_kept():
    lost = worker()
    Worker.objects.filter(pk=lost.pk).update(status="LOST", stopped_at=days_ago(8))
    running = job("RUNNING", enqueued=9)
    Job.objects.filter(pk=running.pk).update(worker=lost)
    prune(7 * DAY)
    assert Worker.objects.filter(pk=lost.pk).exists()


# -- the archive ----------------------------------------------------------------------------------


def test_an_archive_sees_each_batch_with_its_attempts_before_it_is_deleted(monkeypatch, django_assert_num_queries):
    monkeypatch.setattr(import_module("django_jobqueue.lifecycle.prune"), "ARCHIVE_BATCH", 2)
    old = [job(enqueued=9, finished=8, attempts=2) for _ in range(5)]
    batches = []

    def archive(jobs):
        assert connection.in_atomic_block
        with django_assert_num_queries(0):
            batches.append([(each.pk, len(each.attempt_set.all())) for each in jobs])
        assert Job.objects.filter(pk__in=[each.pk for each in jobs]).count() == len(jobs)

    assert prune(7 * DAY, archive=archive) == 5
    assert batches == [[(each.pk, 2) for each in old[start : start + 2]] for start in (0, 2, 4)]


def test_what_an_archive_does_not_take_stays_and_what_it_wrote_is_undone():
    job(enqueued=9, finished=8)

    def archive(jobs):
        Effect.objects.create(name="half")
        raise OSError("no space left")

    with pytest.raises(ArchiveFailed, match="did not take 1 jobs: OSError: no space left"):
        prune(7 * DAY, archive=archive)
    assert Job.objects.count() == 1 and not Effect.objects.exists()


def test_what_an_archive_does_not_take_is_offered_again_once_in_each_turn_and_keeps_nothing_else_from_its_end():
    refused, taken, offers = job(enqueued=9, finished=8), job(enqueued=9, finished=8), []
    Job.objects.filter(pk=taken.pk).update(prune_at=days_ago(1))

    def archive(jobs):
        offers.append([each.pk for each in jobs])
        if refused in jobs:
            raise ValueError("not this one")

    pruner = Pruner("default", 7 * DAY, archive)
    assert pruner.turn() == 1 and "not this one" in str(pruner.refusal)
    assert pruner.turn() == 0 and pruner.refusal is not None
    assert offers == [[taken.pk], [refused.pk], [refused.pk]]
    refused, there = None, refused
    assert pruner.turn() == 1 and pruner.refusal is None
    assert not Job.objects.filter(pk=there.pk).exists()


def test_a_job_that_is_retried_meanwhile_is_not_archived(monkeypatch):
    saved = job("FAILED", enqueued=9, finished=8)
    pruner = Pruner("default", 7 * DAY, lambda jobs: pytest.fail("archived"))
    (walk, _) = pruner.walks
    look = walk.look

    def retried_then(*args):
        step = look(*args)
        retry([saved.pk])
        return step

    walk.look = retried_then
    assert pruner.turn() == 0 and Job.objects.get(pk=saved.pk).status == "READY"
