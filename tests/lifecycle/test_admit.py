"""Admit: jobs of a concurrency key are in line, or running, no more of them than the key has slots."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from functools import partial

import pytest
from django.db import connection, connections
from django.db.models.functions import Now
from django.utils import timezone

from django_jobqueue import chain, enqueue_many, task
from django_jobqueue.dialects import Lane, admission, get_dialect
from django_jobqueue.lifecycle import (
    admit,
    cancel,
    follow_up,
    move,
    pause,
    peek,
    promote,
    prune,
    reap,
    reschedule,
    resume,
    retry,
    run_now,
    set_priority,
    waiting_keys,
)
from django_jobqueue.middleware.concurrency import Concurrency
from django_jobqueue.models import Job, Limit

from ..tasks import noop
from .steps import end, enqueue, failed, fall_silent, fresh, retrying, snoozed, succeeded, take, worker

pytestmark = pytest.mark.usefixtures("queue_db")

CREW = {"middleware": [Concurrency], "concurrency_key": "crew"}


@task(**CREW, concurrency=1)
def one_at_a_time(number=0):
    return number


@task(**CREW, concurrency=2)
def two_at_a_time(number=0):
    return number


@task(**CREW, in_order=True, max_attempts=9)
def in_order(number=0):
    return number


@task(middleware=[Concurrency], concurrency=1, concurrency_key="tenant-{tenant}")
def of_tenant(tenant):
    return tenant


@task(middleware=[Concurrency], concurrency=2, concurrency_key="tenant-{tenant}", fair=True)
def fair_tenant(tenant):
    return tenant


@task(
    middleware=[Concurrency], concurrency=1, concurrency_key="only {number}", unique="{tenant}", on_conflict="replace"
)
def replaced(number, tenant=1):
    return number


def let_in(*keys) -> int:
    """How many more are in line."""
    before = Job.objects.in_line().count()
    admit(keys or ("crew",), "default")
    return Job.objects.in_line().count() - before


def statuses(*jobs) -> str:
    return " ".join(str(fresh(job).status) for job in jobs)


def several(made, number=3) -> list[Job]:
    return [Job.objects.get(pk=one.id) for one in enqueue_many([made.s(n) for n in range(number)])]


def holders() -> int:
    return Job.objects.having_slots().filter(place__isnull=False).count()


# -- in and out -----------------------------------------------------------------------------------


def test_g10_a_job_of_a_key_waits_until_it_is_admitted():
    jobs = several(one_at_a_time)
    assert statuses(*jobs) == "WAITING WAITING WAITING" and {job.concurrency_key for job in jobs} == {"crew"}
    assert peek("default").limited and not peek("default").in_line
    assert let_in() == 1 and statuses(*jobs) == "READY WAITING WAITING"
    assert let_in() == 0, "it is in line, and has the slot"
    (first,) = take(worker(), 3)
    assert first.pk == jobs[0].pk and let_in() == 0
    end(first, succeeded())
    assert let_in() == 1 and statuses(*jobs) == "SUCCESSFUL READY WAITING"


def test_as_many_are_let_in_as_there_are_slots_for():
    several(two_at_a_time, 5)
    assert let_in() == 2
    for job in take(worker(), 2):
        end(job, succeeded())
    assert let_in() == 2


@pytest.mark.parametrize("slots", [3, 4, 5, 40, 700])
def test_however_many_those_are(slots):
    several(two_at_a_time.using(concurrency=slots), slots + 2)
    assert let_in() == slots


def test_a_job_that_does_not_need_a_slot_never_waits():
    job = enqueue(noop)
    assert job.status == "READY" and job.concurrency_key is None and not peek("default").limited


def test_one_that_is_enqueued_in_bulk_waits_too():
    jobs = several(one_at_a_time, 60)
    assert {job.status for job in jobs} == {"WAITING"} and let_in() == 1


def test_each_key_has_slots_of_its_own():
    enqueue_many([of_tenant.s(tenant) for tenant in "abab"])
    assert list(waiting_keys("default")) == ["tenant-a", "tenant-b"]
    assert let_in("tenant-a", "tenant-b", "tenant-c") == 2


def test_all_keys_are_found_however_many_there_are():
    enqueue_many([of_tenant.s(f"{number:03}") for number in range(120)] * 2)
    assert list(waiting_keys("default")) == [f"tenant-{number:03}" for number in range(120)]
    assert let_in(*waiting_keys("default")) == 120


def test_g10_of_many_keys_all_that_there_are_slots_for_are_let_in_a_few_at_a_time(monkeypatch):
    dialect, sizes = get_dialect("default"), []
    monkeypatch.setattr(dialect, "keys_at_once", 3)
    monkeypatch.setattr(admission, "MOST_OF_ALL", 15)
    own = dialect.admit

    def counted(keys, *args):
        before = Job.objects.in_line().count()
        admitted = own(keys, *args)
        sizes.append((len(keys), Job.objects.in_line().count() - before))
        return admitted

    monkeypatch.setattr(dialect, "admit", counted)
    enqueue_many([of_tenant.using(concurrency=13).s(tenant) for tenant in "abcdefg" * 20])
    assert let_in(*waiting_keys("default")) == 7 * 13
    assert max(keys for keys, _ in sizes) == 3 and max(number for _, number in sizes) == 15


def test_the_urgent_ones_of_a_key_come_first_and_then_the_older_ones():
    several(one_at_a_time, 2)
    urgent = enqueue(one_at_a_time.using(priority=5), 9)
    order = []
    for _ in range(3):
        let_in()
        (job,) = take(worker())
        order.append(job.args[0])
        end(job, succeeded())
    assert order == [9, 0, 1] and fresh(urgent).status == "SUCCESSFUL"


def test_who_is_let_in_stands_where_its_age_puts_it_but_not_below_the_floor():
    old, plain = several(one_at_a_time, 1)[0], enqueue(noop)
    place = fresh(old).place
    let_in()
    assert fresh(old).place == place < plain.place
    Job.objects.filter(pk=old.pk).update(status="WAITING")
    admit(["crew"], "default", {Lane("default", 0): plain.place})
    assert fresh(old).place == plain.place


def test_a_lowered_limit_counts_from_then_on():
    several(two_at_a_time, 2)
    let_in()
    first, second = take(worker(), 2)
    one_at_a_time.enqueue()
    end(first, succeeded())
    assert let_in() == 0
    end(second, succeeded())
    assert let_in() == 1


def test_a_task_that_has_a_limit_no_more_lets_all_of_them_in(monkeypatch):
    jobs = several(one_at_a_time, 9)
    object.__setattr__(one_at_a_time, "options", {**one_at_a_time.options, "concurrency": None})
    try:
        assert let_in() == len(jobs)
    finally:
        object.__setattr__(one_at_a_time, "options", {**one_at_a_time.options, "concurrency": 1})


def test_g8_a_job_of_an_unknown_task_holds_up_nobody():
    unknown, known = several(one_at_a_time, 2)
    Job.objects.filter(pk=unknown.pk).update(task_path="tests.nowhere.task")
    assert let_in() == 1 and statuses(unknown, known) == "WAITING READY"


def test_g8_the_worker_says_that_jobs_of_an_unknown_task_wait(caplog, monkeypatch):
    monkeypatch.setattr(sys.modules["django_jobqueue.lifecycle.admit"], "_told", {})
    unknown, *_ = several(one_at_a_time, 2)
    Job.objects.filter(pk=unknown.pk).update(task_path="tests.nowhere.gone")
    for _ in range(3):
        let_in()
    (warning,) = [record.getMessage() for record in caplog.records if "gone" in record.getMessage()]
    assert warning.startswith("No task 'tests.nowhere.gone'") and "wait for slots" in warning


def test_g8_neither_do_many_of_them():
    jobs = several(one_at_a_time, 30)
    Job.objects.filter(pk__in=[job.pk for job in jobs[:20]]).update(task_path="tests.nowhere.task")
    assert let_in() == 1 and fresh(jobs[20]).status == "READY"


def test_each_job_is_counted_by_its_own_number_and_holds_up_those_behind_it():
    first, second, third = several(one_at_a_time, 1) + several(two_at_a_time, 1) + several(one_at_a_time, 1)
    later = several(two_at_a_time, 1)[0]
    assert let_in() == 2 and statuses(first, second, third, later) == "READY READY WAITING WAITING"
    end(take(worker(), 2)[0], succeeded())
    assert let_in() == 0, "one has a slot, and the next may be one of one only"
    end(Job.objects.get(status="RUNNING"), succeeded())
    assert let_in() == 2 and statuses(third, later) == "READY READY"


@pytest.mark.parametrize(
    ("given", "number"),
    [
        ({"in_order": False, "concurrency": 3}, 3),
        ({"in_order": False}, 5),
        ({"concurrency": 4}, 1),
        ({"in_order": True, "concurrency": 2}, 1),
        ({"concurrency": None}, 1),
        ({"in_order": False, "concurrency": None}, 5),
    ],
    ids=str,
)
def test_what_a_job_says_for_itself_counts(given, number):
    """Those who are not limited at all by what they say have no key; these have one, as if the code had changed."""
    jobs = several(in_order, 5)
    Job.objects.filter(pk__in=[job.pk for job in jobs]).update(options=given)
    assert let_in() == number


def test_who_is_let_in_by_a_fair_task_goes_to_the_end_and_those_of_many_keys_in_turn():
    enqueue_many([fair_tenant.s(tenant) for tenant in "aaabbb"])
    plain = enqueue(noop)
    let_in("tenant-a", "tenant-b")
    names = [job.args and job.args[0] for job in Job.objects.in_line().order_by("place", "id")]
    assert names == [[], "a", "b", "a", "b"] and plain.place < Job.objects.in_line().order_by("place")[1].place


def test_who_must_run_alone_keeps_that_place():
    lonely = enqueue(fair_tenant, "a")
    Job.objects.filter(pk=lonely.pk).update(place=-7)
    assert let_in("tenant-a") == 1 and fresh(lonely).place == -7


# -- every way into the line ----------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [succeeded(), failed(), retrying(60), snoozed(60)], ids=lambda one: one.state)
def test_g10_a_slot_is_free_when_its_job_runs_no_more(outcome):
    several(one_at_a_time, 2)
    let_in()
    (job,) = take(worker())
    end(job, outcome)
    assert let_in() == 1 and holders() == 1


def test_g10_a_job_that_is_tried_again_at_once_keeps_its_slot():
    several(one_at_a_time, 2)
    let_in()
    (job,) = take(worker())
    end(job, retrying(0))
    assert fresh(job).status == "READY" and let_in() == 0


def test_g10_a_lost_job_has_its_slot_until_it_is_over():
    several(one_at_a_time, 2)
    let_in()
    holder = worker()
    (job,) = take(holder)
    fall_silent(holder)
    assert [run.job.pk for run in reap("default")] == [job.pk]
    assert let_in() == 0 and holders() == 1


def test_a_deleted_job_has_no_slot():
    first, _ = several(one_at_a_time, 2)
    let_in()
    Job.objects.filter(pk=first.pk).delete()
    assert let_in() == 1


def test_g10_a_scheduled_job_waits_for_a_slot_when_it_is_due():
    later = enqueue(one_at_a_time.using(run_after=timedelta(hours=1)))
    other = enqueue(one_at_a_time)
    assert later.status == "READY" and later.is_scheduled and let_in() == 1
    Job.objects.filter(pk=later.pk).update(run_after=Now() - timedelta(seconds=1))
    assert promote("default") == 1
    assert statuses(later, other) == "WAITING READY" and let_in() == 0 and holders() == 1


def test_g10_a_retried_job_waits_for_a_slot():
    first, second = several(one_at_a_time, 2)
    let_in()
    end(take(worker())[0], failed())
    let_in()
    assert retry([first.pk]) == 1
    assert statuses(first, second) == "WAITING READY" and let_in() == 0


@pytest.mark.parametrize("how", [run_now, reschedule])
def test_g10_a_job_that_is_to_run_now_waits_for_a_slot(how):
    later = enqueue(one_at_a_time.using(run_after=timedelta(hours=1)))
    several(one_at_a_time, 1)
    let_in()
    assert how([later.pk]) == 1
    assert fresh(later).status == "WAITING" and let_in() == 0 and holders() == 1


def test_a_job_that_is_in_line_and_put_off_gives_its_slot_back():
    first, second = several(one_at_a_time, 2)
    let_in()
    assert reschedule([first.pk], timezone.now() + timedelta(hours=1)) == 1
    assert let_in() == 1 and statuses(first, second) == "READY READY" and holders() == 1


def test_g10_a_step_of_a_chain_waits_for_a_slot_after_what_it_waited_for():
    several(one_at_a_time, 1)
    let_in()
    chain(noop.si(), one_at_a_time.si(7)).enqueue()
    step = Job.objects.order_by("pk").last()
    assert (step.status, step.waiting_for) == ("WAITING", 1) and let_in() == 0
    assert list(waiting_keys("default")) == []
    for job in take(worker(), 2):
        end(job, succeeded())
    several(one_at_a_time, 1)
    let_in()
    follow_up("default")
    assert (fresh(step).status, fresh(step).waiting_for) == ("WAITING", 0) and let_in() == 0
    end(take(worker())[0], succeeded())
    assert let_in() == 1 and fresh(step).status == "READY"


def test_a_job_that_waits_can_be_cancelled_moved_and_reprioritised():
    first, second, third = several(one_at_a_time)
    assert cancel([first.pk]).cancelled == 1
    assert move([second.pk], "other") == 1 and set_priority([third.pk], 9) == 1
    assert let_in() == 1 and statuses(first, second, third) == "CANCELLED WAITING READY"


def test_g10_a_replaced_job_waits_under_its_new_key():
    job = enqueue(replaced, 1)
    assert let_in("only 1") == 1
    enqueue(of_tenant, "x")
    Job.objects.filter(concurrency_key="tenant-x").update(concurrency_key="only 2")
    assert let_in("only 2") == 1
    assert Job.objects.get(pk=replaced.enqueue(2).id).pk == job.pk
    assert (fresh(job).status, fresh(job).concurrency_key) == ("WAITING", "only 2")
    assert let_in("only 1", "only 2") == 0
    replaced.enqueue(3)
    assert let_in("only 3") == 1
    replaced.enqueue(3)
    assert fresh(job).status == "READY", "under the same key it keeps its slot"
    replaced.using(concurrency=None).enqueue(4)
    assert (fresh(job).status, fresh(job).concurrency_key) == ("READY", None)


def test_a_debounced_job_has_no_slot_while_it_is_put_off():
    debounced = replaced.using(on_conflict="debounce")
    job = enqueue(debounced, 1)
    let_in("only 1")
    debounced.using(run_after=timedelta(hours=1)).enqueue(1)
    assert fresh(job).is_scheduled and holders() == 0
    debounced.enqueue(1)
    assert fresh(job).status == "WAITING" and let_in("only 1") == 1


def test_a_job_that_waits_for_a_slot_can_be_put_off():
    first, second = several(one_at_a_time, 2)
    chain(noop.si(), one_at_a_time.si(7)).enqueue()
    let_in()
    assert reschedule(Job.objects.all(), timezone.now() + timedelta(hours=1)) == 3
    assert fresh(first).is_scheduled and fresh(second).is_scheduled and holders() == 0
    assert Job.objects.waiting().get().waiting_for == 1, "this one waits for another job"


# -- in order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [retrying(60), snoozed(60)], ids=lambda one: one.state)
def test_in_order_nobody_overtakes_one_that_is_to_run_again(outcome):
    first, second = several(in_order, 2)
    assert let_in() == 1
    end(take(worker())[0], outcome)
    assert fresh(first).is_scheduled and let_in() == 0, "it has its turn, though not now"
    Job.objects.filter(pk=first.pk).update(run_after=Now() - timedelta(seconds=1))
    promote("default")
    assert let_in() == 1 and statuses(first, second) == "READY WAITING"
    end(take(worker())[0], failed())
    assert let_in() == 1 and statuses(first, second) == "FAILED READY"


def test_in_order_a_job_for_later_holds_up_nobody():
    later = enqueue(in_order.using(run_after=timedelta(hours=1)))
    now = enqueue(in_order)
    assert let_in() == 1 and later.is_scheduled and fresh(now).status == "READY"


# -- pause ----------------------------------------------------------------------------------------


def test_under_a_paused_key_nobody_is_let_in_and_who_was_has_to_go():
    jobs = several(two_at_a_time)
    let_in()
    (running,) = take(worker())
    pause(key="crew")
    assert statuses(*jobs) == "RUNNING WAITING WAITING" and let_in() == 0
    end(running, succeeded())
    assert let_in() == 0
    resume(key="crew")
    assert let_in() == 2


# -- together -------------------------------------------------------------------------------------


def session_of_a_worker():
    return get_dialect("default").session()


@contextmanager
def lasting_snapshots(session=nullcontext):
    """As a project may want them for its own transactions."""
    with session():
        admit(["crew"], "default")  # makes the key's row
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET default_transaction_isolation = 'repeatable read'")
        yield


def test_g10_a_worker_admits_under_keys_that_are_new_and_notes_those_that_are_used(monkeypatch):
    monkeypatch.setattr(get_dialect("default"), "direct", True, raising=False)
    with session_of_a_worker():
        several(of_tenant, 3)
        assert admit(["tenant-0", "tenant-1"], "default") == {Lane("default", 0)}
        assert Limit.objects.count() == 2 and Job.objects.in_line().count() == 2
        Limit.objects.filter(key="concurrency tenant-1").update(used_at=None)
        several(of_tenant, 3)
        admit(["tenant-0", "tenant-1", "tenant-2"], "default")
        assert Limit.objects.filter(used_at__isnull=False).count() == 3 and Job.objects.in_line().count() == 3
        Limit.objects.filter(key="concurrency tenant-1").update(used_at=None)
        admit(["tenant-0", "tenant-1"], "default")
        assert not Limit.objects.filter(used_at=None).exists()


@pytest.mark.parametrize(
    ("made", "session"),
    [
        (one_at_a_time, nullcontext),
        (two_at_a_time, nullcontext),
        (two_at_a_time, session_of_a_worker),
        (two_at_a_time, lasting_snapshots),
        (two_at_a_time, partial(lasting_snapshots, session_of_a_worker)),
    ],
    ids=["one", "two", "two-in-sessions", "two-with-lasting-snapshots", "two-in-sessions-with-lasting-snapshots"],
)
def test_g10_of_many_who_admit_at_once_no_two_give_the_same_slot(made, session, monkeypatch):
    """And each of them lets its jobs run, in a thread and a connection of its own, while more urgent ones come: two who
    did not wait for each other would let in others, each as many as there are slots.
    """
    monkeypatch.setattr(get_dialect("default"), "direct", True, raising=False)
    most, lock, failures = made.options["concurrency"], threading.Lock(), []
    several(made, 60)
    holder = worker()
    ended, all_there = threading.Event(), threading.Event()

    def come():
        try:
            for urgency in range(1, 60):
                made.using(priority=urgency).enqueue()
                ended.wait(0.005)
        except Exception as error:
            failures.append(error)
        finally:
            all_there.set()
            connections["default"].close()

    def work():
        try:
            with session():
                while not ended.is_set():
                    admit(["crew"], "default")
                    assert holders() <= most
                    with lock:  # who claims two at once would be one who runs two at once
                        jobs = take(holder, 1)
                    for job in jobs:
                        end(job, succeeded())
                    if all_there.is_set() and not Job.objects.unfinished().exists():
                        ended.set()
        except Exception as error:
            failures.append(error)
            ended.set()
        finally:
            connections["default"].close()

    threads = [threading.Thread(target=work) for _ in range(4)] + [threading.Thread(target=come)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures, failures
    assert set(Job.objects.values_list("status", flat=True)) == {"SUCCESSFUL"}


def test_prune_forgets_keys_that_nobody_uses():
    several(one_at_a_time, 1)
    let_in()
    prune(10**6)
    assert Limit.objects.count() == 1
    Limit.objects.update(used_at=timezone.now() - timedelta(days=3))
    prune(10**6)
    assert not Limit.objects.exists()
    assert let_in() == 0, "the key is made anew, and its slot is taken all the same"


def test_a_key_that_is_used_is_noted_within_the_hour():
    several(one_at_a_time, 1)
    let_in()
    Limit.objects.update(used_at=timezone.now() - timedelta(days=1))
    let_in()
    assert Limit.objects.get().used_at > timezone.now() - timedelta(minutes=1)


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite locks all there is")
def test_keys_are_locked_in_one_order(django_assert_num_queries):
    """A hundred keys, by two at once, in both orders: a deadlock would be seen as an error of the second try."""
    keys = [f"tenant-{number:03}" for number in range(100)]
    enqueue_many([of_tenant.s(key.removeprefix("tenant-")) for key in keys] * 3)
    failures = []

    def work(order):
        try:
            for _ in range(5):
                admit(order, "default")
        except Exception as error:
            failures.append(error)
        finally:
            connections["default"].close()

    threads = [threading.Thread(target=work, args=[order]) for order in (keys, keys[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures and Job.objects.in_line().count() == 100


def test_heads_are_read_for_many_keys_at_once():
    enqueue_many([of_tenant.s(tenant) for tenant in "aabbb"])
    heads = get_dialect("default").heads({"tenant-a": 5, "tenant-b": 2, "tenant-c": 1})
    assert sorted(head.concurrency_key for head in heads) == ["tenant-a", "tenant-a", "tenant-b", "tenant-b"]
