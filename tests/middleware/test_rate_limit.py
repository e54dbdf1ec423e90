"""RateLimit: never more starts in any period than a key allows, over all workers."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from django_jobqueue import enqueue_many, task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.exceptions import Snooze
from django_jobqueue.lifecycle import prune
from django_jobqueue.middleware.rate_limit import LONGEST, Rate, RateLimit
from django_jobqueue.models import Attempt, Job, Limit, Permit

from ..lifecycle.steps import enqueue, fresh, take, worker
from ..worker.workers import drain, make_worker, working

PATH = "django_jobqueue.middleware.rate_limit.RateLimit"


@pytest.fixture(autouse=True)
def used(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH]


@task
def send(tenant=0):
    pass


@task
async def asend(tenant=0):
    pass


@task(atomic=True)
def atomic_send(tenant=0):
    pass


@task(max_attempts=3, backoff=0)
def fails():
    raise KeyError("no")


@task(middleware=[PATH], rate_limit="3/m", rate_key=lambda tenant: f"tenant-{tenant}")
def keyed(tenant):
    pass


def claimed(number, made=send):
    enqueue_many([made.s() for _ in range(number)])
    return take(worker(), number)


def try_to_start(job, rate="2/m", **options) -> float | None:
    job.options = {"rate_limit": rate, **options}
    try:
        RateLimit().process_job(make_worker().execution.context(job, send, lambda: None), lambda: None)
    except Snooze as snooze:
        return snooze.delay
    return None


def age(seconds: float) -> None:
    """Let all the starts so far have been so many seconds earlier."""
    for permit in Permit.objects.all():
        Permit.objects.filter(pk=permit.pk).update(taken_at=permit.taken_at - timedelta(seconds=seconds))
    Limit.objects.update(line_until=None)


@pytest.mark.parametrize("made", [send, asend, atomic_send], ids=["sync", "async", "atomic"])
def test_g10_no_more_start_in_any_period_than_allowed_over_several_workers(made):
    """The permits are kept for as long as they are needed: all of them, where N is as large as the number of jobs."""
    enqueue_many([made.using(rate_limit="4/s").s() for _ in range(12)])
    seen: dict[int, object] = {}
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(working(threads=3))
        deadline = time.monotonic() + 40
        while Job.objects.unfinished().exists() and time.monotonic() < deadline:
            seen.update(Permit.objects.values_list("number", "taken_at"))
            time.sleep(0.02)
    seen.update(Permit.objects.values_list("number", "taken_at"))
    assert set(Job.objects.values_list("status", "tries")) == {("SUCCESSFUL", 1)}
    moments = [moment for _, moment in sorted(seen.items())]
    assert len(moments) == 12 == Limit.objects.get().started
    for first, fifth in zip(moments, moments[4:], strict=False):
        assert fifth - first >= timedelta(seconds=1)
    assert moments[-1] - moments[0] < timedelta(seconds=9)
    assert Attempt.objects.filter(outcome="snoozed").count() < 60, "they do not ask all the time"


def test_g10_threads_that_ask_at_once_get_no_more_than_there_is():
    jobs, answers = claimed(8), []

    def ask(job):
        answers.append(try_to_start(job, "3/m"))
        connection.close()

    threads = [threading.Thread(target=ask, args=[job]) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sum(answer is None for answer in answers) == 3 and len(answers) == 8


def test_a_job_waits_until_its_turn_is_expected():
    jobs = claimed(8)
    assert [try_to_start(job) for job in jobs[:2]] == [None, None]
    waits = [try_to_start(job) for job in jobs[2:6]]
    assert waits == sorted(waits) and 59 < waits[0] < 100 and 140 < waits[3] < 210
    assert all(try_to_start(job) <= LONGEST for job in jobs[6:])


def test_a_period_later_it_may_start():
    jobs = claimed(5)
    assert [try_to_start(job) for job in jobs[:2]] == [None, None]
    age(59)
    assert try_to_start(jobs[2]) is not None
    age(1)
    assert [try_to_start(job) for job in jobs[2:4]] == [None, None]
    assert try_to_start(jobs[4]) is not None
    assert Permit.objects.count() == 2, "those that count no more are gone"


def test_a_burst_is_spread_over_its_share_of_the_period():
    jobs = claimed(7)
    rate = {"rate": "60/m", "rate_burst": 2}
    assert [try_to_start(job, **rate) for job in jobs[:2]] == [None, None]
    assert 1 < try_to_start(jobs[2], **rate) < 4
    age(2.1)
    assert [try_to_start(job, **rate) for job in jobs[3:5]] == [None, None]
    assert try_to_start(jobs[5], **rate) is not None


def test_a_rate_that_changes_counts_what_has_started():
    jobs = claimed(6)
    assert [try_to_start(job, "2/m") for job in jobs[:2]] == [None, None]
    assert [try_to_start(job, "4/m") for job in jobs[2:5]] == [None, None, pytest.approx(65, abs=20)]
    assert try_to_start(jobs[5], "1/m") is not None


def test_each_key_has_its_own_rate():
    results = enqueue_many([keyed.s(tenant) for tenant in [1, 2] * 4])
    drain()
    done = Job.objects.filter(status="SUCCESSFUL")
    assert sorted(job.args for job in done) == [[1]] * 3 + [[2]] * 3
    waiting = Job.objects.scheduled()
    assert len(results) == 8 and waiting.count() == 2
    assert set(Limit.objects.values_list("key", flat=True)) == {"rate/60s tenant-1", "rate/60s tenant-2"}
    message = Attempt.objects.filter(outcome="snoozed").first().message
    assert message in {f"Waits for its turn in 'tenant-{number}', which has 3/m." for number in (1, 2)}


def test_each_attempt_is_a_start():
    job = enqueue(fails.using(rate_limit="2/h"))
    drain()
    assert fresh(job).tries == 2 and fresh(job).is_scheduled
    assert list(job.attempt_set.order_by("number").values_list("outcome", flat=True)) == ["retrying"] * 2 + ["snoozed"]


def test_without_the_option_nothing_is_asked(django_assert_num_queries):
    (job,) = claimed(1)
    context = make_worker().execution.context(job, send, lambda: None)
    with django_assert_num_queries(0):
        assert RateLimit().process_job(context, lambda: 42) == 42


def test_rates():
    assert Rate.parse("5/s") == (5, 1)
    assert Rate.parse("100/m") == (100, 60)
    assert Rate.parse("1000/h") == (1000, 3600)
    assert Rate.parse("10/30s") == (10, 30)
    assert Rate.parse("1/d") == (1, 86400)


@pytest.mark.parametrize(
    "given",
    [{"rate_limit": value} for value in ("", "5", "0/s", "5/0s", "5/w", "2/d ", "1/2d", 5, "-1/s", "1.5/s")]
    + [{"rate_burst": value} for value in (0, True, "2")]
    + [{"rate_key": 1}, {"rate_key": "{"}],
    ids=str,
)
def test_values_that_cannot_be_are_refused(given):
    with pytest.raises(InvalidTask, match=next(iter(given))):
        send.using(**given)


def test_prune_forgets_what_counts_no_more():
    (job,) = claimed(1)
    assert try_to_start(job) is None
    Job.objects.update(status="SUCCESSFUL", token=None, finished_at=timezone.now())
    prune(10**6)
    assert Permit.objects.count() == 1
    Limit.objects.update(used_at=timezone.now() - timedelta(days=3))
    prune(10**6)
    assert not Limit.objects.exists() and not Permit.objects.exists()
