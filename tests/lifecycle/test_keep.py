"""Keep: jobs that say how long they are kept carry the time of their end, whichever way they end; others do not."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now
from django.utils import timezone

from django_jobqueue import task
from django_jobqueue.dialects import get_dialect
from django_jobqueue.lifecycle import cancel, claim, prune, reap, release, retry
from django_jobqueue.models import Job
from django_jobqueue.retention import FOREVER

from ..tasks import noop
from . import steps

pytestmark = pytest.mark.django_db

DAY = 86_400


@task(keep={"SUCCESSFUL": 60, "FAILED": timedelta(days=90), "CANCELLED": None})
def particular():
    pass


@task(keep={"FAILED": 60})
def failures():
    pass


def kept_for(job: Job) -> float | None:
    """Seconds from its end to its deletion."""
    row = steps.fresh(job)
    assert row.is_finished and row.finished_at is not None
    return None if row.prune_at is None else (row.prune_at - row.finished_at).total_seconds()


def about(seconds):
    return pytest.approx(seconds, abs=2)


@pytest.mark.parametrize(
    ("outcome", "seconds"),
    [(steps.succeeded("well"), 60), (steps.succeeded(), 60), (steps.failed(), 90 * DAY)],
    ids=["result", "none", "failed"],
)
def test_each_status_has_its_time(outcome, seconds):
    job = steps.started(particular)
    steps.end(job, outcome)
    assert kept_for(job) == about(seconds)
    assert steps.fresh(job).result == outcome.result


def test_what_nobody_has_said_anything_of_is_written_on_the_short_way(monkeypatch):
    job, others = steps.started(failures), steps.started(noop)
    monkeypatch.setattr(type(get_dialect(steps.USING)), "finish", None)
    steps.end(job, steps.succeeded())
    steps.end(others, steps.succeeded())
    assert kept_for(job) is None and kept_for(others) is None


def test_what_the_call_says_comes_first_and_what_it_leaves_out_is_the_tasks():
    job = steps.started(particular.using(keep={"SUCCESSFUL": 5}))
    steps.end(job, steps.succeeded())
    other = steps.started(particular.using(keep={"SUCCESSFUL": 5}))
    steps.end(other, steps.failed())
    assert (kept_for(job), kept_for(other)) == (about(5), about(90 * DAY))


def test_for_ever_is_a_time_that_every_database_can_tell():
    job = steps.started(noop.using(keep=None))
    steps.end(job, steps.succeeded())
    assert kept_for(job) == about(FOREVER)
    assert timezone.localtime(steps.fresh(job).prune_at).year > 3000
    assert prune(0) == 0 and Job.objects.count() == 1


def test_a_job_that_runs_again_has_no_such_time():
    job = steps.started(particular)
    steps.end(job, steps.retrying())
    assert steps.fresh(job).prune_at is None


def test_an_attempt_that_would_be_retried_but_was_cancelled_is_kept_as_cancelled():
    job = steps.started(noop.using(keep={"CANCELLED": 5, "FAILED": 700}))
    cancel([job.pk])
    steps.end(job, steps.retrying())
    assert steps.fresh(job).status == "CANCELLED" and kept_for(job) == about(5)


def test_a_job_that_is_cancelled_before_it_runs_is_kept_as_it_says():
    jobs = [steps.enqueue(made) for made in (particular, noop, noop.using(keep={"CANCELLED": 5}), failures)]
    cancel(job.pk for job in jobs)
    assert [kept_for(job) for job in jobs] == [about(FOREVER), None, about(5), None]


def test_a_claimed_job_that_is_given_back_cancelled_is_kept_as_it_says():
    jobs = [
        steps.enqueue(made) for made in (noop.using(keep={"CANCELLED": 5}), noop, noop.using(keep={"CANCELLED": 5}))
    ]
    taken = steps.take(steps.worker(), limit=3)
    cancel(job.pk for job in jobs[:2])
    release(taken, steps.USING)
    assert [kept_for(job) for job in jobs[:2]] == [about(5), None]
    back = steps.fresh(jobs[2])
    assert (back.status, back.prune_at) == ("READY", None)


def test_jobs_that_were_never_decoded_can_be_given_back():
    steps.enqueue(noop.using(keep={"CANCELLED": 5}))
    holder = steps.worker()
    taken = claim([*get_dialect(steps.USING).lanes()], 1, holder.pk, steps.USING)
    assert release(taken, steps.USING) == 1


def test_a_job_that_was_lost_for_good_is_kept_as_it_says():
    job = steps.started(particular)
    Job.objects.filter(pk=job.pk).update(losses=4)
    steps.fall_silent(job.worker)
    reap(steps.USING)
    assert steps.fresh(job).status == "FAILED" and kept_for(job) == about(90 * DAY)


def test_a_retry_takes_it_back():
    job = steps.started(particular)
    steps.end(job, steps.failed())
    retry([job.pk])
    assert steps.fresh(job).prune_at is None
    again = steps.take_one(steps.worker())
    steps.end(again, steps.succeeded())
    assert kept_for(job) == about(60)


@pytest.mark.parametrize("options", [[], "no", {"keep": 5}, {"keep": {"SUCCESSFUL": "x", "FAILED": -1}}], ids=str)
def test_g9_a_row_with_nonsense_in_its_options_is_kept_as_its_task_says(options):
    job = steps.started(particular)
    job.options = options
    steps.end(job, steps.succeeded())
    assert kept_for(job) == about(60)


def test_g8_a_job_of_a_task_that_is_not_known_here_is_kept_as_its_call_says():
    job, other = steps.started(noop.using(keep={"FAILED": 5})), steps.started(noop)
    job.task_path = other.task_path = "shop.tasks.gone"
    steps.end(job, steps.failed())
    steps.end(other, steps.failed())
    assert (kept_for(job), kept_for(other)) == (about(5), None)


# -- prune ----------------------------------------------------------------------------------------


def ended(made) -> Job:
    job = steps.started(made)
    steps.end(job, steps.succeeded())
    return job


def test_what_is_past_its_own_time_goes_whatever_the_retention_and_what_is_not_stays():
    due, later, usual = ended(particular), ended(particular), ended(noop)
    Job.objects.filter(pk=due.pk).update(prune_at=Now())
    Job.objects.filter(pk__in=[later.pk, usual.pk]).update(
        enqueued_at=Now() - timedelta(days=9), finished_at=Now() - timedelta(days=8)
    )
    assert prune(None) == 1 and not Job.objects.filter(pk=due.pk).exists()
    assert prune(7 * DAY) == 1 and Job.objects.get() == later, "though it is old enough for the retention"


def test_a_row_that_runs_again_is_not_deleted_whatever_its_columns_say():
    job = ended(particular)
    Job.objects.filter(pk=job.pk).update(status="READY", prune_at=Now())
    assert prune(0) == 0
