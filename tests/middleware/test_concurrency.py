"""Concurrency: never more at once than a key allows, over all workers, and no slot is kept by what is gone."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from typing import Any

import pytest
from django.db.models import Max, Min

from django_jobqueue import enqueue_many, task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.keys import limit_key
from django_jobqueue.lifecycle import QueueSelector, admit, lanes_in_order, pause, resume, waiting_keys
from django_jobqueue.models import Attempt, Job, Limit, Queue
from django_jobqueue.worker.follower import Follower

from ..lifecycle.steps import USING, end, enqueue, fresh, succeeded, take, worker
from ..tasks import noop
from ..worker.workers import drain, make_worker, working

PATH = "django_jobqueue.middleware.concurrency.Concurrency"
lock = threading.Lock()
now_running: dict[str, int] = {}
most_seen: dict[str, int] = {}


@pytest.fixture(autouse=True)
def used(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    now_running.clear()
    ran.clear()
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


ran: list[Any] = []


@task(middleware=[PATH], concurrency_key="{tenant}")
def served(tenant):
    ran.append(tenant)


@task(middleware=[PATH], concurrency_key="{tenant}", fair=True)
def waiting_its_turn(tenant):
    ran.append(tenant)
    time.sleep(0.02)


@task(middleware=[PATH], in_order=True)
def ordered(number):
    ran.append(number)


@task(max_attempts=2, backoff=0)
def fails():
    raise KeyError("no")


# -- the limit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [work, awork, atomic_work], ids=["sync", "async", "atomic"])
@pytest.mark.parametrize("most", [1, 2])
def test_g10_no_more_run_at_once_than_allowed_over_several_workers(made, most, eventually):
    enqueue_many([made.using(concurrency=most).s("all", 0.03) for _ in range(12)])
    with working(threads=3), working(threads=3), working(threads=3):
        eventually(lambda: not Job.objects.unfinished().exists(), within=45)
    assert set(Job.objects.values_list("status", flat=True)) == {"SUCCESSFUL"}
    assert most_seen["all"] <= most
    assert set(Job.objects.values_list("tries", flat=True)) == {1}, "to wait is no attempt"


def test_jobs_that_wait_keep_the_pace_of_those_that_run():
    """Ten jobs of a tenth of a second, one at a time; and nobody asks in vain."""
    enqueue_many([work.using(concurrency=1).s("all", 0.1) for _ in range(10)])
    drain()
    assert most_seen["all"] == 1 and not Job.objects.unfinished().exists()
    times = Attempt.objects.aggregate(began=Min("started_at"), ended=Max("finished_at"))
    assert (times["ended"] - times["began"]).total_seconds() < 10
    assert set(Attempt.objects.values_list("outcome", flat=True)) == {"succeeded"} and Attempt.objects.count() == 10


def test_each_key_has_its_own_slots():
    enqueue_many([keyed.s(key, 0.05) for key in "ababab"])
    drain(threads=6)
    assert not Job.objects.unfinished().exists()
    assert most_seen["a"] <= 2 and most_seen["b"] <= 2
    assert set(Limit.objects.values_list("key", flat=True)) == {"concurrency tenant-a", "concurrency tenant-b"}


def test_an_attempt_that_fails_gives_its_slot_back_and_takes_another():
    enqueue_many([fails.using(concurrency=1).s() for _ in range(3)])
    drain(4)
    assert set(Job.objects.values_list("status", "tries")) == {("FAILED", 2)}


@pytest.mark.parametrize("made", [work, awork, atomic_work], ids=["sync", "async", "atomic"])
def test_g10_a_job_that_was_enqueued_before_its_task_had_a_limit_is_sent_to_its_key(made):
    enqueue_many([made.s("all", 0.03) for _ in range(6)])
    Job.objects.update(options={"concurrency": 1})
    drain(threads=4)
    assert most_seen["all"] == 1 and set(Job.objects.values_list("status", "tries")) == {("SUCCESSFUL", 1)}
    assert set(Job.objects.values_list("concurrency_key", flat=True)) == {made.module_path}
    assert Attempt.objects.count() == 6, "no attempt is burned"


def test_draining_overlooks_no_job_that_gets_its_slot_just_after_the_look(monkeypatch, eventually):
    """The look finds nobody in line, and before the next thing is asked somebody is, and who let him in is at rest."""
    enqueue_many([work.using(concurrency=1).s() for _ in range(2)])
    worker = make_worker(drain=5)
    lanes, follower, go = worker.claimer.lanes, worker.claimer.follower, threading.Event()
    look = lanes.look_from_the_front

    def admit_later(*args):
        assert go.wait(10)
        return admit(*args)

    def look_from_the_front():
        look()
        if worker.claimer._keys_seen and not go.is_set():  # all has been asked for, it only has to be done
            go.set()
            eventually(lambda: follower.is_at_rest)

    monkeypatch.setattr("django_jobqueue.worker.follower.admit", admit_later)
    monkeypatch.setattr(lanes, "look_from_the_front", look_from_the_front)
    assert worker.run()
    assert go.is_set() and not Job.objects.unfinished().exists()


def test_c2_with_more_free_keys_than_it_remembers_the_follower_looks_at_all_of_them(monkeypatch, eventually):
    monkeypatch.setattr("django_jobqueue.worker.follower.MANY", 5)
    names = [f"tenant {number}" for number in range(12)]
    enqueue_many([served.using(concurrency=1).s(name) for name in names for _ in range(2)])
    follower = Follower(USING, lambda lanes: None, dict)
    for name in names:
        follower.free([name])
        assert len(follower._freed) <= 5
    follower.start()
    eventually(lambda: follower.is_at_rest, within=30)
    assert Job.objects.filter(status="READY").count() == len(names)
    follower.stop()
    follower.join(30)
    drain()
    assert sorted(ran) == sorted(names * 2), "nobody was forgotten"


def test_in_order_they_run_one_after_another_in_the_order_of_their_enqueue(eventually):
    enqueue_many([ordered.s(number) for number in range(12)])
    with working(threads=3), working(threads=3):
        eventually(lambda: not Job.objects.unfinished().exists(), within=30)
    assert list(range(12)) == ran


def test_a_tenant_with_many_short_jobs_does_not_keep_another_one_waiting():
    enqueue_many([served.using(concurrency=4).s("big") for _ in range(400)])
    enqueue_many([served.using(concurrency=2).s("small") for _ in range(40)])
    drain(threads=2)
    last = max(place for place, tenant in enumerate(ran) if tenant == "small")
    assert len(ran) == 440 and 60 < last < 240, f"40 of the small one among {last} of both"


@pytest.mark.parametrize(
    ("before", "threads", "slots", "if_all_took_turns"), [(1, 4, 4, 20), (1, 1, 2, 20), (3, 2, 1, 40), (4, 4, 2, 50)]
)
def test_fair_keys_take_turns_however_old_their_jobs_are(before, threads, slots, if_all_took_turns):
    """Those before have 40 jobs each, enqueued before the ten of the small one: by age it would be served last."""
    for number in range(before):
        enqueue_many([waiting_its_turn.using(concurrency=slots).s(f"big-{number}") for _ in range(40)])
    enqueue_many([waiting_its_turn.using(concurrency=slots).s("small") for _ in range(10)])
    drain(threads=threads)
    tenth = max(place for place, tenant in enumerate(ran) if tenant == "small") + 1
    # what is in line already, or claimed, when the next one of a key is let in
    assert tenth <= if_all_took_turns + (before + 1) * slots + 2 * threads, tenth


def test_fair_keys_have_shares_by_their_slots():
    for tenant, slots in (("one", 1), ("three", 3)):
        enqueue_many([waiting_its_turn.using(concurrency=slots).s(tenant) for _ in range(80)])
    drain(threads=1)
    among = ran[20:80].count("three")
    assert 38 <= among <= 50, f"about 45 of 60: {among}"


def test_a_drain_lets_in_all_that_it_can_and_does_not_wait_for_the_slots_of_others():
    enqueue_many([work.using(concurrency=1).s("all", 0.01) for _ in range(4)])
    admit([work.module_path], "default")
    (held,) = take(worker())
    drain(0)
    assert Job.objects.waiting().count() == 3 and "all" not in most_seen
    end(held, succeeded())
    drain(0)
    assert set(Job.objects.values_list("status", flat=True)) == {"SUCCESSFUL"}


# -- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "args", "kwargs", "key"),
    [
        (None, [5], {}, "tests.middleware.test_concurrency.other"),
        ("tenant-{0}", [5], {}, "tenant-5"),
        ("{tenant}/{region}", [5], {}, "5/eu"),
        ("{tenant}/{region}", [], {"tenant": 5, "region": "us"}, "5/us"),
        ("smtp", [5], {}, "smtp"),
        (lambda tenant, region="": f"{tenant}!{region}", [5], {"region": "us"}, "5!us"),
    ],
)
def test_keys(template, args, kwargs, key):
    made = other.using() if template is None or callable(template) else other.using(concurrency_key=template)
    job = Job(task_path=other.module_path, args=args, kwargs=kwargs, options=dict(made.given))
    if callable(template):
        job.options = {"concurrency_key": template}
    assert limit_key(made, job, "concurrency_key") == key


def test_long_keys_are_cut_and_stay_different():
    made = other.using(concurrency=1, concurrency_key="{0}")
    keys = [enqueue(made, "x" * 300 + last).concurrency_key for last in "ab"]
    assert len(set(keys)) == 2 and {len(key) for key in keys} == {200}


def test_a_template_that_does_not_fit_the_call_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"concurrency_key '\{nobody\}' does not fit the call other\(1\)"):
        other.using(concurrency=1, concurrency_key="{nobody}").enqueue(1)
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    "given",
    [
        {"concurrency": 0},
        {"concurrency": True},
        {"concurrency": "2"},
        {"concurrency_key": 1},
        {"concurrency_key": "{"},
        {"in_order": 1},
    ],
    ids=str,
)
def test_values_that_cannot_be_are_refused(given):
    with pytest.raises(InvalidTask, match=next(iter(given))):
        work.using(**given)


# -- keys at the edge -----------------------------------------------------------------------------


@task(middleware=[PATH], concurrency=1, concurrency_key=lambda tenant: tenant)
def by_tenant(tenant):
    pass


def test_a_callable_that_returns_none_lets_the_job_run_without_a_limit():
    free = [enqueue(by_tenant, None) for _ in range(3)]
    assert [(job.status, job.concurrency_key) for job in free] == [("READY", None)] * 3
    drain(2)
    assert set(Job.objects.values_list("status", flat=True)) == {"SUCCESSFUL"}


@pytest.mark.parametrize("key", ["", "  "])
def test_a_blank_key_is_refused_when_the_job_is_enqueued(key):
    with pytest.raises(ValueError, match="made a blank key"):
        by_tenant.enqueue(key)
    assert not Job.objects.exists()


#: Alike to the usual collations of MySQL and MariaDB, and not to Python.
ALIKE = ["ada", "Ada", "adá", "ada ", "ada\U0001f600", "ada\U0001f601", "ada\u0301", "ADA"]


def test_keys_compare_byte_by_byte():
    jobs = {key: [enqueue(by_tenant, key) for _ in range(2)] for key in ALIKE}
    assert sorted(waiting_keys(USING)) == sorted(ALIKE)
    admit(waiting_keys(USING), USING)
    for one, other in jobs.values():
        assert (fresh(one).status, fresh(other).status) == ("READY", "WAITING")
    assert pause(key="Ada") and resume(key="ADA") is False
    drain()
    statuses = {key: {fresh(job).status for job in both} for key, both in jobs.items()}
    assert statuses.pop("Ada") == {"WAITING"}
    assert set(map(frozenset, statuses.values())) == {frozenset({"SUCCESSFUL"})}


def test_queues_compare_byte_by_byte():
    names = ["mail", "Mail", "maíl", "mail ", "mail\U0001f600", "mail\U0001f601"]
    for name in names:
        enqueue(noop.using(queue_name=name))
    assert pause("Mail")
    assert {lane.queue_name for lane in lanes_in_order(QueueSelector(), USING)} == set(names) - {"Mail"}
    drain()
    assert list(Job.objects.exclude(status="SUCCESSFUL").values_list("queue_name", flat=True)) == ["Mail"]
    assert Queue.objects.filter(name__in=names).count() == len(names)
