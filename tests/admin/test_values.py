"""Move, priority, reschedule: actions that ask for a value first."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.utils import timezone

from django_jobqueue.admin import pagination
from django_jobqueue.models import Job

from .pages import JOBS, messages_of, run_action, text_of

Status = Job.Status
ANSWERS = {"move": "other", "priority": 7, "reschedule": "2038-01-19T03:14"}


@pytest.fixture
def one_of_each(add_jobs):
    jobs = [add_jobs()[0], add_jobs(scheduled=True)[0]]
    return jobs + [add_jobs(status=status)[0] for status in Status if status != Status.READY]


def rows() -> list:
    return list(Job.objects.order_by("pk").values())


@pytest.mark.parametrize("action", ANSWERS)
def test_a_page_asks_first_and_nothing_is_done_before(operator, one_of_each, action):
    before = rows()
    text = text_of(run_action(operator, JOBS, action, one_of_each[:3]))
    assert "3 selected jobs." in text and "Those that run or have finished are left alone." in text
    assert rows() == before


@pytest.mark.parametrize("action", ANSWERS)
def test_g16_without_permission_nothing_happens(client_with, one_of_each, action):
    client = client_with("view_job", "retry_job", "cancel_job", "pause_queue", "pause_task")
    before = rows()
    run_action(client, JOBS, action, one_of_each, value=ANSWERS[action])
    assert rows() == before


def test_move(operator, one_of_each):
    response = run_action(operator, JOBS, "move", one_of_each, value="other")
    [message] = messages_of(response)
    assert message.startswith("3 jobs were moved. 1 was left alone because it is running.")
    assert "1 was left alone because it has succeeded." in message
    moved = set(Job.objects.filter(queue_name="other").values_list("status", flat=True))
    assert moved == {"READY", "WAITING"}
    again = run_action(operator, JOBS, "move", one_of_each[:1], value="other")
    assert messages_of(again) == ["1 was left alone because it is so already."]


def test_priority(operator, add_jobs):
    jobs = add_jobs(2)
    response = run_action(operator, JOBS, "priority", jobs, value="-7")
    assert messages_of(response) == ["2 jobs were given another priority."]
    assert set(Job.objects.values_list("priority", flat=True)) == {-7}


def test_reschedule_to_a_time_of_the_project_and_to_now(operator, add_jobs, settings):
    settings.TIME_ZONE = "Asia/Tokyo"
    [job] = add_jobs()
    noon = (timezone.localtime() + timedelta(days=3)).replace(hour=12, minute=0, second=0, microsecond=0)
    response = run_action(operator, JOBS, "reschedule", [job], value=noon.strftime("%Y-%m-%dT%H:%M"))
    assert messages_of(response) == ["1 job was given another time."]
    assert Job.objects.get().run_after == noon and Job.objects.get().is_scheduled
    run_action(operator, JOBS, "reschedule", [job], value="")
    assert not Job.objects.get().is_scheduled


@pytest.mark.parametrize(
    ("action", "value", "word"),
    [
        ("move", "", "required"),
        ("move", "x" * 101, "at most 100"),
        ("priority", "101", "less than or equal to 100"),
        ("priority", "high", "whole number"),
        ("reschedule", "tomorrow", "valid date"),
    ],
)
def test_a_wrong_answer_is_asked_for_again(operator, one_of_each, action, value, word):
    before = rows()
    response = run_action(operator, JOBS, action, one_of_each[:2], value=value)
    assert word in text_of(response) and rows() == before
    assert response.content.decode().count('name="_selected_action"') == 2


def test_all_across_the_pages(operator, add_jobs):
    jobs = add_jobs(120, queue_name="mail")
    [other] = add_jobs()
    url = f"{JOBS}?queue=mail"
    text = text_of(run_action(operator, url, "priority", jobs[:1], across=True))
    assert "All that the list shows: 120 jobs." in text
    response = run_action(operator, url, "priority", jobs[:1], across=True, value=3)
    assert messages_of(response) == ["120 jobs were given another priority."]
    other.refresh_from_db()
    assert other.priority == 0


def test_of_very_many_one_request_does_some_and_the_next_goes_on_there(operator, add_jobs, monkeypatch):
    monkeypatch.setattr(pagination.CappedPaginator, "cap", 100)
    jobs = add_jobs(250, queue_name="mail")
    url = f"{JOBS}?queue=mail&status=ready"
    asked = text_of(run_action(operator, url, "priority", jobs[:1], across=True))
    assert "100+ jobs" in asked and "The first 100 of them are done at once." in asked
    for left in (150, 50):
        response = run_action(operator, url, "priority", jobs[:1], across=True, value=3)
        [done, more] = messages_of(response)
        assert done == "100 jobs were given another priority."
        assert more.endswith("manage.py jobqueue priority --to 3 --queue mail --status ready")
        assert Job.objects.filter(priority=0).count() == left
    response = run_action(operator, url, "priority", jobs[:1], across=True, value=3)
    assert messages_of(response) == ["50 jobs were given another priority."]


def test_what_the_command_cannot_be_told_is_not_told(operator, add_jobs, monkeypatch):
    monkeypatch.setattr(pagination.CappedPaginator, "cap", 10)
    jobs = add_jobs(20)
    for url in (JOBS, f"{JOBS}?q=noop", f"{JOBS}?q=noop&queue=default"):
        response = run_action(operator, url, "priority", jobs[:1], across=True, value=Job.objects.first().priority + 1)
        assert not any("manage.py" in message for message in messages_of(response))


def test_the_history_is_kept(operator, add_jobs):
    [job] = add_jobs()
    run_action(operator, JOBS, "move", [job], value="other")
    assert [(entry.object_id, entry.change_message) for entry in LogEntry.objects.all()] == [(str(job.pk), "Move")]
