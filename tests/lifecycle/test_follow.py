"""Those who wait are told of each end once, whatever happens."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from django_jobqueue import chain, group
from django_jobqueue.lifecycle import (
    cancel,
    cancel_batch,
    find_strays,
    follow_up,
    prune,
    retry,
    retry_batch,
)
from django_jobqueue.lifecycle import follow as module
from django_jobqueue.lifecycle.prune import Pruner
from django_jobqueue.models import Attempt, Batch, Dependency, Job

from .. import batch_tasks as tasks
from ..worker.workers import drain
from . import steps
from .steps import USING, end, failed, fresh, succeeded, take_one, worker

pytestmark = pytest.mark.django_db(transaction=True)


def jobs_of(enqueued) -> list[Job]:
    return list(Job.objects.filter(batch_id=enqueued.batch_id).order_by("pk"))


def statuses(enqueued) -> list[str]:
    return [job.status for job in jobs_of(enqueued)]


def finish_one(outcome=None) -> Job:
    """Let the next job in line come to this."""
    job = take_one(worker())
    end(job, outcome or succeeded(1))
    return job


def test_g17_a_finish_leaves_the_mark_whatever_way_it_goes():
    chain(tasks.one.s(), tasks.add.s()).enqueue()
    job = finish_one()
    assert fresh(job).has_dependents
    assert follow_up(USING) == {("default", 0)}
    assert not fresh(job).has_dependents
    assert follow_up(USING) == set()

    other, _ = jobs_of(chain(tasks.one.s(), tasks.add.s()).enqueue())
    cancel([other.pk])
    assert fresh(other).has_dependents
    follow_up(USING)
    assert [job.status for job in jobs_of_last()] == ["CANCELLED", "CANCELLED"]


def jobs_of_last() -> list[Job]:
    return list(Job.objects.filter(batch=Batch.objects.latest("pk")).order_by("pk"))


def test_g17_nothing_is_told_twice_nor_half(monkeypatch):
    """It fails in the middle: all of it is undone, and done again by whoever comes next."""
    enqueued = group(tasks.one.s(), tasks.one.s()).then(tasks.total.s()).enqueue()
    finish_one()
    real = module._release

    def broken(*args):
        raise SystemExit("the process ends")

    monkeypatch.setattr(module, "_move_on", broken)
    with pytest.raises(SystemExit):
        follow_up(USING)
    assert not Dependency.objects.filter(status__isnull=False).exists()
    monkeypatch.undo()
    assert module._release is real
    follow_up(USING)
    assert jobs_of(enqueued)[-1].waiting_for == 1
    follow_up(USING)
    assert jobs_of(enqueued)[-1].waiting_for == 1
    finish_one()
    follow_up(USING)
    assert statuses(enqueued) == ["SUCCESSFUL", "SUCCESSFUL", "READY"]
    assert jobs_of(enqueued)[-1].args == [[1, 1]]


def test_g17_a_lost_attempt_is_no_end(monkeypatch):
    enqueued = chain(tasks.one.s(), tasks.add.s()).enqueue()
    first = take_one(worker())
    steps.fall_silent(first.worker)
    steps.tick()
    from django_jobqueue.lifecycle import reap

    reap(USING)
    follow_up(USING)
    assert statuses(enqueued) == ["READY", "WAITING"]
    again = take_one(worker())
    assert end(first, succeeded(5)) == {}  # the zombie
    follow_up(USING)
    assert statuses(enqueued) == ["RUNNING", "WAITING"]
    end(again, succeeded(7))
    follow_up(USING)
    assert jobs_of(enqueued)[1].args == [7]


def test_a_job_that_was_cancelled_while_it_waited_is_not_woken():
    enqueued = chain(tasks.one.s(), tasks.add.s()).enqueue()
    cancel([jobs_of(enqueued)[1].pk])
    finish_one()
    follow_up(USING)
    assert statuses(enqueued) == ["SUCCESSFUL", "CANCELLED"]
    assert not Job.objects.filter(has_dependents=True).exists()


def test_who_was_not_marked_is_found():
    """The process that enqueued ended between its commit and the mark."""
    first = tasks.one.enqueue()
    second = tasks.show.using(after=first).enqueue()
    Job.objects.update(has_dependents=False)
    finish_one()
    assert follow_up(USING) == set()
    assert Job.objects.get(pk=second.id).status == "WAITING"
    assert find_strays(USING) == 0
    assert Job.objects.get(pk=second.id).status == "READY"


def test_who_waits_for_what_is_gone_is_found():
    first = tasks.one.enqueue()
    second = tasks.show.using(after=first).enqueue()
    third = tasks.show.using(after=first, if_failed="run").enqueue()
    Job.objects.filter(pk=first.id).delete()
    find_strays(USING)
    assert Job.objects.get(pk=second.id).status == "CANCELLED"
    assert Job.objects.get(pk=third.id).status == "READY"


def test_strays_are_looked_for_bit_by_bit(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    first = tasks.one.enqueue()
    last = [tasks.show.using(after=first).enqueue() for _ in range(3)][-1]
    behind = find_strays(USING)
    assert behind > 0
    assert find_strays(USING, behind) == 0
    assert int(last.id) > behind


def test_a_worker_finds_strays(monkeypatch):
    from ..worker.workers import working

    first = tasks.one.enqueue()
    drain()
    second = tasks.show.using(after=first).enqueue()
    Job.objects.filter(pk=second.id).update(status="WAITING", waiting_for=1)
    Dependency.objects.update(status=None)
    Job.objects.update(has_dependents=False)
    monkeypatch.setattr("django_jobqueue.worker.maintenance.REAP_INTERVAL", 0.05)
    from time import monotonic, sleep

    with working():
        deadline = monotonic() + 20
        while Job.objects.get(pk=second.id).status != "SUCCESSFUL" and monotonic() < deadline:
            sleep(0.02)
    assert Job.objects.get(pk=second.id).status == "SUCCESSFUL"


def test_many_who_wait_for_one_are_told_in_several_transactions(monkeypatch):
    monkeypatch.setattr(module, "TOLD", 7)
    monkeypatch.setattr(module, "CHUNK", 3)
    enqueued = chain(tasks.one.s(), group(*(tasks.add.s(number) for number in range(20))), tasks.total.s()).enqueue()
    finish_one()
    follow_up(USING)
    assert statuses(enqueued) == ["SUCCESSFUL"] + ["READY"] * 20 + ["WAITING"]
    monkeypatch.setattr(module, "ENDS", 4)
    for _ in range(20):
        finish_one()
    follow_up(USING)
    assert statuses(enqueued) == ["SUCCESSFUL"] * 21 + ["READY"]
    assert jobs_of(enqueued)[-1].args == [[1] * 20]


# -- retry ----------------------------------------------------------------------------------------


def test_a_chain_goes_on_when_its_failed_step_is_retried():
    enqueued = chain(tasks.one.s(), tasks.add.s(1), tasks.add.s(2)).enqueue()
    finish_one(failed())
    follow_up(USING)
    assert statuses(enqueued) == ["FAILED", "CANCELLED", "CANCELLED"]
    first, second, _ = jobs_of(enqueued)
    assert retry([second.pk]) == 0  # it has nothing to go on with
    assert statuses(enqueued) == ["FAILED", "CANCELLED", "CANCELLED"]
    assert retry([first.pk]) == 1
    assert statuses(enqueued) == ["READY", "WAITING", "WAITING"]
    drain()
    assert statuses(enqueued) == ["SUCCESSFUL"] * 3
    assert jobs_of(enqueued)[-1].result == 1 + 1 + 2


def test_what_waits_for_two_is_revived_only_when_both_can_succeed():
    enqueued = group(tasks.one.s(), tasks.one.s()).then(tasks.total.s()).enqueue()
    finish_one(failed())
    finish_one(failed())
    follow_up(USING)
    first, second, _ = jobs_of(enqueued)
    retry([first.pk])
    assert statuses(enqueued) == ["READY", "FAILED", "CANCELLED"]
    retry([second.pk])
    assert statuses(enqueued) == ["READY", "READY", "WAITING"]
    assert jobs_of(enqueued)[-1].waiting_for == 2
    drain()
    assert statuses(enqueued) == ["SUCCESSFUL"] * 3


def test_a_job_that_was_cancelled_while_it_waited_waits_again_when_it_is_retried():
    enqueued = chain(tasks.one.s(), tasks.add.s(1)).enqueue()
    second = jobs_of(enqueued)[1]
    cancel([second.pk])
    retry([second.pk])
    assert statuses(enqueued) == ["READY", "WAITING"]
    drain()
    assert statuses(enqueued) == ["SUCCESSFUL"] * 2


# -- batches --------------------------------------------------------------------------------------


def test_a_batch_is_cancelled_as_a_whole():
    enqueued = group(tasks.one.s(), tasks.one.s()).then(tasks.total.s(), if_failed="run").enqueue()
    running = take_one(worker())
    done = cancel_batch(enqueued.batch_id)
    assert (done.cancelled, done.requested) == (2, 1)
    follow_up(USING)
    assert statuses(enqueued) == ["RUNNING", "CANCELLED", "CANCELLED"]
    end(running, succeeded())
    follow_up(USING)
    assert statuses(enqueued) == ["SUCCESSFUL", "CANCELLED", "CANCELLED"]
    assert Batch.objects.get().cancelled_at is not None


def test_nothing_is_added_to_a_cancelled_batch():
    from django_jobqueue import enqueue_beside

    enqueued = group(tasks.one.s(), tasks.one.s()).then(tasks.total.s()).enqueue()
    cancel_batch(enqueued.batch_id)
    with pytest.raises(ValueError, match="was cancelled"):
        enqueue_beside([tasks.one.s()], enqueued[0])
    assert Job.objects.count() == 3


@pytest.mark.parametrize("told", [True, False])
def test_a_batch_is_retried_as_a_whole(told):
    enqueued = chain(tasks.one.s(), group(tasks.add.s(1), tasks.add.s(2)), tasks.total.s()).enqueue()
    finish_one()
    follow_up(USING)
    cancel_batch(enqueued.batch_id)
    if told:
        follow_up(USING)
    assert retry_batch(enqueued.batch_id) == 2
    assert statuses(enqueued) == ["SUCCESSFUL", "READY", "READY", "WAITING"]
    drain()
    assert statuses(enqueued) == ["SUCCESSFUL"] * 4
    assert jobs_of(enqueued)[-1].result == 2 + 3


def test_a_pruned_batch_leaves_nothing():
    enqueued = chain(tasks.one.s(), tasks.add.s()).enqueue()
    drain()
    assert prune(0) == 2
    assert not Batch.objects.filter(pk=enqueued.batch_id).exists()
    assert not Dependency.objects.exists()
    assert not Attempt.objects.exists()


def test_an_end_that_somebody_must_be_told_of_is_not_pruned():
    chain(tasks.one.s(), tasks.add.s()).enqueue()
    finish_one()
    steps.tick()
    assert prune(0) == 0
    follow_up(USING)
    assert prune(0) == 1


# -- results stay until they are handed on --------------------------------------------------------


def grow_old(seconds: float = 3600) -> None:
    """As much time has passed."""
    for name in ("finished_at", "prune_at", "result_until"):
        Job.objects.filter(**{f"{name}__isnull": False}).update(**{name: F(name) - timedelta(seconds=seconds)})


def end_first(**changes) -> Job:
    """The first job in line has succeeded, and its row says this besides."""
    job = finish_one(succeeded(7))
    Job.objects.filter(pk=job.pk).update(**changes)
    return job


OLD = {"keep": {"prune_at": Now()}, "result_ttl": {"result_until": Now()}, "RETENTION": {}}


@pytest.mark.parametrize("how", OLD)
@pytest.mark.parametrize("is_told", [True, False])
def test_a_result_stays_until_it_is_handed_on(how, is_told):
    enqueued = group(tasks.one.s(), tasks.one.s()).then(tasks.show.s()).enqueue()
    first = end_first(**OLD[how])
    if is_told:
        follow_up(USING)
    grow_old()
    assert prune(60, USING) == 0
    assert fresh(first).result == 7
    finish_one()
    follow_up(USING)
    assert jobs_of(enqueued)[-1].args == [[7, 1]]
    grow_old()
    prune(60, USING)
    if how == "result_ttl":
        assert prune(None, USING) == 0
    assert not Job.objects.filter(pk=first.pk, result__isnull=False).exists()


@pytest.mark.parametrize("how", OLD)
def test_who_is_retried_for_a_result_that_is_gone_fails_and_says_so(how):
    enqueued = group(tasks.one.s(), tasks.one.s()).then(tasks.show.s()).enqueue()
    first = end_first(**OLD[how])
    other = finish_one(failed())
    follow_up(USING)
    assert statuses(enqueued) == ["SUCCESSFUL", "FAILED", "CANCELLED"]
    grow_old()
    prune({"SUCCESSFUL": None if how == "result_ttl" else 60, "FAILED": None, "CANCELLED": None}, USING)
    assert not Job.objects.filter(pk=first.pk, result__isnull=False).exists()
    retry([other.pk])
    finish_one()
    follow_up(USING)
    last = Job.objects.get(pk=enqueued[-1].id)
    assert last.status == "FAILED"
    message = last.attempt_set.order_by("number").last().message
    assert message.startswith(f"The result of job #{first.pk}, which it was to get, has been deleted")
    # nor is it run without when it is retried
    assert retry([last.pk]) == 0
    assert fresh(last).status == "FAILED"


def test_a_job_that_has_got_its_result_can_be_retried_when_that_is_gone():
    enqueued = chain(tasks.one.s(), tasks.show.s()).enqueue()
    end_first(result_until=Now())
    follow_up(USING)
    finish_one(failed())
    grow_old()
    prune(None, USING)
    assert jobs_of(enqueued)[0].result is None
    assert retry([jobs_of(enqueued)[1].pk]) == 1
    assert take_one(worker()).args == [7]


def test_many_results_that_are_waited_for_do_not_keep_others_from_being_pruned(monkeypatch):
    monkeypatch.setattr(sys.modules[Pruner.__module__], "BATCH", 2)
    group(*(tasks.one.s() for _ in range(4)), tasks.one.s()).then(tasks.show.s()).enqueue()
    for _ in range(4):
        end_first(prune_at=Now())
    free = tasks.one.enqueue()
    Job.objects.filter(pk=free.id).update(priority=1)
    end_first(prune_at=Now())
    follow_up(USING)
    grow_old()
    assert prune(None, USING) == 1
    assert not Job.objects.filter(pk=free.id).exists()


# -- behind what is gone --------------------------------------------------------------------------


@pytest.mark.parametrize("ended_before", [True, False])
@pytest.mark.parametrize(("outcome", "status"), [(succeeded(1), "READY"), (failed(), "CANCELLED")])
def test_a_job_behind_one_that_was_pruned_meanwhile(ended_before, outcome, status):
    """Pruned while the transaction was open that enqueued behind it."""
    if not ended_before and status == "CANCELLED":
        pytest.skip("of that one nobody knows what it came to")
    first = tasks.one.enqueue()
    if ended_before:
        finish_one(outcome)
    with transaction.atomic():
        second = tasks.show.using(after=first).enqueue()
        Job.objects.filter(pk=first.id).delete()
    assert Job.objects.get(pk=second.id).status == status


def test_a_job_is_not_pruned_before_those_behind_it_know():
    """The process that enqueued ended between its commit and the mark."""
    first = tasks.one.enqueue()
    second = tasks.show.using(after=first).enqueue()
    Job.objects.update(has_dependents=False)
    finish_one()
    grow_old()
    assert prune(60, USING) == 0
    find_strays(USING)
    assert Job.objects.get(pk=second.id).status == "READY"
    assert prune(60, USING) == 1


def test_who_waits_for_what_was_deleted_by_hand_is_told_so():
    first = tasks.one.enqueue()
    second = tasks.show.using(after=first, if_failed="fail").enqueue()
    Job.objects.filter(pk=first.id).delete()
    find_strays(USING)
    assert "has been deleted, so nobody knows" in Attempt.objects.get(job_id=second.id).message


# -- a batch is cancelled -------------------------------------------------------------------------


def test_what_is_to_run_at_the_end_in_any_case_runs_when_the_batch_is_cancelled():
    steps_ = chain(tasks.one.s(), tasks.add.s()).on_failure(tasks.show.si("failed")).finally_(tasks.show.si("over"))
    enqueued = steps_.enqueue()
    take_one(worker())
    cancelled = cancel_batch(enqueued.batch_id, USING)
    assert (cancelled.cancelled, cancelled.requested) == (2, 1)
    assert statuses(enqueued) == ["RUNNING", "CANCELLED", "CANCELLED", "WAITING"]
    end(jobs_of(enqueued)[0], steps.retrying())
    follow_up(USING)
    assert statuses(enqueued) == ["CANCELLED", "CANCELLED", "CANCELLED", "READY"]
    assert cancel_batch(enqueued.batch_id, USING).cancelled == 0
    finish_one()
    assert statuses(enqueued)[-1] == "SUCCESSFUL"
