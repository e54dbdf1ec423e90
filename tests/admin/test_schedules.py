"""Schedules in the admin: the list, the form, the buttons, and who may use them."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.contrib import admin
from django.utils import timezone

from django_jobqueue.admin.schedule_form import ScheduleForm
from django_jobqueue.admin.schedules import ScheduleAdmin
from django_jobqueue.lifecycle import fire, pause_schedule, retime_schedule
from django_jobqueue.models import Job, Schedule

from .pages import messages_of, run_action, text_of

SCHEDULES = "/admin/django_jobqueue/schedule/"
FORM = {
    "name": "nightly",
    "task_path": "tests.tasks.add",
    "args": "[1]",
    "kwargs": '{"b": 2}',
    "spec": "30  2 * * *",
    "time_zone": "Europe/Berlin",
    "jitter": "0",
    "overlap": "allow",
    "catch_up": "1",
    "queue_name": "",
    "priority": "",
}


@pytest.fixture
def boss(client_with):
    """Somebody who may do everything with schedules."""
    verbs = ("view", "add", "change", "delete", "pause", "run")
    return client_with(*(f"{verb}_schedule" for verb in verbs))


@pytest.fixture
def add(db):
    def add(name: str = "nightly", spec: str = "30 2 * * *", **fields) -> Schedule:
        fields = {"task_path": "tests.tasks.noop", "time_zone": "Europe/Berlin", **fields}
        schedule = Schedule.objects.create(name=name, spec=spec, **fields)
        retime_schedule(schedule.pk)
        schedule.refresh_from_db()
        return schedule

    return add


def change_page(schedule: Schedule) -> str:
    return f"{SCHEDULES}{schedule.pk}/change/"


def errors_of(response) -> str:
    assert response.status_code == 200
    return " ".join(str(error) for errors in response.context["adminform"].form.errors.values() for error in errors)


def test_what_the_list_tells(boss, add):
    add()
    paused = add("paused", "every 5 minutes")
    pause_schedule(paused.pk)
    add("gone", fingerprint="x", vanished_at=timezone.now())
    broken = add("broken")
    Schedule.objects.filter(pk=broken.pk).update(error="UnknownTask: no such task")
    add("<b>", task_path="<i>")
    response = boss.get(SCHEDULES)
    text = text_of(response)
    assert "At 02:30 every day, Europe/Berlin" in text and "Every 5 minutes" in text
    assert "No worker is running: jobs stay in line" in text
    assert "Active in" in text and "Paused just now" in text and "Not in the code" in text
    assert "Failing UnknownTask: no such task" in text
    assert "<b>" not in response.content.decode().replace("<body", "")


def test_a_schedule_is_made_in_the_form(boss):
    response = boss.post(f"{SCHEDULES}add/", FORM, follow=True)
    assert "was added successfully" in messages_of(response)[0]
    schedule = Schedule.objects.get()
    assert (schedule.spec, schedule.args, schedule.kwargs, schedule.is_from_code) == (
        "30 2 * * *",
        [1],
        {"b": 2},
        False,
    )
    assert schedule.next_run_at == schedule.look_at > timezone.now()


def test_only_tasks_of_the_code_can_be_chosen(boss):
    html = boss.get(f"{SCHEDULES}add/").content.decode()
    assert '<option value="tests.tasks.noop">' in html
    for path in ("os.system", "tests.tasks.nothing", ""):
        assert (
            "task_path" in boss.post(f"{SCHEDULES}add/", {**FORM, "task_path": path}).context["adminform"].form.errors
        )
    assert not Schedule.objects.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": "61 * * * *"}, "'61 * * * *' is no cron expression: Bad minute."),
        ({"spec": "every now and then"}, "is no period"),
        ({"spec": "0 0 30 2 *"}, "is no cron expression"),
        ({"time_zone": "Europe/Atlantis"}, "there is no time zone 'Europe/Atlantis'"),
        ({"args": "[1"}, "Enter a valid JSON"),
        ({"args": "1"}, "This must be a list"),
        ({"kwargs": "[1]"}, "This must be an object"),
        ({"kwargs": ""}, "the task needs b"),
        ({"kwargs": '{"c": 3}'}, "unexpected keyword argument 'c'"),
        ({"args": "[1, 2, 3]"}, "multiple values for argument 'b'"),
        ({"args": '["\\u0000"]'}, "NUL character"),
        ({"jitter": "-1"}, "greater than or equal to 0"),
        ({"catch_up": "1001"}, "less than or equal to 1000"),
        ({"priority": "101"}, "less than or equal to 100"),
    ],
)
def test_the_form_says_what_cannot_be(boss, change, message):
    assert message in errors_of(boss.post(f"{SCHEDULES}add/", {**FORM, **change}))
    assert not Schedule.objects.exists()


def test_two_of_one_name(boss, add):
    add()
    assert "already exists" in errors_of(boss.post(f"{SCHEDULES}add/", FORM))


def test_a_change_of_the_times_begins_anew_and_no_other_does(boss, add):
    schedule = add(args=[1], kwargs={"b": 2}, task_path="tests.tasks.add")
    Schedule.objects.update(next_run_at=timezone.now() + timedelta(seconds=7), last_job_id=3)
    before = Schedule.objects.get().next_run_at
    boss.post(change_page(schedule), {**FORM, "spec": schedule.spec, "queue_name": "reports"})
    schedule.refresh_from_db()
    assert schedule.queue_name == "reports" and schedule.next_run_at == before
    boss.post(change_page(schedule), {**FORM, "spec": "every 2 hours"})
    schedule.refresh_from_db()
    assert schedule.spec == "every 2 hours" and schedule.next_run_at > timezone.now() + timedelta(hours=1)
    assert schedule.last_job_id == 3


def test_g12_saving_the_form_takes_no_tick_back(boss, add):
    """The row moves on while somebody has the form open."""
    schedule = add("nightly", "every second", task_path="tests.tasks.add", args=[1], kwargs={"b": 2})
    due = timezone.now() - timedelta(seconds=0.1)  # SQLite's clock knows milliseconds
    Schedule.objects.update(look_at=due, next_run_at=due, time_zone="")
    stale = Schedule.objects.get()
    assert fire(schedule.pk, "default")
    moved = Schedule.objects.get()
    form = ScheduleForm({**FORM, "spec": "every second", "time_zone": "", "jitter": "3"}, instance=stale)
    assert form.is_valid(), form.errors
    ScheduleAdmin(Schedule, admin.site).save_model(None, form.save(commit=False), form, True)
    saved = Schedule.objects.get()
    assert (saved.jitter, saved.next_run_at, saved.last_job_id) == (3.0, moved.next_run_at, moved.last_job_id)


def test_what_stands_in_the_code_can_be_paused_and_run_and_nothing_else(boss, add):
    schedule = add(fingerprint="x")
    text = text_of(boss.get(change_page(schedule)))
    assert "The code: change it there." in text and "noop()" in text
    assert boss.post(change_page(schedule), FORM).status_code == 403
    assert boss.post(f"{SCHEDULES}{schedule.pk}/delete/", {"post": "yes"}).status_code == 403
    boss.post(SCHEDULES, {"action": "delete_selected", "_selected_action": [schedule.pk], "post": "yes"})
    assert Schedule.objects.filter(pk=schedule.pk).exists()
    Schedule.objects.update(vanished_at=timezone.now())
    boss.post(f"{SCHEDULES}{schedule.pk}/delete/", {"post": "yes"})
    assert not Schedule.objects.exists()


def test_pause_resume_and_run_now_with_the_buttons(boss, add):
    schedule = add()
    assert messages_of(boss.post(f"{SCHEDULES}{schedule.pk}/pause/", follow=True)) == ["1 schedule was paused."]
    assert messages_of(boss.post(f"{SCHEDULES}{schedule.pk}/pause/", follow=True)) == ["1 was left as it was."]
    response = boss.post(f"{SCHEDULES}{schedule.pk}/run_now/", follow=True)
    job = Job.objects.get()
    assert messages_of(response) == ["1 job was enqueued."] and f"#{job.pk}" in text_of(response)
    assert f"/admin/django_jobqueue/job/{job.pk}/change/" in response.content.decode()
    assert messages_of(boss.post(f"{SCHEDULES}{schedule.pk}/resume/", follow=True)) == ["1 schedule was resumed."]


def test_pause_resume_and_run_now_as_actions(boss, add):
    rows = [add(), add("unknown", task_path="tests.tasks.nothing")]
    response = run_action(boss, SCHEDULES, "run_now", rows)
    assert "No task 'tests.tasks.nothing'" in messages_of(response)[0]
    assert messages_of(response)[1] == "1 job was enqueued. 1 was left as it was."
    assert messages_of(run_action(boss, SCHEDULES, "pause", rows)) == ["2 schedules were paused."]
    assert messages_of(run_action(boss, SCHEDULES, "resume", rows)) == ["2 schedules were resumed."]


def test_g16_each_verb_needs_its_permission_and_a_post(client_with, boss, add):
    schedule = add()
    viewer = client_with("view_schedule")
    assert "formaction" not in viewer.get(SCHEDULES).content.decode()
    assert viewer.get(change_page(schedule)).status_code == 200
    assert viewer.get(f"{SCHEDULES}add/").status_code == 403
    assert viewer.post(change_page(schedule), FORM).status_code == 403
    for verb in ("pause", "resume", "run_now"):
        assert viewer.post(f"{SCHEDULES}{schedule.pk}/{verb}/").status_code == 403
        assert boss.get(f"{SCHEDULES}{schedule.pk}/{verb}/").status_code == 405
        assert boss.post(f"{SCHEDULES}4711/{verb}/").status_code == 404
        run_action(viewer, SCHEDULES, verb, [schedule])
    assert client_with("view_schedule", "pause_schedule").post(f"{SCHEDULES}{schedule.pk}/run_now/").status_code == 403
    assert client_with("run_schedule").post(f"{SCHEDULES}{schedule.pk}/run_now/").status_code == 403
    assert not Job.objects.exists() and not Schedule.objects.get().is_paused


def test_the_page_of_a_row_that_somebody_has_written_by_hand(boss, add):
    schedule = add(args={"not": "a list"}, kwargs=[1])
    Schedule.objects.update(spec="nonsense")
    assert "nonsense" in text_of(boss.get(SCHEDULES))
    assert boss.get(change_page(schedule)).status_code == 200
    assert json.loads(FORM["args"]) == [1]
