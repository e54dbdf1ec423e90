"""Reap: the jobs of workers that fell silent go to others."""

import time
from datetime import timedelta
from importlib import import_module

import pytest
from django.utils import timezone

from django_jobqueue.conf import LOSSES_TO_FAIL, LOSSES_TO_ISOLATE
from django_jobqueue.lifecycle import cancel, finish, reap, register, renew, retry, sign_off
from django_jobqueue.lifecycle.lease import announce_stop
from django_jobqueue.models import Job, Worker

from ..tasks import noop
from .steps import (
    USING,
    attempts,
    end,
    enqueue,
    fall_silent,
    fresh,
    outcomes,
    retrying,
    run_of,
    started,
    succeeded,
    take,
    take_one,
    worker,
)

pytestmark = pytest.mark.django_db


def lose(job: Job, *, isolated: bool = False) -> Job:
    """Claim the job and lose its worker."""
    holder = worker()
    (taken,) = take(holder, isolated=isolated)
    assert taken.pk == job.pk
    fall_silent(holder)
    assert [run.job.pk for run in reap(USING)] == [job.pk]
    return fresh(job)


def test_g2_the_job_of_a_silent_worker_goes_back_in_line():
    job = enqueue()
    holder = worker()
    taken = take_one(holder)
    fall_silent(holder)
    (run,) = reap(USING)
    assert run.job.pk == job.pk and run.outcome.state == "lost" and not run.outcome.final
    row = fresh(job)
    assert (row.status, row.attempts, row.tries, row.losses) == (Job.Status.READY, 1, 0, 1)
    assert row.fence is None and row.worker_id is None and row.place == taken.place
    (attempt,) = attempts(job)
    assert (attempt.number, attempt.outcome, attempt.worker_id) == (1, "lost", holder.pk)
    assert attempt.exception_class_path == "django_jobqueue.exceptions.JobLost"
    assert f"#{holder.pk}" in attempt.message
    holder.refresh_from_db()
    assert holder.status == Worker.Status.LOST and holder.stopped_at is not None


def test_g3_a_worker_with_a_good_lease_keeps_its_jobs_however_long_they_run():
    job = started()
    Job.objects.filter(pk=job.pk).update(started_at=timezone.now() - timedelta(days=3))
    assert reap(USING) == []
    assert fresh(job).status == Job.Status.RUNNING
    announce_stop(job.worker_id, USING)
    assert reap(USING) == []


def test_g4_the_zombies_outcome_is_refused_after_it_was_reaped():
    job = enqueue()
    holder = worker()
    zombie = take_one(holder)
    fall_silent(holder)
    reap(USING)
    assert end(zombie, succeeded("late")) == {}
    assert not renew(holder.pk, USING, lease=30)
    again = take_one(worker())
    assert end(zombie, succeeded("later")) == {}
    assert end(again, succeeded("mine")) == {job.pk: "SUCCESSFUL"}
    assert fresh(job).result == "mine" and outcomes(job) == ["lost", "succeeded"]


def test_a_heartbeat_that_comes_in_time_keeps_the_jobs():
    job = started()
    holder = Worker.objects.get(pk=job.worker_id)
    fall_silent(holder)
    renew(holder.pk, USING, lease=30)
    assert reap(USING) == []


def test_g2_a_job_that_a_stopped_worker_left_behind_is_found():
    job = started()
    sign_off(job.worker_id, USING)
    assert [run.job.pk for run in reap(USING)] == [job.pk]
    assert fresh(job).status == Job.Status.READY


def test_g2_a_job_whose_worker_has_no_row_is_found():
    job = started()
    Worker.objects.filter(pk=job.worker_id).delete()
    assert [run.job.pk for run in reap(USING)] == [job.pk]


def test_reaping_twice_is_reaping_once():
    job = started()
    sign_off(job.worker_id, USING)
    assert len(reap(USING)) == 1
    assert reap(USING) == []
    assert outcomes(job) == ["lost"]


def test_a_lost_worker_without_jobs_is_marked_all_the_same():
    row = worker()
    fall_silent(row)
    assert reap(USING) == []
    row.refresh_from_db()
    assert row.status == Worker.Status.LOST


def test_the_lost_attempts_duration_is_how_long_the_job_was_held():
    job = started()
    Job.objects.filter(pk=job.pk).update(started_at=fresh(job).started_at - timedelta(seconds=90))
    sign_off(job.worker_id, USING)
    reap(USING)
    assert timedelta(seconds=89) < attempts(job)[0].duration < timedelta(seconds=100)


def test_g7_a_poison_job_is_isolated_and_then_failed():
    job, neighbour = enqueue(noop.using(max_attempts=100)), enqueue()
    row = lose(job)
    assert LOSSES_TO_ISOLATE == 2 and row.place > 0, "the first loss may be an accident"
    assert take(worker(), 5)[0].pk == job.pk, "it was at the head of the line, and is there again"
    sign_off(fresh(job).worker_id, USING)
    reap(USING)
    row = fresh(job)
    assert (row.status, row.losses) == (Job.Status.READY, 2) and row.place < 0
    (beside,) = take(worker(), 5)
    assert beside.pk == neighbour.pk, "nobody takes it along with others any more"
    end(beside, succeeded())
    for losses in range(LOSSES_TO_ISOLATE + 1, LOSSES_TO_FAIL):
        row = lose(job, isolated=True)
        assert (row.status, row.losses) == (Job.Status.READY, losses) and row.place < 0
    row = lose(job, isolated=True)
    assert (row.status, row.losses, row.tries) == (Job.Status.FAILED, LOSSES_TO_FAIL, 0)
    assert row.finished_at is not None
    assert outcomes(job) == ["lost"] * LOSSES_TO_FAIL
    assert f"loss {LOSSES_TO_FAIL} of {LOSSES_TO_FAIL}" in attempts(job)[-1].message
    assert (fresh(neighbour).status, fresh(neighbour).tries) == (Job.Status.SUCCESSFUL, 1)


def test_g7_losses_do_not_use_up_attempts():
    job = enqueue(noop.using(max_attempts=2))
    lose(job)
    end(take_one(worker()), retrying())
    assert (fresh(job).tries, fresh(job).losses, fresh(job).attempts) == (1, 1, 2)


def test_a_manual_retry_forgives_the_losses():
    job = enqueue()
    for losses in range(LOSSES_TO_FAIL):
        lose(job, isolated=losses >= LOSSES_TO_ISOLATE)
    assert retry([job.pk]) == 1
    row = fresh(job)
    assert (row.losses, row.tries, row.status) == (0, 0, Job.Status.READY) and row.place > 0
    assert take_one(worker()).attempts == LOSSES_TO_FAIL + 1


def test_g13_a_job_that_was_to_be_cancelled_is_cancelled_when_its_worker_died():
    job = started(noop.using(max_attempts=9))
    cancel([job.pk])
    sign_off(job.worker_id, USING)
    reap(USING)
    row = fresh(job)
    assert row.status == Job.Status.CANCELLED and row.finished_at is not None
    assert outcomes(job) == ["cancelled"]
    assert take(worker(), 5) == []


def test_many_lost_jobs_are_given_back_at_once(monkeypatch):
    monkeypatch.setattr(import_module("django_jobqueue.lifecycle.reap"), "BATCH", 10)
    for _ in range(25):
        enqueue()
    holder, healthy = worker(), worker()
    lost, kept = take(holder, 23), take(healthy, 5)
    fall_silent(holder)
    assert {run.job.pk for run in reap(USING)} == {job.pk for job in lost}
    assert set(Job.objects.running()) == set(kept)


def test_a_worker_in_another_timezone_of_mind_reaps_nobody(monkeypatch):
    job = started()
    tomorrow = timezone.now() + timedelta(days=1)
    monkeypatch.setattr("django.utils.timezone.now", lambda: tomorrow)
    assert reap(USING) == [], "leases are on the database's clock"
    assert fresh(job).status == Job.Status.RUNNING


def test_two_reapers_that_found_the_same_orphans_write_them_once():
    job = started()
    sign_off(job.worker_id, USING)
    orphans = import_module("django_jobqueue.lifecycle.reap")._orphans
    mine, theirs = orphans(USING), orphans(USING)
    assert finish(mine, USING) == {job.pk: "READY"}
    assert finish(theirs, USING) == {}
    assert fresh(job).losses == 1


def test_the_end_of_an_attempt_and_its_reaping_do_not_both_count():
    job = started()
    sign_off(job.worker_id, USING)
    run = run_of(job, succeeded(1))
    finish([run], USING)
    assert reap(USING) == []
    assert (fresh(job).status, fresh(job).losses) == (Job.Status.SUCCESSFUL, 0)


def test_leases_may_differ_between_workers():
    short = register(USING, queues=[], slots=1, lease=0.001)
    long = worker()
    one = enqueue()
    take_one(long)
    two = enqueue()
    take_one(short)
    time.sleep(0.01)
    assert [run.job.pk for run in reap(USING)] == [two.pk]
    assert fresh(one).status == Job.Status.RUNNING
