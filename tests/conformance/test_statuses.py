"""The statuses of a job that Django's contract has no word for."""

from __future__ import annotations

import pytest

from . import tasks
from .framework import TaskResultStatus
from .marks import runs

pytestmark = [pytest.mark.needs("cancel", "rows"), runs]


@pytest.fixture
def control():
    from django_jobqueue.lifecycle import control

    return control


def test_a_waiting_job_is_ready(backend, rows):
    result = tasks.add.enqueue(1)
    rows.filter(pk=result.id).update(status="WAITING", place=None)
    found = backend.get_result(result.id)
    assert found.status is TaskResultStatus.READY
    assert found.is_finished is False


def test_a_job_of_a_paused_queue_is_ready(backend, drain, calls):
    from django_jobqueue.lifecycle import pause

    pause("mail")
    result = tasks.add.using(queue_name="mail").enqueue(1)
    drain("default")
    assert backend.get_result(result.id).status is TaskResultStatus.READY
    assert calls == []


def test_a_cancelled_job_is_failed_and_its_error_says_why(backend, control, drain, calls):
    from django_jobqueue.exceptions import Cancelled

    result = tasks.add.enqueue(1)
    control.cancel([int(result.id)])
    drain("default")
    assert calls == []
    found = backend.get_result(result.id)
    assert found.status is TaskResultStatus.FAILED
    assert found.is_finished
    assert found.finished_at is not None
    assert found.attempts == 0
    assert [error.exception_class for error in found.errors] == [Cancelled]
    with pytest.raises(ValueError, match="failed"):
        found.return_value  # noqa: B018 - reading it is the test


def test_a_cancelled_retry_keeps_the_errors_of_its_attempts(backend, control, run):
    from django_jobqueue.exceptions import Cancelled

    from . import option_tasks

    result = run(option_tasks.much_later)
    control.cancel([int(result.id)])
    found = backend.get_result(result.id)
    assert found.status is TaskResultStatus.FAILED
    assert [error.exception_class for error in found.errors] == [tasks.OwnError, Cancelled]
    assert found.attempts == 1


def test_a_skipped_job_is_failed_and_its_error_can_be_imported(run):
    from . import control_tasks

    result = run(control_tasks.skip)
    assert result.status is TaskResultStatus.FAILED
    assert issubclass(result.errors[-1].exception_class, BaseException)


def test_a_job_that_gives_up_is_failed_and_its_error_can_be_imported(run):
    from . import control_tasks

    result = run(control_tasks.give_up)
    assert result.status is TaskResultStatus.FAILED
    assert result.attempts == 1
    assert issubclass(result.errors[-1].exception_class, BaseException)


def test_a_snoozed_job_is_ready_and_has_no_error(run):
    from . import control_tasks

    result = run(control_tasks.snooze)
    assert result.status is TaskResultStatus.READY
    assert result.errors == []
    assert result.finished_at is None


def test_a_retried_job_is_ready_again(backend, control, run, drain):
    result = run(tasks.throw, "OwnError")
    assert control.retry([int(result.id)]) == 1
    found = backend.get_result(result.id)
    assert found.status is TaskResultStatus.READY
    assert (found.attempts, len(found.errors)) == (1, 1)
    assert found.finished_at is None
    drain("default")
    found = backend.get_result(result.id)
    assert found.status is TaskResultStatus.FAILED
    assert (found.attempts, len(found.errors)) == (2, 2)
    assert found.started_at < found.last_attempted_at
