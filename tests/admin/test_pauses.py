"""The page of what is paused, and the button on a job's page."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry

from django_jobqueue.lifecycle import pause, paused_tasks, resume
from django_jobqueue.models import Pause

from .pages import JOBS, PAUSES, job_page, messages_of, run_action, text_of

PATH = "tests.tasks.noop"


def put(client, **data):
    return client.post(f"{PAUSES}pause/", data, follow=True)


@pytest.mark.parametrize("kind", ["task", "key"])
def test_pausing_and_resuming(operator, kind):
    assert messages_of(put(operator, kind=kind, name=PATH)) == [f"{PATH} is paused. What is running goes on."]
    assert messages_of(put(operator, kind=kind, name=PATH)) == [f"{PATH} was paused already."]
    row = Pause.objects.get()
    assert (row.kind, row.name) == (kind, PATH)
    response = operator.post(f"{PAUSES}{row.pk}/resume/", follow=True)
    assert messages_of(response) == [f"{PATH} is resumed."]
    assert not Pause.objects.in_force().exists()
    assert "No task and no key is paused." in text_of(operator.get(PAUSES))
    assert [str(entry) for entry in LogEntry.objects.values_list("change_message", flat=True)] == ["Resume", "Pause"]


def test_the_list_and_the_action(operator):
    pause(task=PATH)
    pause(key="tenant-7")
    pause(key="over")
    resume(key="over")
    text = text_of(operator.get(PAUSES))
    assert PATH in text and "tenant-7" in text and "over" not in text
    run_action(operator, PAUSES, "resume", list(Pause.objects.in_force()))
    assert not Pause.objects.in_force().exists()


@pytest.mark.parametrize("data", [{"kind": "task", "name": ""}, {"kind": "odd", "name": "x"}, {}])
def test_a_wrong_form_is_told(operator, data):
    assert messages_of(put(operator, **data))
    assert not Pause.objects.exists()


def test_g16_without_permission_nothing_is_paused_and_nothing_resumed(viewer, client_with, add_jobs):
    [job] = add_jobs()
    pause(task="tests.tasks.add")
    row = Pause.objects.get()
    for client in (viewer, client_with("pause_task"), client_with("view_job", "pause_queue")):
        for url in (f"{PAUSES}pause/", f"{PAUSES}{row.pk}/resume/", f"{JOBS}{job.pk}/pause_task/"):
            assert client.post(url, {"kind": "task", "name": PATH}).status_code == 403
    assert paused_tasks("default") == ("tests.tasks.add",)
    assert "<button" not in viewer.get(PAUSES).content.decode().partition('id="changelist"')[2].partition("</form>")[0]


def test_only_post_changes_anything(operator, add_jobs):
    [job] = add_jobs()
    pause(task=PATH)
    for url in (f"{PAUSES}pause/", f"{PAUSES}{Pause.objects.get().pk}/resume/", f"{JOBS}{job.pk}/resume_task/"):
        assert operator.get(url).status_code == 405
    assert operator.post(f"{PAUSES}999/resume/").status_code == 404
    assert paused_tasks("default") == (PATH,)


def test_the_button_on_a_jobs_page(operator, add_jobs):
    [job] = add_jobs()
    assert "Pause task" in text_of(operator.get(job_page(job)))
    response = operator.post(f"{JOBS}{job.pk}/pause_task/", follow=True)
    assert paused_tasks("default") == (PATH,)
    text = text_of(response)
    assert "its task is paused" in text and "Resume task" in text
    operator.post(f"{JOBS}{job.pk}/resume_task/")
    assert paused_tasks("default") == ()


def test_the_list_of_jobs_says_what_is_paused(viewer):
    pause(task=PATH)
    pause(key="tenant-7")
    text = text_of(viewer.get(JOBS))
    assert "The task noop is paused: its jobs stay in line." in text
    assert "The key tenant-7 is paused" in text
