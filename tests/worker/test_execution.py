"""Execution: from a claimed job to the value that its attempt came to."""

import asyncio
import sys
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from django.utils import timezone

from django_jobqueue import Fail, Retry, Skip, Snooze, task
from django_jobqueue.backoff import Linear
from django_jobqueue.compat import TaskResultStatus, task_started
from django_jobqueue.exceptions import InvalidResult, TaskTimeout
from django_jobqueue.interrupts import JobCancelled, JobTimeout, WorkerShutdown
from django_jobqueue.models import Attempt

from .runs import claimed_run, execution, run_async, run_sync

pytestmark = pytest.mark.once

# The next ``do`` raises or returns this; a test says what.
NEXT: list = []


@task
def do(*args, **kwargs):
    what = NEXT[-1]
    if isinstance(what, BaseException):
        raise what
    return what


@task
async def ado(*args, **kwargs):
    await asyncio.sleep(0)
    return do.func(*args, **kwargs)


@task
def where():
    return threading.get_ident()


@task
def one(a):
    return a


@task
def deep(n=0):
    return deep.func(n + 1)


@pytest.fixture(params=["sync", "async"])
def come_to(request):
    """What a task that raises or returns this comes to; tasks of both kinds behave alike."""

    def run(what, **options):
        NEXT.append(what)
        return run_sync(do, **options) if request.param == "sync" else run_async(ado, **options)

    yield run
    NEXT.clear()


def told(outcome):
    return outcome.state, outcome.status, outcome.final


# -- results --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0, False, "", [], {}, 1.5, "text", [1, [2]], {"a": {"b": None}}])
def test_what_a_task_returns_is_its_result(come_to, value):
    outcome = come_to(value)
    assert told(outcome) == ("succeeded", "SUCCESSFUL", True)
    assert outcome.result == value and type(outcome.result) is type(value)
    assert outcome.exception is None and outcome.counted


def test_a_result_is_what_json_makes_of_it(come_to):
    assert come_to({1: (2, b"three")}).result == {"1": [2, "three"]}


@pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), "a\x00b", "\ud800", {"deep": [object()]}])
def test_g9_a_result_that_cannot_be_stored_is_one_failure_and_is_not_run_again(come_to, value):
    outcome = come_to(value, max_attempts=9)
    assert told(outcome) == ("failed", "FAILED", True)
    assert isinstance(outcome.exception, InvalidResult)
    assert outcome.message.startswith("InvalidResult: The task's result cannot be stored")


def test_g9_a_result_that_contains_itself_is_one_failure(come_to):
    circle = []
    circle.append(circle)
    assert isinstance(come_to(circle, max_attempts=9).exception, InvalidResult)


# -- failures and retries -------------------------------------------------------------------------


def test_an_exception_is_a_failure(come_to):
    error = ValueError("no such order")
    outcome = come_to(error)
    assert told(outcome) == ("failed", "FAILED", True)
    assert outcome.exception is error and outcome.message == "ValueError: no such order"
    assert "ValueError: no such order" in outcome.traceback and "in do" in outcome.traceback


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError()])
def test_nothing_that_a_task_raises_gets_past(error):
    NEXT.append(error)
    assert run_sync(do).state == "failed"


@pytest.mark.parametrize(("tries", "retried"), [(1, True), (2, True), (3, False), (4, False)])
def test_a_job_is_retried_until_its_attempts_are_used_up(come_to, tries, retried):
    outcome = come_to(ValueError(), max_attempts=3, backoff=5.0, row={"tries": tries, "attempts": 7})
    assert told(outcome) == (("retrying", "READY", False) if retried else ("failed", "FAILED", True))
    assert outcome.delay == (5.0 if retried else 0.0)


def test_the_jobs_own_maximum_counts_and_not_the_tasks(come_to):
    assert come_to(ValueError(), max_attempts=1, row={"max_attempts": 2}).state == "retrying"
    assert come_to(ValueError(), max_attempts=9, row={"max_attempts": 1}).state == "failed"


def test_nothing_is_retried_unless_the_task_says_so(come_to):
    assert come_to(ValueError()).state == "failed"


class Timeout(ConnectionError):
    pass


@pytest.mark.parametrize(
    ("options", "error", "retried"),
    [
        ({}, ValueError(), True),
        ({"retry_on": [ConnectionError]}, ConnectionError(), True),
        ({"retry_on": [ConnectionError]}, Timeout(), True),
        ({"retry_on": [ConnectionError]}, ValueError(), False),
        ({"retry_on": ConnectionError}, ConnectionError(), True),
        ({"give_up_on": [ConnectionError]}, ValueError(), True),
        ({"give_up_on": [ConnectionError]}, Timeout(), False),
        ({"retry_on": [ConnectionError], "give_up_on": [Timeout]}, ConnectionError(), True),
        ({"retry_on": [ConnectionError], "give_up_on": [Timeout]}, Timeout(), False),
        ({"retry_on": [ConnectionError]}, Retry(), True),
        ({"give_up_on": [Exception]}, Retry(), True),
        ({"retry_on": [Fail]}, Fail(), False),
        ({}, Fail("hopeless"), False),
    ],
)
def test_which_exceptions_are_retried(come_to, options, error, retried):
    outcome = come_to(error, max_attempts=9, backoff=1.0, **options)
    assert outcome.state == ("retrying" if retried else "failed")


# -- backoff --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backoff", "delay"),
    [
        (7, 7.0),
        (0.25, 0.25),
        (0, 0.0),
        (timedelta(minutes=2), 120.0),
        (lambda exception, task_result: 3, 3.0),
        (lambda exception, task_result: timedelta(seconds=3), 3.0),
        (lambda exception, task_result: -3, 0.0),
        (lambda exception, task_result: task_result.attempts * 10, 20.0),
        (lambda exception, task_result: float(str(exception)), 11.0),
    ],
)
def test_the_backoff_says_how_long_to_wait(come_to, backoff, delay):
    outcome = come_to(ValueError("11"), max_attempts=9, backoff=backoff, row={"attempts": 2, "tries": 2, **past(1)})
    assert (outcome.state, outcome.delay) == ("retrying", delay)


def past(number: int) -> dict:
    now = timezone.now()
    return {} if not number else {"past_attempts": (Attempt(number=1, started_at=now, finished_at=now, worker_id=1),)}


def test_a_backoff_of_none_means_no_further_attempt(come_to):
    outcome = come_to(ValueError(), max_attempts=9, backoff=lambda exception, task_result: None)
    assert told(outcome) == ("failed", "FAILED", True)


@pytest.mark.parametrize("answer", ["soon", object(), ZeroDivisionError])
def test_a_backoff_that_does_not_work_costs_no_attempt(come_to, answer, caplog):
    def broken(exception, task_result):
        if isinstance(answer, type):
            raise answer("broken")
        return answer

    outcome = come_to(ValueError("mine"), max_attempts=9, backoff=broken)
    assert outcome.state == "retrying" and 0 < outcome.delay <= 3600
    assert outcome.message == "ValueError: mine", "the task's own error is what counts"
    assert "backoff" in caplog.text


def test_without_a_backoff_of_its_own_a_task_has_the_backends(come_to, settings):
    settings.TASKS = {
        "default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "QUEUES": [], "OPTIONS": {"BACKOFF": 77}}
    }
    assert come_to(ValueError(), max_attempts=9).delay == 77
    assert come_to(ValueError(), max_attempts=9, backoff=5).delay == 5


# -- control --------------------------------------------------------------------------------------


def test_retry_without_a_delay_waits_as_the_backoff_says(come_to):
    outcome = come_to(Retry("rate limited"), max_attempts=9, backoff=5.0)
    assert told(outcome) == ("retrying", "READY", False)
    assert (outcome.delay, outcome.message) == (5.0, "Retry: rate limited")


@pytest.mark.parametrize("delay", [60, timedelta(minutes=1)])
def test_retry_may_say_how_long(come_to, delay):
    assert come_to(Retry(delay=delay), max_attempts=9, backoff=5.0).delay == 60.0


def test_retry_may_say_at_what_time(come_to):
    at = timezone.now() + timedelta(days=1)
    outcome = come_to(Retry(at=at), max_attempts=9, backoff=5.0)
    assert outcome.state == "retrying" and outcome.run_after == at


def test_retry_may_move_the_job(come_to):
    outcome = come_to(Retry(queue_name="slow", priority=-10), max_attempts=9)
    assert (outcome.queue_name, outcome.priority) == ("slow", -10)


def test_a_retry_counts_and_fails_when_the_attempts_are_used_up(come_to):
    outcome = come_to(Retry(delay=60), max_attempts=3, row={"tries": 3})
    assert told(outcome) == ("failed", "FAILED", True)
    assert outcome.counted and outcome.queue_name is None


def test_retry_takes_a_delay_or_a_time():
    with pytest.raises(TypeError, match="not both"):
        Retry(delay=1, at=timezone.now())


@pytest.mark.parametrize("delay", [60, 60.0, timedelta(minutes=1)])
def test_snooze_runs_the_job_again_without_counting(come_to, delay):
    outcome = come_to(Snooze(delay, "not yet"), max_attempts=1)
    assert told(outcome) == ("snoozed", "READY", False)
    assert (outcome.delay, outcome.message, outcome.counted) == (60.0, "not yet", False)
    assert outcome.exception is None


def test_skip_without_a_result_is_cancelled_with_the_reason(come_to):
    outcome = come_to(Skip("order was deleted"), max_attempts=9)
    assert told(outcome) == ("skipped", "CANCELLED", True)
    assert outcome.message == "order was deleted" and outcome.exception is None


@pytest.mark.parametrize("result", [None, 0, [1]])
def test_skip_with_a_result_is_a_success(come_to, result):
    outcome = come_to(Skip("cached", result=result))
    assert told(outcome) == ("skipped", "SUCCESSFUL", True)
    assert outcome.result == result


def test_skip_with_a_result_that_cannot_be_stored_is_a_failure(come_to):
    outcome = come_to(Skip(result=object()), max_attempts=9)
    assert told(outcome) == ("failed", "FAILED", True)
    assert isinstance(outcome.exception, InvalidResult)


def test_fail_is_for_good(come_to):
    outcome = come_to(Fail("hopeless"), max_attempts=9)
    assert told(outcome) == ("failed", "FAILED", True)
    assert outcome.exception_class_path == "django_jobqueue.exceptions.Fail"
    assert outcome.message == "Fail: hopeless"


# -- interrupts -----------------------------------------------------------------------------------


def test_an_interrupt_by_cancel_is_cancelled_and_not_retried(come_to):
    assert told(come_to(JobCancelled(), max_attempts=9)) == ("cancelled", "CANCELLED", True)


def test_g6_an_interrupt_by_shutdown_costs_nothing(come_to):
    outcome = come_to(WorkerShutdown(), max_attempts=1)
    assert told(outcome) == ("interrupted", "READY", False)
    assert not outcome.counted and outcome.delay == 0


def test_a_timeout_is_recorded_as_such_and_retried_like_a_failure(come_to):
    outcome = come_to(JobTimeout(), max_attempts=2, timeout=30, backoff=1.0)
    assert told(outcome) == ("timed_out", "READY", False) and outcome.counted
    assert isinstance(outcome.exception, TaskTimeout) and isinstance(outcome.exception, TimeoutError)
    assert "30 seconds" in outcome.message
    assert told(come_to(JobTimeout(), max_attempts=1)) == ("timed_out", "FAILED", True)


def test_timeouts_are_retried_as_the_task_says(come_to):
    assert come_to(JobTimeout(), max_attempts=9, retry_on=[TimeoutError]).status == "READY"
    assert come_to(JobTimeout(), max_attempts=9, give_up_on=[TaskTimeout]).status == "FAILED"


def asked_to_stop(run):
    """A layer: while the task runs, it is asked to stop."""

    def layer(context, call_next):
        run.stop_reason = "cancel"
        return call_next()

    return layer


@pytest.mark.parametrize("error", [ValueError("stopped"), Retry(), SystemExit()])
def test_g13_a_task_that_raises_because_it_was_asked_to_stop_is_cancelled(error):
    run = claimed_run(do, row={"max_attempts": 9})
    NEXT.append(error)
    execution().run(run, replace(do, middleware=(asked_to_stop(run),)))
    assert told(run.outcome) == ("cancelled", "CANCELLED", True)


def test_a_task_that_ends_well_although_it_was_asked_to_stop_has_succeeded():
    run = claimed_run(do)
    NEXT.append("done")
    execution().run(run, replace(do, middleware=(asked_to_stop(run),)))
    assert told(run.outcome) == ("succeeded", "SUCCESSFUL", True)


# -- around the run -------------------------------------------------------------------------------


@pytest.fixture
def started():
    seen = []

    def receive(sender, task_result, **kwargs):
        seen.append(task_result)

    task_started.connect(receive)
    yield seen
    task_started.disconnect(receive)


def test_the_start_is_announced(come_to, started):
    come_to(1)
    (result,) = started
    assert (result.id, result.status) == ("1", TaskResultStatus.RUNNING)


def test_g9_a_receiver_that_raises_does_not_keep_the_job_from_running(come_to, caplog):
    def receive(sender, task_result, **kwargs):
        raise LookupError("receiver")

    task_started.connect(receive)
    try:
        assert come_to("fine").result == "fine"
    finally:
        task_started.disconnect(receive)
    assert "receiver" in caplog.text


def test_a_job_whose_backend_is_gone_runs_all_the_same(come_to):
    assert come_to("fine", row={"backend": "gone"}).result == "fine"
    assert come_to(ValueError(), row={"backend": "gone"}, max_attempts=2, backoff=3).delay == 3


def test_a_sync_job_runs_in_the_thread_that_it_is_run_in():
    assert run_sync(where).result == threading.get_ident()


def test_async_jobs_run_side_by_side_on_one_loop():
    async def both():
        runs = [claimed_run(meet, row={"pk": pk}) for pk in (1, 2)]
        await asyncio.gather(*(execution().arun(run, meet) for run in runs))
        return [run.outcome.result for run in runs]

    MEETING.clear()
    assert sorted(asyncio.run(both())) == [1, 2]


MEETING: list[int] = []


@task
async def meet():
    """Wait until two are here."""
    MEETING.append(1)
    number = len(MEETING)
    async with asyncio.timeout(10):
        while len(MEETING) < 2:
            await asyncio.sleep(0.001)
    return number


def test_wrong_arguments_are_a_failure():
    outcome = run_sync(one, 1, 2)
    assert outcome.state == "failed" and "TypeError" in outcome.message


def test_an_exception_that_cannot_be_shown_is_a_failure(come_to):
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError("I cannot speak")

    outcome = come_to(Mute(), max_attempts=2, backoff=1)
    assert outcome.state == "retrying"
    assert outcome.message == "Mute: (cannot be shown)"
    assert "Mute" in outcome.exception_class_path and outcome.traceback


def test_a_deep_recursion_is_a_failure_like_others():
    limit = sys.getrecursionlimit()
    outcome = run_sync(deep, max_attempts=2, backoff=1)
    assert outcome.state == "retrying" and "RecursionError" in outcome.message
    assert sys.getrecursionlimit() == limit


def test_django_tasks_without_our_options_run_with_the_backends(come_to):
    plain = replace(do, max_attempts=None, backoff=None, timeout=None)
    NEXT.append("fine")
    assert run_sync(plain).result == "fine"


# -- exceptions in groups -------------------------------------------------------------------------


def in_groups(*errors, message="unhandled errors in a TaskGroup"):
    """As a task group in a task group raises them."""
    inner = BaseExceptionGroup(message, errors)
    return BaseExceptionGroup(message, [inner])


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([Retry(delay=5)], ("retrying", 5.0)),
        ([Retry(delay=5), Retry(delay=7), Retry()], ("retrying", 7.0)),
        ([Snooze(60)], ("snoozed", 60.0)),
        ([Snooze(60), Snooze(timedelta(seconds=90))], ("snoozed", 90.0)),
        ([Skip("done already")], ("skipped", 0.0)),
        ([Fail("no"), Fail("no")], ("failed", 0.0)),
        # mixed: a failure counts before control, and control in the order Retry, Snooze, Skip
        ([Skip(), Snooze(60), Retry(delay=5)], ("retrying", 5.0)),
        ([Skip(), Snooze(60)], ("snoozed", 60.0)),
        ([Snooze(60), ValueError("bad")], ("retrying", 3.0)),
        ([Fail("no"), ValueError("bad")], ("failed", 0.0)),
        ([Fail("no"), Snooze(60)], ("failed", 0.0)),
        ([JobCancelled(), ValueError("bad")], ("cancelled", 0.0)),
        ([ValueError("bad"), WorkerShutdown()], ("interrupted", 0.0)),
    ],
)
def test_a_group_of_exceptions_counts_as_what_is_in_it(come_to, errors, expected):
    outcome = come_to(in_groups(*errors), max_attempts=9, backoff=3.0)
    assert (outcome.state, outcome.delay) == expected


def test_a_time_limit_in_a_group_is_one(come_to):
    outcome = come_to(in_groups(JobTimeout(), ValueError()), timeout=3.0)
    assert outcome.state == "timed_out" and isinstance(outcome.exception, TaskTimeout)


@pytest.mark.parametrize(
    ("options", "errors", "retried"),
    [
        ({"retry_on": [ConnectionError]}, [Timeout()], True),
        ({"retry_on": [ConnectionError]}, [Timeout(), ConnectionError()], True),
        ({"retry_on": [ConnectionError]}, [Timeout(), ValueError()], False),
        ({"retry_on": [ConnectionError]}, [Timeout(), Snooze(60)], True),
        ({"give_up_on": [ConnectionError]}, [Timeout()], False),
        ({"give_up_on": [ConnectionError]}, [ValueError(), Timeout()], False),
        ({"give_up_on": [ConnectionError]}, [ValueError(), Retry()], True),
        ({}, [ValueError(), InvalidResult()], False),
    ],
)
def test_the_retry_policy_looks_into_groups(come_to, options, errors, retried):
    outcome = come_to(in_groups(*errors), max_attempts=2, backoff=0, **options)
    assert outcome.state == ("retrying" if retried else "failed")


def test_a_failure_that_is_alone_in_its_group_is_recorded_without_it(come_to):
    error = ConnectionError("the line is dead")
    error.__cause__ = OSError("unplugged")
    seen = []
    outcome = come_to(in_groups(error), max_attempts=2, backoff=lambda exception, _: seen.append(exception) or 4)
    assert outcome.exception is error and seen == [error] and outcome.delay == 4
    assert outcome.message == "ConnectionError: the line is dead" and "unplugged" in outcome.traceback


def test_the_message_of_a_group_names_what_is_in_it(come_to):
    outcome = come_to(in_groups(ValueError("bad"), KeyError("x")))
    assert outcome.exception_class_path == "builtins.ExceptionGroup"
    assert "ValueError: bad; KeyError: 'x'" in outcome.message


@task
async def snooze_in_task_groups():
    async def stop():
        raise Snooze(60, "later")

    async def both():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(30))
            tasks.create_task(stop())

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(both())


def test_control_in_a_real_task_group():
    outcome = run_async(snooze_in_task_groups)
    assert (outcome.state, outcome.delay, outcome.message) == ("snoozed", 60.0, "later")


# -- backoff --------------------------------------------------------------------------------------


def test_a_backoff_counts_the_attempts_that_count(come_to):
    row = {"attempts": 13, "tries": 1}
    assert come_to(ValueError(), max_attempts=9, backoff=Linear(step=10), row=row).delay == 10
    seen = []
    come_to(ValueError(), max_attempts=9, backoff=lambda error, result: seen.append(result.attempts), row=row)
    assert seen == [1]
