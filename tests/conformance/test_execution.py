"""What a worker does with a job, and what the result says of it afterwards."""

from __future__ import annotations

import logging
import time
from asyncio import CancelledError
from datetime import timedelta

import pytest
from django.utils import timezone

from . import tasks
from .framework import PACKAGE, TaskResultStatus
from .marks import runs

pytestmark = [pytest.mark.needs("execution"), runs]

needs_worker = pytest.mark.needs("worker")
needs_results = pytest.mark.needs("results")

#: Not one of these is an ``Exception``: they pass ``except Exception`` and end threads, loops and processes.
EXITS = {
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": CancelledError,
}

UNSTORABLE_RESULTS = ["nan", "infinity", "nul", "nul in a key", "lone surrogate"]
UNSERIALISABLE_RESULTS = ["object", "datetime", "set", "bad bytes"]


def assert_failed(result, exception_class, *words):
    assert result.status is TaskResultStatus.FAILED
    assert result.is_finished
    assert result.attempts == 1
    [error] = result.errors
    if exception_class:
        assert error.exception_class is exception_class
    assert error.traceback
    for word in words:
        assert word in error.traceback
    with pytest.raises(ValueError, match="failed"):
        result.return_value  # noqa: B018 - reading it is the test


# Success


def test_a_successful_job(run):
    result = run(tasks.add, 1, b=2)
    assert result.status is TaskResultStatus.SUCCESSFUL
    assert result.is_finished
    assert result.return_value == 3
    assert result.errors == []


def test_trap_4_attempts_workers_and_start_survive_success(run):
    result = run(tasks.add, 1, 2)
    assert result.attempts == 1
    [worker_id] = result.worker_ids
    assert type(worker_id) is str
    assert worker_id
    assert result.started_at == result.last_attempted_at
    assert result.enqueued_at <= result.started_at <= result.finished_at


def test_trap_4_attempts_workers_and_start_survive_failure(run):
    result = run(tasks.throw, "ValueError")
    assert result.attempts == len(result.worker_ids) == 1
    assert result.started_at == result.last_attempted_at
    assert result.enqueued_at <= result.started_at <= result.finished_at


def test_all_times_know_their_zone(run):
    result = run(tasks.add, 1)
    for moment in (result.enqueued_at, result.started_at, result.last_attempted_at, result.finished_at):
        assert timezone.is_aware(moment)
        assert abs(moment - timezone.now()) < timedelta(seconds=20)


def test_a_project_without_time_zones_gets_naive_times(run, settings):
    settings.USE_TZ = False
    result = run(tasks.add, 1, 2)
    assert result.return_value == 3
    for moment in (result.enqueued_at, result.started_at, result.last_attempted_at, result.finished_at):
        assert timezone.is_naive(moment)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("none", None),
        ("false", False),
        ("tuple", [1, [2, 3]]),
        ("bytes", "text"),
        ("mapping", {"a": 1}),
        ("text", "Grüße 🎉 \u2028"),
        ("large", "x" * 1_000_000),
    ],
)
def test_a_return_value_is_normalised(kind, value, run):
    result = run(tasks.give, kind)
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert result.return_value == value
    assert type(result.return_value) is type(value)


@needs_results
def test_trap_7_int_keys_of_a_return_value_become_text(run):
    assert run(tasks.give, "int keys").return_value == {"1": {"2": 3}}


def test_a_task_runs_once(run, calls):
    run(tasks.add, 1, 2)
    assert calls == [(1, 2)]


def test_a_task_may_use_the_database(run):
    assert run(tasks.query).return_value == 42


@needs_worker
def test_a_task_may_enqueue_another(run, backend, calls):
    result = run(tasks.enqueue_another, "second")
    assert calls == ["second"]
    assert backend.get_result(result.return_value).status == TaskResultStatus.SUCCESSFUL


def test_a_job_of_another_alias_runs(run):
    result = run(tasks.add.using(backend="other"), 1, 2)
    assert result.return_value == 3
    assert result.backend == result.task.backend == "other"


def test_a_job_in_another_queue_runs(run):
    result = run(tasks.add.using(queue_name="some other queue"), 1, 2)
    assert result.return_value == 3
    assert result.task.queue_name == "some other queue"


def test_a_plain_task_of_the_framework_runs(run):
    """A third party declares its tasks for the framework, not for this backend."""
    result = run(tasks.plain, "word")
    assert result.return_value == "WORD"
    assert type(result.task) is type(tasks.plain)
    assert result.task == tasks.plain


def test_a_plain_task_that_was_bound_to_another_backend_runs(run):
    foreign = tasks.plain.using(backend="immediate")
    result = run(foreign.using(backend="default", queue_name="mail"), "word")
    assert result.return_value == "WORD"
    assert (result.task.backend, result.task.queue_name) == ("default", "mail")


def test_a_task_of_this_backend_runs_on_the_immediate_one(calls):
    result = tasks.add.using(backend="immediate").enqueue(1, 2)
    assert result.return_value == 3
    assert calls == [(1, 2)]


# Failure


def test_a_failed_job(run, calls):
    result = run(tasks.throw, "ValueError")
    assert_failed(result, ValueError, "Traceback (most recent call last)", "no such order", "in throw")
    assert result.errors[0].exception_class_path == "builtins.ValueError"
    assert calls == ["ValueError"]


def test_the_class_of_a_projects_own_error_is_found(run):
    result = run(tasks.throw, "OwnError")
    assert_failed(result, tasks.OwnError, "ours")
    assert result.errors[0].exception_class_path == f"{tasks.__name__}.OwnError"


def test_a_cause_is_in_the_traceback(run):
    assert_failed(run(tasks.throw, "chained"), tasks.OwnError, "the effect", "the cause", "direct cause")


@pytest.mark.parametrize(
    ("kind", "exception_class"),
    [
        ("StopIteration", StopIteration),
        ("StopAsyncIteration", StopAsyncIteration),
        ("ExceptionGroup", ExceptionGroup),
        ("silent", tasks.SilentError),
        ("local class", None),  # nobody can import that one
    ],
)
def test_an_odd_exception_is_a_failure_like_any(kind, exception_class, run, calls):
    result = run(tasks.throw, kind)
    assert_failed(result, exception_class)
    assert calls == [kind]


@needs_results
@pytest.mark.parametrize("kind", ["NUL", "lone surrogate", "long"])
def test_trap_2_an_error_whose_text_no_database_stores_is_a_failure_like_any(kind, run, calls, caplog):
    caplog.set_level(logging.CRITICAL, PACKAGE)  # pytest-xdist cannot carry a log with a lone surrogate
    assert_failed(run(tasks.throw, kind), ValueError)
    assert calls == [kind]


def test_an_endless_recursion_is_a_failure_like_any(run):
    assert_failed(run(tasks.recurse), RecursionError)


# Results that cannot be


@pytest.mark.parametrize("kind", UNSERIALISABLE_RESULTS)
def test_an_unserialisable_result_is_one_failure(kind, run, calls):
    result = run(tasks.give, kind)
    assert_failed(result, None)
    assert issubclass(result.errors[0].exception_class, (TypeError, ValueError))
    assert calls == [kind]


@needs_results
@pytest.mark.parametrize("kind", UNSTORABLE_RESULTS)
def test_trap_2_a_result_that_no_database_stores_is_one_failure(kind, run, calls):
    result = run(tasks.give, kind)
    assert_failed(result, None)
    assert issubclass(result.errors[0].exception_class, Exception)
    assert calls == [kind]


@needs_results
def test_a_result_that_contains_itself_is_one_failure(run, calls):
    result = run(tasks.give, "circle")
    assert_failed(result, None)
    assert issubclass(result.errors[0].exception_class, Exception)
    assert calls == ["circle"]


@needs_worker
def test_trap_2_bad_results_are_not_run_again_and_stop_nobody(drain, backend, calls):
    kinds = [*UNSERIALISABLE_RESULTS, *UNSTORABLE_RESULTS, "circle"]
    bad, good = [tasks.give.enqueue(kind) for kind in kinds], tasks.add.enqueue(1, 2)
    drain("default")
    drain("default")
    assert calls == [*kinds, (1, 2)]
    assert {backend.get_result(result.id).status for result in bad} == {TaskResultStatus.FAILED}
    assert backend.get_result(good.id).return_value == 3


# Exits


@needs_worker
@pytest.mark.parametrize("kind", EXITS)
def test_trap_3_an_exit_in_a_task_is_recorded_and_the_worker_goes_on(kind, drain, backend, calls):
    bad, good = tasks.throw.enqueue(kind), tasks.add.enqueue(1, 2)
    drain("default")
    assert_failed(backend.get_result(bad.id), EXITS[kind])
    assert backend.get_result(good.id).return_value == 3
    drain("default")
    assert calls == [kind, (1, 2)]


@needs_worker
@pytest.mark.needs("async")
@pytest.mark.parametrize("kind", EXITS)
def test_trap_3_an_exit_in_an_async_task_is_recorded_and_the_worker_goes_on(kind, drain, backend, calls, async_tasks):
    bad, good = async_tasks.throw.enqueue(kind), async_tasks.add.enqueue(1, 2)
    last = tasks.add.enqueue(3, 4)
    drain("default")
    assert_failed(backend.get_result(bad.id), EXITS[kind])
    assert backend.get_result(good.id).return_value == 3
    assert backend.get_result(last.id).return_value == 7
    drain("default")
    assert sorted(calls, key=str) == [(1, 2), (3, 4), kind]


@needs_worker
def test_trap_3_many_exits_do_not_use_up_the_worker(drain, backend):
    """One thread or one slot lost for each would freeze a worker sooner or later."""
    bad = [tasks.throw.enqueue(kind) for kind in [*EXITS, "BaseExceptionGroup"] * 4]
    good = [tasks.add.enqueue(number, 1) for number in range(3)]
    drain("default")
    assert {backend.get_result(result.id).status for result in bad} == {TaskResultStatus.FAILED}
    assert [backend.get_result(result.id).return_value for result in good] == [1, 2, 3]


# Context


def test_a_task_that_takes_the_context_gets_it(run):
    result = run(tasks.describe, "hello")
    facts = result.return_value
    assert facts["word"] == "hello"
    assert facts["attempt"] == 1
    assert facts["id"] == result.id
    assert "TaskContext" in facts["class"]
    assert result.args == ["hello"]


def test_trap_12_the_running_attempt_counts(run):
    result = run(tasks.describe, "hello")
    facts = result.return_value
    assert facts["status"] == "RUNNING"
    assert facts["attempts"] == 1
    assert facts["worker_ids"] == result.worker_ids
    assert (facts["started"], facts["finished"]) == (True, False)
    assert facts["args"] == ["hello"]


@needs_worker
@needs_results
def test_a_running_task_can_look_itself_up(run):
    result = run(tasks.look_oneself_up)
    assert result.return_value == {"status": "RUNNING", "attempts": 1, "started": True, "finished": False}


# Async


@pytest.mark.needs("async")
def test_an_async_task_runs(run, calls, async_tasks):
    result = run(async_tasks.add, 1, b=2)
    assert result.return_value == 3
    assert result.attempts == 1
    assert calls == [(1, 2)]


@pytest.mark.needs("async")
def test_an_async_task_fails(run, async_tasks):
    assert_failed(run(async_tasks.throw, "OwnError"), tasks.OwnError, "ours", "in throw")


@pytest.mark.needs("async")
def test_an_async_task_takes_the_context(run, async_tasks):
    result = run(async_tasks.describe, "hello")
    assert result.return_value["attempt"] == 1
    assert result.return_value["id"] == result.id


@pytest.mark.needs("async")
def test_an_async_task_may_use_the_database(run, async_tasks):
    assert run(async_tasks.query).return_value == 42


@needs_worker
@pytest.mark.needs("async")
def test_an_async_task_may_enqueue_another(run, calls, drain, backend, async_tasks):
    result = run(async_tasks.enqueue_another, "second")
    drain("default")
    assert calls == ["second"]
    assert backend.get_result(result.return_value).status == TaskResultStatus.SUCCESSFUL


@needs_worker
@pytest.mark.needs("async")
def test_sync_and_async_tasks_run_side_by_side(drain, backend, async_tasks):
    results = [task.enqueue(number, 1) for number in range(3) for task in (tasks.add, async_tasks.add)]
    drain("default")
    assert [backend.get_result(result.id).return_value for result in results] == [1, 1, 2, 2, 3, 3]


# When


@needs_worker
@pytest.mark.needs("defer")
def test_a_deferred_job_does_not_run_before_its_time(drain, backend, calls):
    due = timezone.now() + timedelta(days=1)
    result = tasks.add.using(run_after=due).enqueue(1)
    drain("default")
    found = backend.get_result(result.id)
    assert calls == []
    assert found.status == TaskResultStatus.READY
    assert found.attempts == 0
    assert found.task.run_after == due


@needs_worker
@pytest.mark.needs("defer")
def test_a_deferred_job_runs_once_its_time_has_come(drain, backend, calls):
    due = timezone.now() + timedelta(seconds=0.4)
    result = tasks.record.using(run_after=due).enqueue("later")
    tasks.record.enqueue("now")
    drain("default")
    while backend.get_result(result.id).status == TaskResultStatus.READY:
        assert timezone.now() < due + timedelta(seconds=15), "the job never came due"
        time.sleep(0.1)
        drain("default")
    found = backend.get_result(result.id)
    assert found.status == TaskResultStatus.SUCCESSFUL
    assert found.started_at >= due
    assert calls == ["now", "later"]


@needs_worker
@pytest.mark.needs("defer")
def test_a_job_whose_time_is_past_runs_at_once(run):
    result = run(tasks.add.using(run_after=timezone.now() - timedelta(days=1)), 1, 2)
    assert result.return_value == 3


@needs_worker
@pytest.mark.needs("priority")
def test_higher_priorities_run_first(drain, calls):
    for priority in (0, -100, 7, 100, -1, 50):
        tasks.record.using(priority=priority).enqueue(priority)
    drain("default")
    assert calls == [100, 50, 7, 0, -1, -100]


@needs_worker
def test_jobs_of_one_priority_run_in_the_order_of_enqueue(drain, calls):
    for number in range(12):
        tasks.record.enqueue(number)
    drain("default")
    assert calls == list(range(12))
