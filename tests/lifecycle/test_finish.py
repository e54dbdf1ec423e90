"""Finish: the one place where an attempt's end is written down."""

import sys
from datetime import timedelta

import pytest
from django.db import DatabaseError
from django.db.models.functions import Now
from django.utils import timezone

from django_jobqueue.lifecycle import Run, cancel, finish, next_due, release, retry
from django_jobqueue.models import Attempt, Job
from django_jobqueue.outcomes import MESSAGE_LENGTH, Outcome, State

from ..tasks import noop
from .steps import (
    USING,
    attempts,
    end,
    enqueue,
    failed,
    fresh,
    interrupted,
    outcomes,
    retrying,
    run_of,
    snoozed,
    started,
    succeeded,
    take,
    take_one,
    tick,
    worker,
)

pytestmark = pytest.mark.django_db


def raised(error: Exception) -> Exception:
    """The exception with a traceback."""
    try:
        raise error
    except Exception as caught:
        return caught


def test_a_success_is_written_with_its_attempt():
    job = started()
    assert end(job, succeeded({"n": [1, None]}), took=2.0) == {job.pk: "SUCCESSFUL"}
    row, (attempt,) = fresh(job), attempts(job)
    assert (row.status, row.result) == (Job.Status.SUCCESSFUL, {"n": [1, None]})
    assert row.fence is None and row.worker_id is None
    assert (attempt.number, attempt.outcome, attempt.worker_id) == (1, "succeeded", job.worker_id)
    assert (attempt.message, attempt.exception_class_path, attempt.traceback) == ("", "", "")
    assert not attempt.is_error


def test_a_failure_keeps_the_exception_and_its_traceback():
    job = started()
    end(job, failed(raised(LookupError("no such order"))))
    row, (attempt,) = fresh(job), attempts(job)
    assert (row.status, row.result) == (Job.Status.FAILED, None)
    assert row.finished_at is not None
    assert (attempt.outcome, attempt.message) == ("failed", "LookupError: no such order")
    assert attempt.exception_class_path == "builtins.LookupError"
    assert "in raised" in attempt.traceback and attempt.traceback.endswith("LookupError: no such order\n")
    assert attempt.is_error


def test_g15_times_are_the_databases_own_and_only_differences_are_measured(monkeypatch):
    job = started()
    claimed_at = fresh(job).started_at
    monkeypatch.setattr("django.utils.timezone.now", lambda: claimed_at + timedelta(days=400))
    run = run_of(job, succeeded())
    run.started, run.ended = run.claimed + 1.5, run.claimed + 4.0
    finish([run], USING)
    (attempt,) = attempts(job)
    near = timedelta(milliseconds=5)
    assert abs(attempt.started_at - claimed_at - timedelta(seconds=1.5)) < near
    assert abs(attempt.duration - timedelta(seconds=2.5)) < near
    assert abs(fresh(job).started_at - attempt.started_at) < near
    assert fresh(job).finished_at < claimed_at + timedelta(minutes=1)


# -- the fence ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome", [succeeded("late"), failed(), retrying(), interrupted()], ids=lambda o: str(o.state)
)
def test_g4_finish_with_a_stale_fence_writes_nothing(outcome):
    job = enqueue()
    lost = take_one(worker())
    release([lost], USING)
    holder = worker()
    current = take_one(holder)
    assert end(lost, outcome) == {}
    row = fresh(job)
    assert (row.status, row.fence, row.worker_id) == (Job.Status.RUNNING, current.fence, holder.pk)
    assert row.result is None and attempts(job) == []
    assert end(current, succeeded("mine")) == {job.pk: "SUCCESSFUL"}


def test_g4_a_late_failure_does_not_reopen_a_finished_job():
    job = enqueue(noop.using(max_attempts=9))
    lost = take_one(worker())
    release([lost], USING)
    end(take_one(worker()), succeeded("done"))
    assert end(lost, retrying()) == {}
    assert (fresh(job).status, fresh(job).result, outcomes(job)) == (Job.Status.SUCCESSFUL, "done", ["succeeded"])


def test_an_attempt_ends_once():
    job = started()
    end(job, succeeded(1))
    assert end(job, succeeded(2)) == {}
    assert fresh(job).result == 1 and len(attempts(job)) == 1


def test_two_ends_of_one_attempt_in_one_batch_are_one(queue_db):
    """A shutdown interrupts a job in the moment that it ends by itself."""
    job, other = started(), started()
    written = finish([run_of(job, succeeded(1)), run_of(other, succeeded()), run_of(job, interrupted())], USING)
    assert set(written) == {job.pk, other.pk}
    assert len(attempts(job)) == 1
    assert fresh(job).status == (Job.Status.SUCCESSFUL if outcomes(job) == ["succeeded"] else Job.Status.READY)
    assert fresh(other).status == Job.Status.SUCCESSFUL


def test_the_end_of_a_deleted_job_writes_nothing():
    job = started()
    Job.objects.filter(pk=job.pk).delete()
    assert end(job, succeeded()) == {}
    assert not Attempt.objects.exists()


def test_nothing_to_write_is_nothing_written():
    assert finish([], USING) == {}


# -- what becomes of the job ----------------------------------------------------------------------


def test_a_retry_with_a_delay_is_scheduled_by_the_databases_clock():
    job = started(noop.using(max_attempts=3))
    assert end(job, retrying(60.0)) == {job.pk: "READY"}
    row = fresh(job)
    assert row.is_scheduled and row.finished_at is None and row.fence is None and row.worker_id is None
    assert (row.attempts, row.tries) == (1, 1)
    assert 50 < next_due(USING) <= 60
    assert outcomes(job) == ["retrying"]


def test_a_retry_without_delay_goes_to_the_end_of_the_line():
    job, other = started(noop.using(max_attempts=3)), enqueue()
    tick()
    end(job, retrying())
    assert [one.pk for one in take(worker(), 5)] == [other.pk, job.pk]


def test_a_retry_may_name_a_time():
    job = started(noop.using(max_attempts=3))
    at = timezone.now() + timedelta(days=2)
    end(job, retrying(run_after=at))
    assert fresh(job).is_scheduled and abs(fresh(job).run_after - at) < timedelta(milliseconds=1)


def test_a_retry_may_move_the_job():
    job = started(noop.using(max_attempts=3))
    end(job, retrying(queue_name="slow", priority=-50))
    assert (fresh(job).queue_name, fresh(job).priority) == ("slow", -50)
    end(take_one(worker()), retrying(priority=0))
    assert (fresh(job).queue_name, fresh(job).priority) == ("slow", 0)


@pytest.mark.parametrize("outcome", [snoozed(), interrupted()], ids=lambda o: str(o.state))
def test_an_attempt_that_does_not_count_leaves_the_tries_alone(outcome):
    job = started(noop.using(max_attempts=3))
    end(job, outcome)
    row = fresh(job)
    assert (row.status, row.attempts, row.tries, row.losses) == (Job.Status.READY, 1, 0, 0)
    assert outcomes(job) == [outcome.state]


def test_g6_an_interrupted_job_keeps_its_place():
    job, other = started(), enqueue()
    end(job, interrupted())
    assert [one.pk for one in take(worker(), 5)] == [job.pk, other.pk]


def test_skipped_with_a_result_is_a_success_and_without_one_is_cancelled():
    done, dropped = started(), started()
    end(done, Outcome(state=State.SKIPPED, status=Job.Status.SUCCESSFUL, result=7, message="cached"))
    end(dropped, Outcome(state=State.SKIPPED, status=Job.Status.CANCELLED, message="not needed"))
    assert (fresh(done).status, fresh(done).result) == (Job.Status.SUCCESSFUL, 7)
    assert fresh(dropped).status == Job.Status.CANCELLED
    assert attempts(dropped)[0].message == "not needed"


def test_attempts_are_numbered_one_after_the_other():
    job = enqueue(noop.using(max_attempts=9))
    for outcome in (retrying(), snoozed(), interrupted(), retrying(), succeeded()):
        end(take_one(worker()), outcome)
    assert [(one.number, one.outcome) for one in attempts(job)] == [
        (1, "retrying"),
        (2, "snoozed"),
        (3, "interrupted"),
        (4, "retrying"),
        (5, "succeeded"),
    ]
    assert (fresh(job).attempts, fresh(job).tries) == (5, 3)


# -- cancelled while it ran -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcome", [retrying(), retrying(60.0), snoozed(9.0), interrupted()], ids=lambda o: str(o.state)
)
def test_g13_a_job_that_was_to_be_cancelled_does_not_run_again(outcome):
    job = started(noop.using(max_attempts=9))
    assert cancel([job.pk]).requested == 1
    assert end(job, outcome) == {job.pk: "CANCELLED"}
    row = fresh(job)
    assert row.status == Job.Status.CANCELLED and row.finished_at is not None
    assert outcomes(job) == ["cancelled"]
    assert take(worker(), 5) == []


@pytest.mark.parametrize("outcome", [succeeded(1), failed()], ids=lambda o: str(o.state))
def test_a_cancel_that_comes_too_late_leaves_the_outcome_as_it_is(outcome):
    job = started()
    cancel([job.pk])
    assert end(job, outcome) == {job.pk: outcome.status}
    assert outcomes(job) == [outcome.state]


def test_g13_a_cancel_after_a_manual_retry_counts_again():
    job = started(noop.using(max_attempts=9))
    cancel([job.pk])
    end(job, retrying())
    retry([job.pk])
    again = take_one(worker())
    assert end(again, retrying()) == {job.pk: "READY"}, "the old request must be forgotten"
    cancel([take_one(worker()).pk])
    assert fresh(job).is_cancelling


# -- what cannot be stored ------------------------------------------------------------------------


def test_g9_one_unstorable_row_does_not_hold_up_its_batch(queue_db):
    jobs = [started() for _ in range(7)]
    runs = [run_of(job, succeeded(place)) for place, job in enumerate(jobs)]
    runs[3].outcome = succeeded(object())
    written = finish(runs, USING)
    assert written == {job.pk: "FAILED" if place == 3 else "SUCCESSFUL" for place, job in enumerate(jobs)}
    assert [fresh(job).result for job in jobs] == [0, 1, 2, None, 4, 5, 6]
    (attempt,) = attempts(jobs[3])
    assert attempt.outcome == "failed" and "cannot be stored" in attempt.message


def test_g9_an_outcome_that_cannot_be_stored_is_not_run_again():
    job = started(noop.using(max_attempts=9))
    end(job, succeeded(object()))
    assert fresh(job).status == Job.Status.FAILED
    assert take(worker(), 5) == []


def test_g9_a_date_no_calendar_has_does_not_hold_up_the_batch(queue_db):
    """A delay of so many seconds lies beyond the year 9999."""
    far, near = started(noop.using(max_attempts=9)), started()
    written = finish([run_of(far, retrying(1e15)), run_of(near, succeeded(1))], USING)
    assert written.get(near.pk) == "SUCCESSFUL"
    assert fresh(far).status in (Job.Status.FAILED, Job.Status.READY), "still readable, and not running"


@pytest.mark.parametrize("delay", [float("inf"), float("nan")])
def test_g9_a_delay_that_is_no_number_does_not_hold_up_the_batch(queue_db, delay):
    odd, good = started(noop.using(max_attempts=9)), started()
    written = finish([run_of(odd, retrying(delay)), run_of(good, succeeded(1))], USING)
    assert written.get(good.pk) == "SUCCESSFUL"
    assert fresh(odd).status != Job.Status.RUNNING


def test_g9_a_time_that_is_no_time_does_not_hold_up_the_batch(queue_db):
    odd, good = started(noop.using(max_attempts=9)), started()
    written = finish([run_of(odd, retrying(run_after="tomorrow")), run_of(good, succeeded(1))], USING)
    assert written.get(good.pk) == "SUCCESSFUL"
    assert fresh(odd).status == Job.Status.FAILED


def test_long_texts_are_cut_to_what_the_columns_take():
    kind = type("E" * 300, (Exception,), {"__module__": "far.away"})
    job = started()
    error = raised(kind("m" * 2000))
    end(job, Outcome(state=State.FAILED, status=Job.Status.FAILED, exception=error, message="m" * 2000))
    (attempt,) = attempts(job)
    assert attempt.message == "m" * MESSAGE_LENGTH
    assert len(attempt.exception_class_path) == 255


def test_awkward_text_in_results_and_errors_survives():
    text = "tab\t ünï 🐘 'quotes\" \\u0000 %s {}"
    good, bad = started(), started()
    end(good, succeeded({text: [text]}))
    end(bad, failed(raised(ValueError(text))))
    assert fresh(good).result == {text: [text]}
    assert attempts(bad)[0].message == f"ValueError: {text}"


def test_nul_and_surrogates_in_errors_are_replaced_and_not_refused():
    job = started()
    end(job, failed(raised(ValueError("a\x00b\ud800c"))))
    (attempt,) = attempts(job)
    assert attempt.message == "ValueError: a␀b?c"
    assert "a␀b?c" in attempt.traceback


@pytest.mark.parametrize("state", [State.SKIPPED, State.SNOOZED])
def test_a_reason_may_be_any_text(state):
    job = started()
    status = Job.Status.READY if state is State.SNOOZED else Job.Status.CANCELLED
    assert end(job, Outcome(state=state, status=status, message="a\x00b\ud800c" + "x" * 600)) == {job.pk: status}
    (attempt,) = attempts(job)
    assert attempt.outcome == state and attempt.message.startswith("a␀b?cxxx")


def test_a_large_batch_is_written_whole():
    for _ in range(120):
        enqueue()
    holder = worker()
    jobs = take(holder, 500)
    written = finish([run_of(job, succeeded(job.pk)) for job in jobs], USING)
    assert len(written) == 120
    assert all(row.result == row.pk for row in Job.objects.all())
    assert Attempt.objects.filter(outcome="succeeded", worker_id=holder.pk).count() == 120


def test_finishing_is_by_the_fence_and_not_by_the_status():
    """A row somebody edited by hand is finished by whoever holds the fence."""
    job = started()
    Job.objects.filter(pk=job.pk).update(cancel_requested_at=Now())
    assert end(job, succeeded()) == {job.pk: "SUCCESSFUL"}


#: ``finish`` hides it, under its own name.
module = sys.modules[Run.__module__]

# -- long histories -------------------------------------------------------------------------------


def snooze_on(job: Job, times: int, holder, outcome=snoozed) -> None:
    for _ in range(times):
        assert take_one(holder).pk == job.pk
        end(Job.objects.get(pk=job.pk), outcome())


def test_old_attempts_that_do_not_count_are_folded(monkeypatch):
    monkeypatch.setattr(module, "UNCOUNTED_KEPT", 20)
    job, holder = enqueue(noop.using(max_attempts=5)), worker()
    snooze_on(job, 3, holder)
    snooze_on(job, 1, holder, retrying)
    snooze_on(job, 40, holder)
    snooze_on(job, 6, holder, interrupted)
    numbers = [attempt.number for attempt in attempts(job)]
    assert numbers == [1, 4, *range(31, 51)]
    job = fresh(job)
    assert (job.attempts, job.tries) == (50, 1)


@pytest.mark.django_db(transaction=True)
def test_a_fold_that_fails_costs_nothing(monkeypatch, caplog):
    monkeypatch.setattr(module, "UNCOUNTED_KEPT", 5)

    job, holder = enqueue(), worker()
    snooze_on(job, 9, holder)
    take_one(holder)

    def broken(*args):
        raise DatabaseError("the database is locked")

    monkeypatch.setattr(module.Attempt.objects, "using", broken)
    end(Job.objects.get(pk=job.pk), snoozed())
    monkeypatch.undo()
    assert len(attempts(job)) == 10 and "Old attempts cannot be deleted now" in caplog.text
