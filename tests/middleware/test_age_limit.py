"""AgeLimit: jobs that come to run too late are not run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from django_jobqueue import enqueue_many, task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.lifecycle import retry
from django_jobqueue.models import Attempt, Job

from ..lifecycle.steps import enqueue, fresh, outcomes
from ..worker.workers import drain

PATH = "django_jobqueue.middleware.age_limit.AgeLimit"
ran: list[object] = []


@pytest.fixture(autouse=True)
def used(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    ran.clear()


@task
def note(word="plain"):
    ran.append(word)


@task
async def anote(word="async"):
    ran.append(word)


@task(max_attempts=9, backoff=0.3)
def fails():
    ran.append("failed")
    raise KeyError("no")


@task(max_attempts=9, backoff=0.3, middleware=[PATH])
def own():
    ran.append("failed")
    raise KeyError("no")


@task(middleware=[PATH], expires=timedelta(minutes=5))
def declared():
    ran.append("declared")


both = pytest.mark.parametrize("made", [note, anote], ids=["sync", "async"])


def age(job: Job, seconds: float) -> None:
    Job.objects.filter(pk=job.pk).update(enqueued_at=timezone.now() - timedelta(seconds=seconds))


@both
def test_a_job_that_is_too_old_is_not_run(made):
    old, young, other = enqueue(made.using(expires=60)), enqueue(made.using(expires=60)), enqueue(made)
    for job, seconds in ((old, 61), (young, 30), (other, 61)):
        age(job, seconds)
    drain()
    assert len(ran) == 2
    assert [fresh(job).status for job in (old, young, other)] == ["CANCELLED", "SUCCESSFUL", "SUCCESSFUL"]
    attempt = Attempt.objects.get(job=old)
    assert attempt.outcome == "skipped" and attempt.message.startswith("Expired at 20")


@both
@pytest.mark.parametrize(("minutes", "status"), [(-1, "CANCELLED"), (1, "SUCCESSFUL")])
def test_a_time_may_be_given_instead(made, minutes, status):
    job = enqueue(made.using(expires=timezone.now() + timedelta(minutes=minutes)))
    drain()
    assert fresh(job).status == status


def test_the_limit_of_the_task_and_of_the_project(settings):
    settings.JOBQUEUE_DEFAULTS = {"expires": timedelta(minutes=1)}
    jobs = [enqueue(declared), enqueue(note), enqueue(note.using(expires=None)), enqueue(declared.using(expires=9))]
    for job in jobs:
        age(job, 120)
    drain()
    assert [fresh(job).status for job in jobs] == ["SUCCESSFUL", "CANCELLED", "SUCCESSFUL", "CANCELLED"]


def test_a_scheduled_job_ages_from_its_time_on():
    jobs = [enqueue(note.using(expires=60, run_after=timedelta(hours=1))) for _ in range(2)]
    for job, minutes in zip(jobs, (-0.5, -1.5), strict=True):
        assert fresh(job).options == {"expires": (fresh(job).run_after + timedelta(minutes=1)).isoformat()}
        due = timezone.now() + timedelta(minutes=minutes)
        options = {"expires": (due + timedelta(minutes=1)).isoformat()}
        Job.objects.filter(pk=job.pk).update(run_after=due, enqueued_at=due - timedelta(hours=1), options=options)
    drain()
    assert [fresh(job).status for job in jobs] == ["SUCCESSFUL", "CANCELLED"]


def test_scheduled_jobs_of_one_bulk_and_jobs_of_other_tasks_keep_their_own_options():
    later = declared.using(run_after=timedelta(hours=1))
    enqueue_many([later.s(), note.s(), later.s(), later.using(expires=None).s()])
    options = list(Job.objects.order_by("pk").values_list("options", flat=True))
    assert options[1] is None and options[3] == {"expires": None} and options[0] == options[2] != None  # noqa: E711
    assert datetime.fromisoformat(options[0]["expires"]) == Job.objects.first().run_after + timedelta(minutes=5)


def test_a_retry_that_comes_too_late_is_not_made():
    job = enqueue(fails.using(expires=1))
    drain(3)
    assert 1 <= len(ran) <= 4
    assert fresh(job).status == "CANCELLED"
    assert outcomes(job) == ["retrying"] * len(ran) + ["skipped"]


def test_as_a_layer_of_the_task_alone_it_knows_when_a_scheduled_job_first_ran(settings):
    """It is not there when the job is enqueued, and a retry overwrites the time that it was scheduled for."""
    settings.JOBQUEUE_MIDDLEWARE = []
    job = enqueue(own.using(expires=1, run_after=timedelta(seconds=0.3)))
    early = timezone.now() - timedelta(hours=1)
    Job.objects.filter(pk=job.pk).update(enqueued_at=early)
    drain(3)
    assert fresh(job).options == {"expires": 1}
    assert fresh(job).status == "CANCELLED" and outcomes(job)[0] == "retrying" and 1 <= len(ran) <= 4


def test_to_retry_it_by_hand_does_not_make_it_younger():
    job = enqueue(note.using(expires=60))
    age(job, 61)
    drain()
    assert retry([job.pk])
    drain()
    assert outcomes(job) == ["skipped", "skipped"] and ran == []


def test_a_retry_of_a_scheduled_job_does_not_begin_its_age_anew():
    job = enqueue(fails.using(expires=1, run_after=timedelta(seconds=0.3)))
    drain(3)
    assert fresh(job).status == "CANCELLED" and outcomes(job)[-1] == "skipped" and 1 <= len(ran) <= 4


@pytest.mark.parametrize("value", [0, -1, True, "tomorrow", datetime(2026, 1, 1), [1]])
def test_values_that_cannot_be_are_refused(value):
    with pytest.raises(InvalidTask, match="expires"):
        note.using(expires=value)


def test_values_that_can_be():
    for value in (None, 1, 0.5, timedelta(days=1), datetime(2026, 1, 1, tzinfo=UTC)):
        note.using(expires=value)
