"""task_enqueued, task_started, task_finished: who sends them, with what, and what a receiver can break."""

from __future__ import annotations

import logging

import pytest
from asgiref.sync import async_to_sync

from . import tasks
from .framework import PACKAGE, TaskResult, TaskResultStatus, task_enqueued, task_finished, task_started
from .marks import runs

pytestmark = [pytest.mark.needs("execution"), runs]

needs_worker = pytest.mark.needs("worker")


def raising(**kwargs):
    raise RuntimeError("a receiver that is broken")


def test_three_signals_are_sent_for_a_job(run, received):
    result = run(tasks.add, 1, 2)
    assert [signal.name for signal in received] == ["enqueued", "started", "finished"]
    assert [signal.result.id for signal in received] == [result.id] * 3
    assert all(isinstance(signal.result, TaskResult) for signal in received)


@pytest.mark.parametrize("kind", ["ValueError", None])
def test_the_sender_is_the_class_of_the_backend(kind, run, received, backend):
    run(tasks.throw, kind) if kind else run(tasks.add, 1)
    assert {signal.name: signal.sender for signal in received} == {
        "enqueued": type(backend),
        "started": type(backend),
        "finished": type(backend),
    }


def test_a_signal_shows_where_the_job_stands(run, received):
    run(tasks.add, 1, 2)
    assert [(signal.status, signal.attempts) for signal in received] == [
        ("READY", 0),
        ("RUNNING", 1),
        ("SUCCESSFUL", 1),
    ]


def test_task_finished_shows_the_outcome(run, received):
    run(tasks.add, 1, 2)
    finished = received[-1].result
    assert finished.return_value == 3
    assert finished.finished_at >= finished.started_at


def test_task_finished_shows_a_failure(run, received):
    run(tasks.throw, "ValueError")
    assert [(signal.name, signal.status) for signal in received] == [
        ("enqueued", "READY"),
        ("started", "RUNNING"),
        ("finished", "FAILED"),
    ]
    [error] = received[-1].result.errors
    assert error.exception_class is ValueError
    assert "no such order" in error.traceback


def test_task_finished_of_a_failure_is_sent_where_sys_exc_info_tells(run, received):
    """Tools that report errors read it there."""
    run(tasks.throw, "OwnError")
    exception_class, exception, traceback = received[-1].exc_info
    assert exception_class is tasks.OwnError
    assert str(exception) == "ours"
    assert traceback is not None


@pytest.mark.needs("async")
def test_task_finished_of_an_async_failure_is_sent_where_sys_exc_info_tells(run, received, async_tasks):
    run(async_tasks.throw, "OwnError")
    assert received[-1].exc_info[0] is tasks.OwnError


def test_task_finished_of_a_success_is_sent_without_an_exception(run, received):
    run(tasks.throw, "ValueError")
    run(tasks.add, 1, 2)
    assert received[-1].name == "finished"
    assert received[-1].exc_info == (None, None, None)


def test_the_frameworks_log_has_the_failure_with_its_traceback(run, caplog):
    with caplog.at_level(logging.DEBUG, logger=PACKAGE):
        result = run(tasks.throw, "ValueError")
    [record] = [record for record in caplog.records if record.name == PACKAGE and record.levelno == logging.ERROR]
    assert result.id in record.getMessage()
    assert record.exc_info[0] is ValueError


def test_the_frameworks_log_has_the_way_of_a_success(run, caplog):
    with caplog.at_level(logging.DEBUG, logger=PACKAGE):
        result = run(tasks.add, 1)
    records = [record for record in caplog.records if record.name == PACKAGE and result.id in record.getMessage()]
    assert [record.levelname for record in records] == ["DEBUG", "INFO", "INFO"]


@pytest.mark.needs("worker")
def test_task_enqueued_is_sent_when_the_job_is_stored(received, backend):
    result = tasks.add.enqueue(1)
    [signal] = received
    assert signal.result.id == result.id
    assert signal.result.enqueued_at == result.enqueued_at == backend.get_result(result.id).enqueued_at


@pytest.mark.needs("worker")
def test_aenqueue_sends_task_enqueued(received, backend):
    result = async_to_sync(tasks.add.aenqueue)(1)
    assert [(signal.name, signal.result.id) for signal in received] == [("enqueued", result.id)]
    assert received[0].sender is type(backend)


def test_a_job_of_another_alias_says_so(run, received):
    run(tasks.add.using(backend="other"), 1)
    assert {signal.result.backend for signal in received} == {"other"}


def test_an_async_receiver_is_called(run, connect):
    heard = []

    async def receiver(task_result, **kwargs):
        heard.append(task_result.id)

    for signal in (task_enqueued, task_started, task_finished):
        connect(signal, receiver)
    result = run(tasks.add, 1)
    assert heard == [result.id] * 3


# Receivers that raise


@pytest.mark.needs("rows")
@pytest.mark.parametrize("way", ["enqueue", "aenqueue"])
def test_a_raising_receiver_does_not_make_a_stored_job_look_refused(way, connect, rows, settle, calls):
    connect(task_enqueued, raising)
    result = async_to_sync(tasks.add.aenqueue)(1, 2) if way == "aenqueue" else tasks.add.enqueue(1, 2)
    assert rows.count() == 1
    assert settle(result).return_value == 3
    assert calls == [(1, 2)]


@needs_worker
@pytest.mark.parametrize("signal", [task_started, task_finished], ids=["started", "finished"])
def test_a_raising_receiver_does_not_break_the_job(signal, connect, drain, backend, calls):
    connect(signal, raising)
    first, bad, last = tasks.add.enqueue(1, 2), tasks.throw.enqueue("ValueError"), tasks.add.enqueue(3, 4)
    drain("default")
    drain("default")
    assert calls == [(1, 2), "ValueError", (3, 4)]
    assert backend.get_result(first.id).return_value == 3
    assert backend.get_result(last.id).return_value == 7
    failed = backend.get_result(bad.id)
    assert failed.status == TaskResultStatus.FAILED
    assert [error.exception_class for error in failed.errors] == [ValueError]


@needs_worker
@pytest.mark.parametrize("signal", [task_started, task_finished], ids=["started", "finished"])
def test_a_receiver_that_exits_does_not_break_the_worker(signal, connect, drain, backend):
    def leave(**kwargs):
        raise SystemExit("a receiver that is broken")

    connect(signal, leave)
    results = [tasks.add.enqueue(number, 1) for number in range(4)]
    drain("default")
    assert [backend.get_result(result.id).is_finished for result in results] == [True] * 4
