"""A job in the project's database is part of the caller's transaction."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from . import tasks
from .framework import TaskResultDoesNotExist, TaskResultStatus
from .marks import runs

pytestmark = [pytest.mark.needs("rows", "worker"), runs]


class Undo(Exception):
    pass


def test_a_rollback_drops_the_job(rows, drain, backend, calls):
    with pytest.raises(Undo), transaction.atomic():
        result = tasks.add.enqueue(1, 2)
        raise Undo
    drain("default")
    assert calls == []
    assert rows.count() == 0
    with pytest.raises(TaskResultDoesNotExist):
        backend.get_result(result.id)


def test_a_commit_keeps_the_job(drain, backend, calls):
    with transaction.atomic():
        result = tasks.add.enqueue(1, 2)
        assert backend.get_result(result.id).status == TaskResultStatus.READY
    drain("default")
    assert calls == [(1, 2)]
    assert backend.get_result(result.id).return_value == 3


def test_a_savepoint_that_rolls_back_drops_only_its_own_job(drain, rows, calls):
    with transaction.atomic():
        tasks.record.enqueue("kept")
        with pytest.raises(Undo), transaction.atomic():
            tasks.record.enqueue("dropped")
            raise Undo
        tasks.record.enqueue("kept too")
    drain("default")
    assert calls == ["kept", "kept too"]
    assert rows.count() == 2


def test_on_commit_may_enqueue(drain, calls):
    with transaction.atomic():
        transaction.on_commit(partial(tasks.record.enqueue, "after commit"))
    drain("default")
    assert calls == ["after commit"]


@pytest.mark.parametrize("plain", [False, True], ids=["task of the backend", "plain task"])
def test_enqueue_in_the_callers_transaction_is_one_insert(plain, rows):
    task, argument = (tasks.plain, "word") if plain else (tasks.add, 1)
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        task.enqueue(argument)
    statements = [query["sql"] for query in queries.captured_queries]
    assert len(statements) == 1, statements
    assert statements[0].startswith("INSERT")


def test_enqueue_outside_of_a_transaction_is_one_insert(rows):
    with CaptureQueriesContext(connection) as queries:
        tasks.add.enqueue(1)
    statements = [
        query["sql"] for query in queries.captured_queries if query["sql"].split()[0] not in ("BEGIN", "COMMIT")
    ]
    assert len(statements) == 1, statements
    assert statements[0].startswith("INSERT")


@pytest.mark.needs("defer")
def test_enqueue_for_later_is_one_insert(rows):
    later = tasks.add.using(run_after=datetime(2100, 1, 1, tzinfo=UTC))
    with transaction.atomic(), CaptureQueriesContext(connection) as queries:
        later.enqueue(1)
    assert len(queries) == 1


def test_a_task_that_rolls_back_leaves_its_own_job_alone(run):
    """The status of a job is not written in the task's transaction."""
    result = run(tasks.broken_transaction)
    assert result.status == TaskResultStatus.FAILED


def test_a_task_that_leaves_a_transaction_open_does_not_take_its_outcome_along(run, backend):
    first = run(tasks.open_transaction)
    assert backend.get_result(first.id).status == TaskResultStatus.SUCCESSFUL
    assert run(tasks.add, 1, 2).return_value == 3
