"""What our backend offers beyond the contract, in the contract's own places: ``@task``, ``using()``, TaskResult."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from django.test import override_settings
from django.utils import timezone

from . import tasks
from .framework import DECORATOR_TAKES_OPTIONS, InvalidTask, Task, TaskResultStatus
from .marks import runs
from .subjects import chosen

pytestmark = pytest.mark.needs("options")

if chosen().lacks("options"):
    DECORATORS = {"ours": None}
else:
    from .option_tasks import DECORATORS

with_each_decorator = pytest.mark.parametrize("decorator", DECORATORS.values(), ids=DECORATORS.keys())


@pytest.fixture
def option_tasks():
    return import_module(f"{__package__}.option_tasks")


@pytest.fixture
def our_task():
    from django_jobqueue import task

    return task


def module_level(a):
    pass


# Declared


@with_each_decorator
def test_an_option_is_declared(decorator, backend):
    declared = decorator(max_attempts=5, queue_name="mail", priority=3)(module_level)
    assert type(declared) is backend.task_class
    assert declared.max_attempts == 5
    assert (declared.queue_name, declared.priority) == ("mail", 3)


def test_our_decorator_needs_no_parentheses(our_task, backend):
    assert type(our_task(module_level)) is backend.task_class


def test_the_frameworks_decorator_takes_options_except_on_django_6_0():
    import django

    assert DECORATOR_TAKES_OPTIONS is not ((6, 0) <= django.VERSION < (6, 1))


@with_each_decorator
def test_trap_11_a_task_with_list_options_is_hashable(decorator):
    declared = decorator(max_attempts=2, retry_on=[ConnectionError, TimeoutError], give_up_on=[ValueError])(
        module_level
    )
    assert hash(declared) == hash(declared.using())
    assert {declared: 1}[declared.using()] == 1
    assert list(declared.retry_on) == [ConnectionError, TimeoutError]


@with_each_decorator
def test_an_unknown_option_is_a_type_error_at_declaration(decorator):
    with pytest.raises(TypeError, match="colour"):
        decorator(colour="green")(module_level)
    with pytest.raises(TypeError, match="max_attempt"):
        decorator(max_attempt=3)(module_level)


@with_each_decorator
@pytest.mark.parametrize(
    "option",
    [
        {"max_attempts": 0},
        {"max_attempts": -1},
        {"max_attempts": 1.5},
        {"max_attempts": "3"},
        {"max_attempts": True},
        {"max_attempts": 10**9},
        {"backoff": "soon"},
        {"backoff": -1},
        {"timeout": 0},
        {"timeout": -5},
        {"timeout": "long"},
        {"retry_on": ["ValueError"]},
        {"give_up_on": [3]},
    ],
    ids=str,
)
def test_an_option_value_that_cannot_be_is_refused_at_declaration(decorator, option):
    [name] = option
    with pytest.raises((InvalidTask, TypeError, ValueError), match=name):
        decorator(**option)(module_level)


@with_each_decorator
@pytest.mark.parametrize("run_after", [datetime(2100, 1, 1, tzinfo=UTC), timedelta(minutes=1)], ids=str)
def test_run_after_cannot_be_declared_with_options_either(decorator, run_after):
    with pytest.raises(TypeError, match="run_after"):
        decorator(max_attempts=2, run_after=run_after)(module_level)


def test_trap_10_options_are_left_out_for_a_foreign_backend(our_task):
    """Settings for tests often name ImmediateBackend; the module must still import."""
    declared = our_task(backend="immediate", max_attempts=3, timeout=5)(module_level)
    assert isinstance(declared, Task)
    with pytest.raises(TypeError, match="colour"):
        our_task(backend="immediate", colour="green")(module_level)


def test_trap_10_a_task_with_options_runs_on_a_foreign_backend(option_tasks, calls):
    result = option_tasks.never_lucky.using(backend="immediate").enqueue()
    assert result.status == TaskResultStatus.FAILED
    assert calls == ["try"]


# using()


def test_using_changes_an_option(option_tasks):
    changed = option_tasks.never_lucky.using(max_attempts=9)
    assert (changed.max_attempts, option_tasks.never_lucky.max_attempts) == (9, 3)
    assert type(changed) is type(option_tasks.never_lucky)
    assert changed.using(queue_name="mail").max_attempts == 9


def test_using_refuses_an_option_value_that_cannot_be(option_tasks):
    with pytest.raises((InvalidTask, TypeError, ValueError), match="max_attempts"):
        option_tasks.never_lucky.using(max_attempts=0)
    with pytest.raises(TypeError, match="colour"):
        option_tasks.never_lucky.using(colour="green")


@pytest.mark.needs("timedelta")
def test_trap_9_run_after_takes_a_timedelta(db, backend):
    changed = tasks.add.using(run_after=timedelta(minutes=5))
    assert hash(changed) is not None
    result = changed.enqueue(1)
    for run_after in (result.task.run_after, backend.get_result(result.id).task.run_after):
        assert timezone.is_aware(run_after)
        assert abs(run_after - timezone.now() - timedelta(minutes=5)) < timedelta(seconds=20)


@pytest.mark.needs("timedelta")
@runs
def test_trap_9_a_timedelta_counts_from_enqueue(run, calls):
    assert run(tasks.add.using(run_after=timedelta(0)), 1, 2).return_value == 3
    assert run(tasks.add.using(run_after=timedelta(days=1)), 3, 4).is_finished is False
    assert calls == [(1, 2)]


@pytest.mark.needs("timedelta")
@pytest.mark.parametrize("change", [{"priority": 101}, {"queue_name": "nightly"}, {"max_attempts": 0}], ids=str)
def test_trap_9_a_timedelta_does_not_switch_validation_off(change, rows):
    narrow = tasks.add.using(backend="narrow")
    with pytest.raises(InvalidTask):
        narrow.using(run_after=timedelta(minutes=5), **change).enqueue(1)
    with pytest.raises(InvalidTask):
        narrow.using(run_after=timedelta(minutes=5)).using(**change).enqueue(1)
    assert rows.count() == 0


@pytest.mark.needs("timedelta")
@pytest.mark.parametrize("run_after", ["tomorrow", 60, timedelta.max], ids=str)
def test_a_run_after_that_cannot_be_is_refused(run_after, rows):
    with pytest.raises((InvalidTask, TypeError, ValueError, OverflowError)):
        tasks.add.using(run_after=run_after).enqueue(1)
    assert rows.count() == 0


# Retries in a TaskResult


@runs
class TestRetries:
    def test_an_error_stands_for_every_failed_attempt(self, run, option_tasks, calls):
        result = run(option_tasks.third_time_lucky)
        assert calls == [1, 2, 3]
        assert result.status == TaskResultStatus.SUCCESSFUL
        assert result.return_value == 3
        assert [error.exception_class for error in result.errors] == [tasks.OwnError] * 2
        for number, error in enumerate(result.errors, start=1):
            assert f"attempt {number}" in error.traceback

    def test_every_attempt_has_its_worker(self, run, option_tasks):
        result = run(option_tasks.third_time_lucky)
        assert result.attempts == len(result.worker_ids) == 3
        assert all(type(worker_id) is str for worker_id in result.worker_ids)

    def test_started_at_is_the_first_attempts_and_last_attempted_at_the_latest(self, run, option_tasks):
        result = run(option_tasks.third_time_lucky)
        assert result.enqueued_at <= result.started_at < result.last_attempted_at <= result.finished_at

    def test_the_last_failure_fails_the_job(self, run, option_tasks, calls):
        result = run(option_tasks.never_lucky)
        assert result.status == TaskResultStatus.FAILED
        assert len(result.errors) == result.attempts == len(calls) == 3

    def test_a_pending_retry_is_ready_with_its_errors(self, run, option_tasks):
        result = run(option_tasks.much_later)
        assert result.status == TaskResultStatus.READY
        assert result.is_finished is False
        assert result.finished_at is None
        assert result.attempts == 1
        assert [error.exception_class for error in result.errors] == [tasks.OwnError]
        assert result.started_at == result.last_attempted_at
        with pytest.raises(ValueError, match="not finished"):
            result.return_value  # noqa: B018 - reading it is the test

    def test_nothing_is_retried_unless_the_task_says_so(self, run, calls):
        run(tasks.throw, "OwnError")
        assert calls == ["OwnError"]

    def test_the_options_of_the_entry_are_the_defaults(self, run, subject, settings, calls):
        settings.TASKS = {"default": subject.entry(QUEUES=[], OPTIONS={"MAX_ATTEMPTS": 2, "BACKOFF": 0})}
        assert run(tasks.throw, "OwnError").attempts == 2
        assert calls == ["OwnError"] * 2

    def test_using_goes_before_the_declaration(self, run, option_tasks, calls):
        assert run(option_tasks.never_lucky.using(max_attempts=2)).attempts == 2
        assert calls == ["try"] * 2

    if DECORATOR_TAKES_OPTIONS:

        def test_options_of_the_frameworks_decorator_count(self, run, option_tasks, calls):
            assert run(option_tasks.by_the_framework).attempts == 2
            assert calls == ["try"] * 2

    @pytest.mark.parametrize("kind", ["object", "nan", "nul", "circle"])
    def test_trap_2_a_bad_result_is_not_retried(self, kind, run, option_tasks, calls):
        """The work is done; doing it again would not make its result any better."""
        result = run(option_tasks.give, kind)
        assert result.status == TaskResultStatus.FAILED
        assert calls == [kind]

    @pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError"])
    def test_trap_3_an_exit_ends_in_a_failure_whatever_the_attempts(self, kind, run, option_tasks, calls):
        result = run(option_tasks.throw, kind)
        assert result.status == TaskResultStatus.FAILED
        assert result.attempts == len(result.errors) == len(calls)
        assert 1 <= len(calls) <= 3

    def test_task_finished_is_sent_once_for_a_job(self, run, option_tasks, received):
        run(option_tasks.third_time_lucky)
        assert [signal.name for signal in received].count("enqueued") == 1
        assert [signal.name for signal in received].count("started") == 3
        finished = [signal.status for signal in received if signal.name == "finished"]
        assert finished[-1] == "SUCCESSFUL"
        assert finished.count("SUCCESSFUL") == 1
        assert "FAILED" not in finished


# Many at once


class TestEnqueueMany:
    @pytest.fixture
    def enqueue_many(self):
        from django_jobqueue import enqueue_many

        return enqueue_many

    def test_the_results_stand_in_the_order_of_the_calls(self, enqueue_many, db, backends, received):
        results = enqueue_many([tasks.add.s(1, b=2), tasks.echo.using(backend="other").s("x"), tasks.add.s(3)])
        assert [result.args for result in results] == [[1], ["x"], [3]]
        assert [result.backend for result in results] == ["default", "other", "default"]
        for result in results:
            found = backends[result.backend].get_result(result.id)
            assert (found.args, found.kwargs, found.task) == (result.args, result.kwargs, result.task)
        assert sorted(signal.result.id for signal in received) == sorted(result.id for result in results)
        assert {signal.name for signal in received} == {"enqueued"}

    @pytest.mark.parametrize("bad", [object(), float("nan"), "a\x00b"], ids=["object", "nan", "nul"])
    def test_trap_1_one_bad_call_leaves_no_row_of_the_others(self, bad, enqueue_many, rows, received):
        with pytest.raises((TypeError, ValueError), match="'b'"):
            enqueue_many([tasks.add.s(1), tasks.add.s(1, b=bad), tasks.add.s(2)])
        assert rows.count() == 0
        assert received == []

    def test_one_bad_task_leaves_no_row_of_the_others(self, enqueue_many, rows, subject):
        nightly = tasks.add.using(queue_name="nightly")
        narrowed = override_settings(TASKS={"default": subject.entry(QUEUES=["default"])})
        with narrowed, pytest.raises(InvalidTask, match="nightly"):
            enqueue_many([tasks.add.s(1), nightly.s(2)])
        assert rows.count() == 0

    def test_many_jobs_cost_few_statements(self, enqueue_many, db, django_assert_max_num_queries):
        with django_assert_max_num_queries(10):
            results = enqueue_many([tasks.add.s(number) for number in range(100)])
        assert len({result.id for result in results}) == 100

    def test_nothing_is_enqueued_for_nothing(self, enqueue_many, rows):
        assert enqueue_many([]) == []
        assert rows.count() == 0
