"""The actions of the list of jobs."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_jobqueue.admin import pagination
from django_jobqueue.models import Job

from .pages import JOBS, messages_of, run_action

Status = Job.Status
ASKING = {"move", "priority", "reschedule"}


def choices(client) -> set[str]:
    form = client.get(JOBS).context["action_form"]
    return {name for name, _label in form.fields["action"].choices if name} if form else set()


def statuses(jobs) -> list[str]:
    by_id = Job.objects.in_bulk([job.pk for job in jobs])
    return [by_id[job.pk].status for job in jobs]


@pytest.fixture
def one_of_each(add_jobs):
    jobs = [add_jobs()[0], add_jobs(scheduled=True)[0]]
    return jobs + [add_jobs(status=status)[0] for status in Status if status != Status.READY]


def test_each_action_needs_its_permission(client_with, operator, viewer, add_jobs):
    add_jobs()
    assert choices(viewer) == set()
    assert choices(client_with("view_job", "retry_job")) == {"retry", "run_now"}
    assert choices(client_with("view_job", "cancel_job")) == {"cancel"}
    assert choices(client_with("view_job", "move_job")) == ASKING
    assert choices(operator) == {"retry", "run_now", "cancel"} | ASKING


@pytest.mark.parametrize("action", ["retry", "cancel", "run_now"])
def test_g16_without_permission_nothing_happens(client_with, one_of_each, action):
    client = client_with("view_job", *({"retry_job", "cancel_job"} - {f"{action}_job".replace("run_now", "retry")}))
    before = list(Job.objects.order_by("pk").values())
    run_action(client, JOBS, action, one_of_each)
    assert list(Job.objects.order_by("pk").values()) == before


def test_retry(operator, add_jobs):
    jobs = add_jobs(2, status=Status.FAILED) + add_jobs(1, status=Status.CANCELLED)
    [running] = add_jobs(status=Status.RUNNING)
    response = run_action(operator, JOBS, "retry", [*jobs, running])
    assert messages_of(response) == [
        "3 jobs were put back in line. 1 was left alone because it is running.",
    ]
    assert statuses([*jobs, running]) == ["READY", "READY", "READY", "RUNNING"]


def test_retry_leaves_jobs_alone_whose_unique_keys_others_have(operator, add_jobs):
    failed = add_jobs(3, status=Status.FAILED, options={"unique": "one"})
    response = run_action(operator, JOBS, "retry", failed)
    assert messages_of(response) == [
        "1 job was put back in line. 2 were left alone because other jobs have their unique keys."
    ]
    assert statuses(failed) == ["FAILED", "FAILED", "READY"]
    response = run_action(operator, JOBS, "retry", failed[:1])
    assert messages_of(response) == ["1 was left alone because another job has its unique key."]


def test_cancel(operator, add_jobs):
    jobs = add_jobs(2) + add_jobs(1, scheduled=True) + add_jobs(1, status=Status.WAITING)
    running = add_jobs(2, status=Status.RUNNING)
    done = add_jobs(2, status=Status.SUCCESSFUL)
    response = run_action(operator, JOBS, "cancel", [*jobs, *running, *done])
    assert messages_of(response) == [
        "4 jobs were cancelled. 2 running jobs were asked to stop. 2 were left alone because they have succeeded.",
    ]
    assert statuses(jobs) == ["CANCELLED"] * 4
    again = run_action(operator, JOBS, "cancel", running)
    assert messages_of(again) == ["2 were left alone because they have been asked to stop."]


def test_run_now(operator, one_of_each):
    response = run_action(operator, JOBS, "run_now", one_of_each)
    [message] = messages_of(response)
    assert message.startswith("1 job was put in line. 1 was left alone because it is in line.")
    assert not Job.objects.scheduled().exists()


def test_jobs_that_change_in_the_meantime(operator, add_jobs, monkeypatch):
    from django_jobqueue.lifecycle import control

    jobs = add_jobs(3, status=Status.FAILED)
    monkeypatch.setattr(control, "retry_all", lambda ids, using: control.Retried(1))
    response = run_action(operator, JOBS, "retry", jobs)
    assert messages_of(response) == [
        "1 job was put back in line. 2 were left alone because they changed in the meantime."
    ]


def test_all_across_the_pages(operator, add_jobs):
    jobs = add_jobs(120, status=Status.FAILED)
    other = add_jobs(1, status=Status.CANCELLED)
    response = run_action(operator, f"{JOBS}?status=failed", "retry", jobs[:1], across=True)
    assert messages_of(response) == ["120 jobs were put back in line."]
    assert statuses(other) == ["CANCELLED"]


def test_all_across_the_pages_are_no_more_than_the_pages_show(operator, add_jobs, monkeypatch):
    monkeypatch.setattr(pagination.CappedPaginator, "cap", 100)
    jobs = add_jobs(150, status=Status.FAILED)
    response = run_action(operator, f"{JOBS}?status=failed", "retry", jobs[:1], across=True)
    assert messages_of(response) == [
        "100 jobs were put back in line.",
        "There are more jobs like these: repeat the action for the next 100. The command does it for all of them: "
        "manage.py jobqueue retry --status failed",
    ]
    assert Job.objects.failed().count() == 50


def test_many_jobs_take_few_statements(operator, add_jobs):
    def statements(count):
        jobs = add_jobs(count, status=Status.FAILED)
        with CaptureQueriesContext(connection) as queries:
            run_action(operator, f"{JOBS}?status=failed", "retry", jobs[:1], across=True)
        assert not Job.objects.failed().exists()
        return len(queries)

    assert statements(800) <= statements(60) + 10  # some are for batches of the history


def test_the_history_is_kept_for_each_job(operator, add_jobs):
    jobs = add_jobs(2, status=Status.FAILED)
    [left] = add_jobs()
    run_action(operator, JOBS, "retry", [*jobs, left])
    assert {entry.object_id for entry in LogEntry.objects.all()} == {str(job.pk) for job in jobs}
    assert {entry.change_message for entry in LogEntry.objects.all()} == {"Retry"}
