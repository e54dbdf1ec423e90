"""Results: a job and its attempts in the words of django.tasks."""

from datetime import timedelta

import pytest
from django.utils import timezone

from django_jobqueue.compat import TaskResultStatus, task_backends
from django_jobqueue.exceptions import UnknownTask
from django_jobqueue.lifecycle import cancel
from django_jobqueue.models import Job
from django_jobqueue.results import STATUS

from .lifecycle.steps import end, enqueue, failed, interrupted, retrying, snoozed, started, succeeded, take_one, worker
from .tasks import add, noop

pytestmark = pytest.mark.django_db


def result(job: Job):
    return task_backends["default"].get_result(str(job.pk))


def test_every_status_has_a_word_of_django():
    assert set(STATUS) == set(Job.Status)
    assert STATUS[Job.Status.WAITING] == TaskResultStatus.READY
    assert STATUS[Job.Status.CANCELLED] == TaskResultStatus.FAILED


def test_a_running_job():
    job = started(add, 1, 2)
    found = result(job)
    assert found.status == TaskResultStatus.RUNNING and not found.is_finished
    assert found.started_at == found.last_attempted_at is not None
    assert found.worker_ids == [str(job.worker_id)] and found.attempts == 1
    with pytest.raises(ValueError):
        _ = found.return_value


@pytest.mark.parametrize("value", [None, 0, [], {"a": [1.5]}, "text"])
def test_a_success(value):
    job = started(add, 1, 2)
    end(job, succeeded(value), took=1.0)
    found = result(job)
    assert found.status == TaskResultStatus.SUCCESSFUL and found.is_finished
    assert found.return_value == value and found.errors == []
    assert found.finished_at is not None and found.attempts == 1


def test_a_failure_after_retries():
    job = enqueue(noop.using(max_attempts=9))
    ids = []
    for outcome in (retrying(error=KeyError("a")), snoozed(), interrupted(), failed(LookupError("b"))):
        taken = take_one(worker())
        ids.append(str(taken.worker_id))
        end(taken, outcome)
    found = result(job)
    assert found.status == TaskResultStatus.FAILED
    assert [error.exception_class_path for error in found.errors] == ["builtins.KeyError", "builtins.LookupError"]
    assert found.errors[-1].exception_class is LookupError
    assert found.worker_ids == ids and found.attempts == 4
    assert found.started_at <= found.last_attempted_at


def test_an_error_without_a_traceback_says_its_message():
    job = started()
    end(job, failed(LookupError("no such order")))
    assert result(job).errors[0].traceback == "LookupError: no such order"


def test_a_cancelled_job_says_so():
    job = enqueue()
    cancel([job.pk])
    found = result(job)
    assert found.status == TaskResultStatus.FAILED and found.is_finished
    assert found.errors[-1].exception_class_path == "django_jobqueue.exceptions.Cancelled"
    assert found.attempts == 0 and found.started_at is None


def test_the_task_is_the_one_that_was_enqueued_with_its_own_values():
    at = timezone.now() + timedelta(days=1)
    job = enqueue(add.using(priority=7, queue_name="mail", run_after=at), 1, 2)
    found = result(job).task
    assert (found.priority, found.queue_name) == (7, "mail")
    assert abs(found.run_after - at) < timedelta(milliseconds=1)
    assert found.func is add.func


def test_a_task_of_unchanged_values_is_the_task_itself():
    assert result(enqueue(add, 1, 2)).task is add


def test_g9_one_stale_row_does_not_break_the_list():
    job = enqueue()
    Job.objects.filter(pk=job.pk).update(task_path="shop.tasks.of_last_year")
    found = result(job)
    assert found.task.module_path == "shop.tasks.of_last_year"
    with pytest.raises(UnknownTask, match="of_last_year"):
        found.task.call()


def test_a_job_of_a_queue_that_is_no_longer_in_the_settings_has_a_result(settings):
    job = enqueue(noop.using(queue_name="retired"))
    settings.TASKS = {"default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "QUEUES": ["mail"]}}
    assert result(job).task.queue_name == "retired"


def test_refreshing_follows_the_job():
    enqueued = add.enqueue(1, 2)
    taken = take_one(worker())
    enqueued.refresh()
    assert enqueued.status == TaskResultStatus.RUNNING
    end(taken, succeeded(3))
    enqueued.refresh()
    assert enqueued.return_value == 3 and enqueued.finished_at is not None
