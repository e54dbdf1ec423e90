"""Concurrency: never more at once than a key allows, over all workers, and no slot is kept by what is gone."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from django_jobqueue import enqueue_many, task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.exceptions import Snooze
from django_jobqueue.lifecycle import prune, reap
from django_jobqueue.middleware import limits
from django_jobqueue.middleware.concurrency import LONGEST, Concurrency
from django_jobqueue.models import Attempt, Job, Limit, Permit

from ..lifecycle.steps import end, enqueue, failed, fall_silent, fresh, retrying, snoozed, succeeded, take, worker
from ..worker.workers import drain, make_worker, working

PATH = "django_jobqueue.middleware.concurrency.Concurrency"
lock = threading.Lock()
now_running: dict[str, int] = {}
most_seen: dict[str, int] = {}


@pytest.fixture(autouse=True)
def used(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    now_running.clear()
    most_seen.clear()


@contextmanager
def counted(key):
    with lock:
        now_running[key] = now_running.get(key, 0) + 1
        most_seen[key] = max(most_seen.get(key, 0), now_running[key])
    try:
        yield
    finally:
        with lock:
            now_running[key] -= 1


@task
def work(key="all", seconds=0.05):
    with counted(key):
        time.sleep(seconds)


@task
async def awork(key="all", seconds=0.05):
    with counted(key):
        await asyncio.sleep(seconds)


@task(atomic=True)
def atomic_work(key="all", seconds=0.05):
    with counted(key):
        time.sleep(seconds)


@task(takes_context=True)
def other(context, tenant, *, region="eu"):
    pass


@task(middleware=[PATH], concurrency=2, concurrency_key=lambda key, seconds: f"tenant-{key}")
def keyed(key, seconds):
    with counted(key):
        time.sleep(seconds)


@task(max_attempts=2, backoff=0)
def fails():
    raise KeyError("no")


def context_of(job, made=work):
    return make_worker().execution.context(job, made, lambda: None)


def try_to_start(job, made=work, most=1) -> float | None:
    """None: it has a slot; else in how many seconds it is to try again."""
    try:
        Concurrency()._take(context_of(job, made), most)
    except Snooze as snooze:
        return snooze.delay
    return None


def claimed(number, made=work):
    enqueue_many([made.s() for _ in range(number)])
    return take(worker(), number)


# -- the limit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [work, awork, atomic_work], ids=["sync", "async", "atomic"])
@pytest.mark.parametrize("most", [1, 2])
def test_g10_no_more_run_at_once_than_allowed_over_several_workers(made, most):
    enqueue_many([made.using(concurrency=most).s("all", 0.03) for _ in range(12)])
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(working(threads=3))
        deadline = time.monotonic() + 45
        while Job.objects.unfinished().exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert set(Job.objects.values_list("status", flat=True)) == {"SUCCESSFUL"}
    assert most_seen["all"] <= most
    assert set(Job.objects.values_list("tries", flat=True)) == {1}, "to wait is no attempt"


def test_jobs_that_wait_keep_the_pace_of_those_that_run():
    """Ten jobs of a tenth of a second, one at a time, take about two seconds; more where the machine is busy."""
    enqueue_many([work.using(concurrency=1).s("all", 0.1) for _ in range(10)])
    drain(5)
    assert most_seen["all"] == 1 and not Job.objects.unfinished().exists()
    attempts = Attempt.objects.order_by("started_at")
    began_at = attempts[0].started_at
    told = [
        f"{(one.started_at - began_at).total_seconds():.3f} {(one.finished_at - began_at).total_seconds():.3f} "
        f"#{one.job_id} {one.outcome} {one.message}"
        for one in attempts
    ]
    assert (max(one.finished_at for one in attempts) - began_at).total_seconds() < 12, "\n".join(told)
    assert Attempt.objects.filter(outcome="snoozed").count() < 60, "they do not ask all the time"


def test_each_key_has_its_own_slots():
    enqueue_many([keyed.s(key, 0.05) for key in "ababab"])
    drain(3, threads=6)
    assert not Job.objects.unfinished().exists()
    assert most_seen["a"] <= 2 and most_seen["b"] <= 2
    assert set(Limit.objects.values_list("key", flat=True)) == {"concurrency tenant-a", "concurrency tenant-b"}


def test_without_the_option_nothing_is_asked(django_assert_num_queries):
    (job,) = claimed(1)
    context = context_of(job)
    with django_assert_num_queries(0):
        assert Concurrency().process_job(context, lambda: 42) == 42


# -- slots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [succeeded(), failed(), retrying(60), snoozed(60)], ids=lambda one: one.state)
def test_g10_a_slot_is_free_when_its_job_runs_no_more(outcome):
    one, two = claimed(2)
    assert try_to_start(one) is None
    assert 0 < try_to_start(two) < 1
    end(one, outcome)
    assert try_to_start(two) is None
    assert list(Permit.objects.values_list("job_id", flat=True)) == [two.pk]


def test_g10_the_slot_of_a_lost_worker_is_free_when_its_job_is_reaped():
    (one,) = claimed(1)
    holder = Job.objects.get(pk=one.pk).worker
    assert try_to_start(one) is None
    (two,) = claimed(1)
    assert try_to_start(two) is not None
    fall_silent(holder)
    assert [run.job.pk for run in reap("default")] == [one.pk]
    assert try_to_start(two) is None
    assert try_to_start(one) == 0.0, "the attempt that was lost gets none any more"
    (again,) = take(worker())
    assert again.pk == one.pk and try_to_start(again) is not None


def test_a_deleted_job_holds_nothing():
    one, two = claimed(2)
    assert try_to_start(one) is None
    Job.objects.filter(pk=one.pk).delete()
    assert try_to_start(two) is None


def test_a_job_that_has_a_slot_needs_no_second_one():
    (one,) = claimed(1)
    assert try_to_start(one) is None and try_to_start(one) is None
    assert Permit.objects.count() == 1


def test_a_limit_that_is_lowered_counts_from_then_on():
    one, two, three = claimed(3)
    assert try_to_start(one, most=2) is None and try_to_start(two, most=2) is None
    assert try_to_start(three, most=1) is not None
    end(one, succeeded())
    assert try_to_start(three, most=1) is not None
    end(two, succeeded())
    assert try_to_start(three, most=1) is None


def test_jobs_that_wait_are_spread_by_how_long_a_slot_is_held():
    jobs = claimed(8)
    assert try_to_start(jobs[0]) is None
    Permit.objects.update(taken_at=timezone.now() - timedelta(seconds=4))
    waits = [try_to_start(job) for job in jobs[1:5]]
    assert waits == sorted(waits) and 3.9 < waits[0] < 6 and 15 < waits[3] < 25
    assert [try_to_start(job) <= LONGEST for job in jobs[5:]] == [True] * 3
    assert Limit.objects.get().line_until < timezone.now() + timedelta(seconds=LONGEST + 1)


def test_an_attempt_that_fails_gives_its_slot_back_and_takes_another():
    enqueue_many([fails.using(concurrency=1).s() for _ in range(3)])
    drain(4)
    assert set(Job.objects.values_list("status", "tries")) == {("FAILED", 2)}


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "args", "kwargs", "key"),
    [
        (None, [5], {}, "concurrency tests.middleware.test_concurrency.other"),
        ("tenant-{0}", [5], {}, "concurrency tenant-5"),
        ("{tenant}/{region}", [5], {}, "concurrency 5/eu"),
        ("{tenant}/{region}", [], {"tenant": 5, "region": "us"}, "concurrency 5/us"),
        ("smtp", [5], {}, "concurrency smtp"),
        (lambda tenant, region="": f"{tenant}!{region}", [5], {"region": "us"}, "concurrency 5!us"),
    ],
)
def test_keys(template, args, kwargs, key):
    made = other.using() if template is None or callable(template) else other.using(concurrency_key=template)
    job = enqueue(made, *args, **kwargs)
    if callable(template):
        job.options = {"concurrency_key": template}
    assert limits.key_of(context_of(job, other), "concurrency", "concurrency_key") == key


def test_long_keys_are_cut_and_stay_different():
    keys = []
    for last in "ab":
        job = enqueue(other.using(concurrency_key="{0}"), "x" * 300 + last)
        keys.append(limits.key_of(context_of(job, other), "concurrency", "concurrency_key"))
    assert len(set(keys)) == 2 and {len(key) for key in keys} == {212}


def test_a_template_that_does_not_fit_the_call_is_an_error_that_says_so():
    job = enqueue(other.using(concurrency=1, concurrency_key="{nobody}"), 1)
    drain()
    assert fresh(job).status == "FAILED"
    assert "concurrency_key '{nobody}' does not fit the call other(1)" in Attempt.objects.get().message


@pytest.mark.parametrize(
    "given",
    [{"concurrency": 0}, {"concurrency": True}, {"concurrency": "2"}, {"concurrency_key": 1}, {"concurrency_key": "{"}],
    ids=str,
)
def test_values_that_cannot_be_are_refused(given):
    with pytest.raises(InvalidTask, match=next(iter(given))):
        work.using(**given)


# -- what is forgotten ----------------------------------------------------------------------------


def test_prune_forgets_keys_that_nobody_uses_but_no_slot_that_is_held():
    one, two = claimed(2)
    for job, key in ((one, "old"), (two, "held")):
        job.options = {"concurrency_key": key}
        assert try_to_start(job) is None
    end(one, succeeded())
    prune(10**6)
    assert Limit.objects.count() == 2
    Limit.objects.update(used_at=timezone.now() - timedelta(days=3))
    prune(10**6)
    assert list(Limit.objects.values_list("key", flat=True)) == ["concurrency held"]
    assert list(Permit.objects.values_list("job_id", flat=True)) == [two.pk]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer")
def test_an_atomic_task_does_not_keep_the_key_locked():
    """Others can ask while it runs, and are told to wait."""
    (second,) = claimed(1)
    job = enqueue(atomic_work.using(concurrency=1), "all", 1.0)
    with working():
        deadline = time.monotonic() + 10
        while not now_running.get("all") and time.monotonic() < deadline:
            time.sleep(0.01)
        second.options = {"concurrency_key": atomic_work.module_path}
        began = time.monotonic()
        assert try_to_start(second) is not None
        assert time.monotonic() - began < 0.5
    assert fresh(job).status == "SUCCESSFUL"
