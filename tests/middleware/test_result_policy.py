"""Results: what of a result is kept."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from django_jobqueue import Skip, task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.lifecycle import prune, retry
from django_jobqueue.models import Job

from ..lifecycle.steps import enqueue, fresh, outcomes
from ..worker.workers import drain

PATH = "django_jobqueue.middleware.result_policy.Results"
runs: list[int] = []


@pytest.fixture(autouse=True)
def used(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    runs.clear()


@task(max_attempts=3, backoff=0)
def text(length):
    runs.append(length)
    return "x" * length


@task(max_attempts=3, backoff=0)
async def atext(length):
    runs.append(length)
    return "x" * length


@task
def skips(length):
    raise Skip("known", result="x" * length)


@task
def skips_without():
    raise Skip("not today")


@task
def umlauts(length):
    return "ü" * length


@task(max_attempts=3, backoff=0)
def unstorable():
    return object()


@task
def pair():
    return (1, {2: None})


both = pytest.mark.parametrize("made", [text, atext], ids=["sync", "async"])


def end(made, *args):
    job = enqueue(made, *args)
    drain()
    return fresh(job)


@both
def test_a_result_is_stored_as_ever(made):
    assert end(made, 1000).result == "x" * 1000


def test_a_result_becomes_what_it_would_be_without():
    assert end(pair).result == [1, {"2": None}]


@both
def test_a_result_may_be_left_out(made):
    job = end(made.using(store_result=False), 1000)
    assert (job.status, job.result) == ("SUCCESSFUL", None)


@both
def test_one_that_is_too_large_is_one_failure_that_names_both_numbers(made):
    job = end(made.using(result_max_size=100), 99)
    assert job.status == "FAILED" and outcomes(job) == ["failed"] and runs == [99], "and it is not run again"
    (attempt,) = job.attempt_set.all()
    assert "its result is 101 bytes" in attempt.message and "result_max_size is 100" in attempt.message
    assert attempt.exception_class_path == "django_jobqueue.exceptions.InvalidResult"
    assert end(made.using(result_max_size=100), 98).result == "x" * 98


@both
def test_the_limit_is_a_mebibyte_where_nobody_says(made, settings):
    assert end(made, 2**20 - 2).status == "SUCCESSFUL"
    assert end(made, 2**20 - 1).status == "FAILED"
    assert end(made.using(result_max_size=None), 2**20).status == "SUCCESSFUL"
    settings.JOBQUEUE_DEFAULTS = {"result_max_size": 10}
    assert end(made, 9).status == "FAILED"


@both
def test_one_that_is_too_large_may_be_dropped(made, caplog):
    job = end(made.using(result_max_size=100, result_overflow="drop"), 99)
    assert (job.status, job.result) == ("SUCCESSFUL", None)
    assert "is not stored: its result is 101 bytes" in caplog.text


def test_the_size_is_that_of_what_is_stored():
    assert end(umlauts.using(result_max_size=20), 3).status == "SUCCESSFUL"
    assert end(umlauts.using(result_max_size=19), 3).status == "FAILED"


def test_the_result_of_a_skip_counts_too():
    assert (end(skips, 3).status, end(skips, 3).result) == ("SUCCESSFUL", "xxx")
    assert end(skips.using(store_result=False), 3).result is None
    assert end(skips.using(result_max_size=4), 3).status == "FAILED"
    assert end(skips_without).status == "CANCELLED"


def seconds_left(job):
    return (job.result_until - job.finished_at).total_seconds()


@both
def test_a_result_may_be_kept_for_a_while_only(made):
    job = end(made.using(result_ttl=60), 3)
    assert job.result == "xxx" and seconds_left(job) == pytest.approx(60, abs=1)
    assert seconds_left(end(made.using(result_ttl=timedelta(hours=1)), 3)) == pytest.approx(3600, abs=1)
    assert end(made, 3).result_until is None


def test_where_nobody_says_the_projects_default_counts(settings):
    settings.JOBQUEUE_DEFAULTS = {"result_ttl": timedelta(minutes=5)}
    assert seconds_left(end(text, 3)) == pytest.approx(300, abs=1)
    assert end(text.using(result_ttl=None), 3).result_until is None
    assert seconds_left(end(skips, 3)) == pytest.approx(300, abs=1)


def test_what_leaves_no_result_leaves_no_time_for_it():
    assert end(text.using(result_ttl=60, store_result=False), 3).result_until is None
    assert end(text.using(result_ttl=60, result_max_size=2), 3).result_until is None
    assert end(skips_without.using(result_ttl=60)).result_until is None


def test_an_expired_result_is_not_shown_and_then_deleted_while_its_job_stays():
    job = end(text.using(result_ttl=60), 3)
    assert text.get_result(str(job.pk)).return_value == "xxx"
    Job.objects.filter(pk=job.pk).update(result_until=Now())
    assert text.get_result(str(job.pk)).return_value is None
    assert fresh(job).result == "xxx", "it is there still"
    other = end(text.using(result_ttl=60), 3)
    prune(7 * 86_400)
    assert (fresh(job).result, fresh(job).result_until) == (None, None)
    assert fresh(other).result == "xxx"


def test_a_retried_job_has_a_result_of_its_own():
    job = end(text.using(result_ttl=60), 3)
    Job.objects.filter(pk=job.pk).update(status="FAILED")
    retry([job.pk])
    assert fresh(job).result_until is None


def test_one_that_cannot_be_stored_at_all_fails_as_ever():
    job = end(unstorable)
    assert job.status == "FAILED" and outcomes(job) == ["failed"]
    assert end(unstorable.using(store_result=False)).status == "SUCCESSFUL"


@pytest.mark.parametrize(
    "given",
    [
        *({"result_max_size": value} for value in (0, True, 1.5)),
        *({"result_ttl": value} for value in (0, -1, True, "1 h", float("nan"), timedelta(0))),
        {"store_result": 1},
        {"result_overflow": "explode"},
    ],
    ids=str,
)
def test_values_that_cannot_be_are_refused(given):
    with pytest.raises(InvalidTask, match=next(iter(given))):
        text.using(**given)
