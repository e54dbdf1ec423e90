"""TaskResult: right after enqueue, looked up by id, and refreshed."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import pytest
from asgiref.sync import async_to_sync
from django.utils import timezone

from . import tasks
from .framework import TaskResult, TaskResultDoesNotExist, TaskResultMismatch, TaskResultStatus
from .marks import runs

LATER = datetime(2100, 1, 1, tzinfo=timezone.get_default_timezone())

needs_results = pytest.mark.needs("results")
needs_worker = pytest.mark.needs("worker")

FIELDS = [
    "id",
    "status",
    "enqueued_at",
    "started_at",
    "last_attempted_at",
    "finished_at",
    "args",
    "kwargs",
    "backend",
    "errors",
    "worker_ids",
]

#: None of these is the id of a job, however much a database would like to make one of it.
MALFORMED = [
    "nope",
    "",
    " ",
    "0",
    "-1",
    "+1",
    "1.5",
    "1e3",
    "0x10",
    "1_0",
    "NaN",
    "None",
    "99999999999999999999999",
    str(2**63),
    str(2**63 - 1),
    "9" * 5000,  # more digits than int() takes
    "a\x00b",
    "\ud800",
    "🎉",
    "%s",
    "' OR 1=1 --",
    "x" * 100_000,
    "5b3cfb4e-1d4e-4f0a-9a0f-6d5f1c7a2b11",
    "00000000-0000-0000-0000-000000000000",
    UUID(int=7),
    0,
    -1,
    12345678,
    2**70,
    1.5,
    None,
    True,
    b"1",
    [],
    {},
    (1, 2),
    object(),
]


def named(value):
    return repr(value)[:40] if type(value) is not object else "object"


malformed = pytest.mark.parametrize("result_id", MALFORMED, ids=named)


def is_now(moment):
    return timezone.is_aware(moment) and abs(moment - timezone.now()) < timedelta(seconds=20)


# Right after enqueue


@needs_worker
def test_trap_5_a_result_is_ready_and_unattempted_right_after_enqueue(db):
    result = tasks.add.enqueue(1, 2)
    assert isinstance(result, TaskResult)
    assert result.status is TaskResultStatus.READY
    assert result.attempts == 0
    assert result.worker_ids == []
    assert result.errors == []
    assert result.is_finished is False
    assert is_now(result.enqueued_at)
    assert (result.started_at, result.last_attempted_at, result.finished_at) == (None, None, None)
    with pytest.raises(ValueError, match="not finished"):
        result.return_value  # noqa: B018 - reading it is the test


def test_a_result_knows_its_call(db):
    result = tasks.add.enqueue(1, b=2)
    assert result.task == tasks.add
    assert result.args == [1]
    assert result.kwargs == {"b": 2}
    assert result.backend == "default"


def test_an_id_is_a_short_string_of_its_own(db):
    ids = [tasks.add.enqueue(number).id for number in range(5)]
    assert len(set(ids)) == 5
    assert all(type(one) is str and 0 < len(one) < 64 for one in ids)


def test_a_result_carries_the_task_as_it_was_changed(db):
    result = tasks.add.using(queue_name="mail", backend="other").enqueue(1)
    assert result.task.queue_name == "mail"
    assert result.task.backend == result.backend == "other"


def test_a_result_is_frozen(db):
    result = tasks.add.enqueue(1)
    with pytest.raises(AttributeError):
        result.status = TaskResultStatus.FAILED


@pytest.mark.needs("priority", "defer", "results")
def test_trap_5_queue_priority_and_run_after_are_kept(db, backends):
    changed = tasks.add.using(queue_name="mail", priority=-7, run_after=LATER, backend="other")
    result = changed.enqueue(1)
    assert result.task == changed
    task = backends["other"].get_result(result.id).task
    assert task.func == tasks.add.func
    assert (task.queue_name, task.priority, task.run_after, task.backend) == ("mail", -7, LATER, "other")
    assert backends["other"].get_result(result.id).backend == "other"


@needs_worker
@pytest.mark.needs("defer")
def test_a_scheduled_job_is_ready(db):
    result = tasks.add.using(run_after=LATER).enqueue(1)
    assert result.status == TaskResultStatus.READY
    assert result.is_finished is False


@runs
def test_aenqueue_is_enqueue():
    result = async_to_sync(tasks.add.aenqueue)(1, b=2)
    assert result.args == [1]
    assert result.kwargs == {"b": 2}
    assert type(result.id) is str


@pytest.mark.needs("execution")
@runs
def test_a_job_from_aenqueue_runs(settle):
    assert settle(async_to_sync(tasks.add.aenqueue)(1, b=2)).return_value == 3


# Looked up


@needs_results
def test_a_result_looked_up_is_the_result_of_enqueue(db, backend):
    result = tasks.add.enqueue(1, b=2)
    for found in (
        backend.get_result(result.id),
        tasks.add.get_result(result.id),
        async_to_sync(backend.aget_result)(result.id),
        async_to_sync(tasks.add.aget_result)(result.id),
    ):
        assert isinstance(found, TaskResult)
        assert {name: getattr(found, name) for name in FIELDS} == {name: getattr(result, name) for name in FIELDS}
        assert found.task == result.task
        assert found.is_finished is False


@needs_results
@malformed
def test_trap_8_a_malformed_or_unknown_id_does_not_exist(result_id, db, backend):
    with pytest.raises(TaskResultDoesNotExist):
        backend.get_result(result_id)
    with pytest.raises(TaskResultDoesNotExist):
        tasks.add.get_result(result_id)


@needs_results
@malformed
def test_trap_8_a_malformed_or_unknown_id_does_not_exist_for_async_callers_either(result_id, db, backend):
    with pytest.raises(TaskResultDoesNotExist):
        async_to_sync(backend.aget_result)(result_id)
    with pytest.raises(TaskResultDoesNotExist):
        async_to_sync(tasks.add.aget_result)(result_id)


@needs_results
@pytest.mark.parametrize("spelling", [" {}", "{} ", "{}\n", "+{}", "0{}", "{}.0", "{}_0", "{}\x00", "{}\u0664"])
def test_another_spelling_of_an_id_does_not_exist(spelling, db, backend):
    result = tasks.add.enqueue(1)
    with pytest.raises(TaskResultDoesNotExist):
        backend.get_result(spelling.format(result.id))


@needs_results
def test_a_malformed_id_leaves_the_callers_transaction_usable(db, backend):
    result = tasks.add.enqueue(1)
    for result_id in MALFORMED:
        with pytest.raises(TaskResultDoesNotExist):
            backend.get_result(result_id)
    assert backend.get_result(result.id).args == [1]


@pytest.mark.needs("rows", "results")
def test_a_deleted_job_does_not_exist(rows, backend):
    result = tasks.add.enqueue(1)
    rows.all().delete()
    with pytest.raises(TaskResultDoesNotExist):
        backend.get_result(result.id)
    with pytest.raises(TaskResultDoesNotExist):
        result.refresh()
    with pytest.raises(TaskResultDoesNotExist):
        async_to_sync(result.arefresh)()


@needs_results
def test_the_result_of_another_task_is_a_mismatch(db):
    result = tasks.add.enqueue(1)
    assert tasks.add.using(queue_name="mail").get_result(result.id).id == result.id
    with pytest.raises(TaskResultMismatch):
        tasks.other.get_result(result.id)
    with pytest.raises(TaskResultMismatch):
        async_to_sync(tasks.other.aget_result)(result.id)


@pytest.mark.needs("async", "results")
def test_the_result_of_an_async_task_is_looked_up_like_any(db, async_tasks):
    result = async_tasks.add.enqueue(1)
    assert async_tasks.add.get_result(result.id).task == async_tasks.add


def test_a_backend_without_results_says_so(backend):
    """The flag and the method agree; a flag that says no may still find what the same thread has enqueued."""
    if not backend.supports_get_result:
        with pytest.raises((NotImplementedError, TaskResultDoesNotExist)):
            backend.get_result("nope")


# Refreshed


@needs_results
@pytest.mark.parametrize("way", ["refresh", "arefresh"])
@runs
def test_refresh_brings_a_result_up_to_date(way, drain, backend):
    result = tasks.add.enqueue(1, 2)
    task = result.task
    drain("default")
    assert result.status == TaskResultStatus.READY
    async_to_sync(result.arefresh)() if way == "arefresh" else result.refresh()
    assert result.status == TaskResultStatus.SUCCESSFUL
    assert result.return_value == 3
    assert result.task is task
    found = backend.get_result(result.id)
    assert {name: getattr(result, name) for name in FIELDS} == {name: getattr(found, name) for name in FIELDS}


@needs_results
@runs
def test_refresh_brings_the_errors(drain):
    result = tasks.throw.enqueue("ValueError")
    drain("default")
    result.refresh()
    assert result.status == TaskResultStatus.FAILED
    assert [error.exception_class for error in result.errors] == [ValueError]


@pytest.mark.needs("rows", "results")
def test_a_result_looked_up_costs_few_statements(db, backend, django_assert_max_num_queries):
    """One for the job, and one for its attempts where they have a table of their own."""
    result = tasks.add.enqueue(1)
    with django_assert_max_num_queries(2):
        backend.get_result(result.id)
