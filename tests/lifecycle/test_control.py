"""Control: what people do to jobs."""

from datetime import timedelta

import pytest
from django.utils import timezone

from django_jobqueue.lifecycle import Cancelled, cancel, promote, retry, run_now
from django_jobqueue.lifecycle.portions import BATCH
from django_jobqueue.models import Job

from ..tasks import noop
from .steps import (
    USING,
    attempts,
    end,
    enqueue,
    failed,
    fresh,
    outcomes,
    retrying,
    started,
    succeeded,
    take,
    take_one,
    tick,
)
from .steps import worker as new_worker

pytestmark = pytest.mark.django_db


def ended(outcome) -> Job:
    job = started()
    end(job, outcome)
    return fresh(job)


def one_of_each() -> dict[str, Job]:
    """A job in every status that there is, and scheduled ones."""
    jobs = {
        "running": started(),
        "successful": ended(succeeded(1)),
        "failed": ended(failed()),
        "cancelled": enqueue(),
        "ready": enqueue(),
        "scheduled": enqueue(noop.using(run_after=timedelta(hours=1))),
        "waiting": enqueue(),
    }
    cancel([jobs["cancelled"].pk])
    Job.objects.filter(pk=jobs["waiting"].pk).update(status=Job.Status.WAITING, place=None)
    return jobs


def statuses(jobs: dict[str, Job]) -> dict[str, str]:
    return {name: fresh(job).status for name, job in jobs.items()}


# -- retry ----------------------------------------------------------------------------------------


def test_retry_takes_failed_and_cancelled_jobs_and_leaves_the_others_alone():
    jobs = one_of_each()
    before = statuses(jobs)
    assert retry(job.pk for job in jobs.values()) == 2
    assert statuses(jobs) == before | {"failed": "READY", "cancelled": "READY"}
    assert fresh(jobs["failed"]).place and not fresh(jobs["failed"]).is_scheduled


def test_a_retried_job_has_a_full_set_of_attempts_and_keeps_its_record():
    job = enqueue(noop.using(max_attempts=2))
    end(take_one(new_worker()), retrying())
    end(take_one(new_worker()), failed())
    assert (fresh(job).tries, fresh(job).attempts) == (2, 2)
    retry([job.pk])
    row = fresh(job)
    assert (row.tries, row.attempts, row.losses) == (0, 2, 0)
    assert row.finished_at is None and row.result is None and not row.is_scheduled
    end(take_one(new_worker()), retrying())
    assert take_one(new_worker()).tries == 2
    assert outcomes(job) == ["retrying", "failed", "retrying"]
    assert [attempt.number for attempt in attempts(job)] == [1, 2, 3]


def test_a_retried_job_goes_to_the_end_of_the_line():
    job, other = ended(failed()), enqueue()
    tick()
    retry([job.pk])
    assert [one.pk for one in take(new_worker(), 5)] == [other.pk, job.pk]


def test_a_cancelled_scheduled_job_runs_at_once_when_it_is_retried():
    job = enqueue(noop.using(run_after=timedelta(hours=1)))
    cancel([job.pk])
    retry([job.pk])
    assert take_one(new_worker()).pk == job.pk


# -- cancel ---------------------------------------------------------------------------------------


def test_cancel_takes_what_has_not_started_and_asks_what_runs():
    jobs = one_of_each()
    before = statuses(jobs)
    assert cancel(job.pk for job in jobs.values()) == Cancelled(cancelled=3, requested=1)
    assert statuses(jobs) == before | dict.fromkeys(["ready", "scheduled", "waiting"], "CANCELLED")
    assert fresh(jobs["running"]).is_cancelling
    assert fresh(jobs["ready"]).finished_at is not None
    assert fresh(jobs["successful"]).cancel_requested_at is None


def test_asking_twice_is_asking_once():
    job = started()
    assert cancel([job.pk]) == Cancelled(requested=1)
    at = fresh(job).cancel_requested_at
    assert cancel([job.pk]) == Cancelled()
    assert fresh(job).cancel_requested_at == at


def test_g13_a_cancelled_job_is_never_claimed():
    ready, scheduled = enqueue(), enqueue(noop.using(run_after=timedelta(hours=1)))
    cancel([ready.pk, scheduled.pk])
    Job.objects.update(run_after=timezone.now() - timedelta(hours=1))
    assert promote(USING) == 0 and take(new_worker(), 5) == []


def test_numbers_of_jobs_that_are_not_there_are_left_alone():
    assert retry([1, 2, 3]) == run_now([1, 2, 3]) == 0
    assert cancel([1, 2, 3]) == Cancelled()


def test_no_numbers_are_no_jobs():
    assert retry([]) == run_now([]) == 0 and cancel([]) == Cancelled()


def test_more_numbers_than_one_statement_takes():
    job = enqueue()
    ids = [*range(job.pk + 1, job.pk + 2 * BATCH + 10), job.pk]
    assert cancel(iter(ids)) == Cancelled(cancelled=1)
    assert retry(iter(ids)) == 1


def test_what_was_cancelled_can_be_added_up():
    assert Cancelled(1, 2) + Cancelled(3, 4) == Cancelled(4, 6)


# -- run now --------------------------------------------------------------------------------------


def test_run_now_puts_scheduled_jobs_in_line_and_leaves_the_others_alone():
    jobs = one_of_each()
    before = statuses(jobs)
    assert run_now(job.pk for job in jobs.values()) == 1
    row = fresh(jobs["scheduled"])
    assert not row.is_scheduled and row.place > 0
    assert row.run_after is None or row.run_after <= timezone.now() + timedelta(seconds=5)
    assert statuses(jobs) == before


def test_run_now_takes_a_retry_that_waits_for_its_time():
    job = started(noop.using(max_attempts=2))
    end(job, retrying(3600))
    assert run_now([job.pk]) == 1
    assert take_one(new_worker()).attempts == 2
