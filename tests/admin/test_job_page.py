"""The page of one job."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from django_jobqueue.admin import job_page as page_module
from django_jobqueue.lifecycle import pause
from django_jobqueue.models import Job, Queue
from django_jobqueue.retention import FOREVER

from .pages import JOBS, job_page, messages_of, text_of

Status = Job.Status

TRACEBACK = 'Traceback (most recent call last):\n  File "jobs.py", line 1, in <module>\nValueError: no'


def buttons(client, job) -> list[str]:
    return [button["name"] for button in client.get(job_page(job)).context["buttons"]]


def test_what_it_is(viewer, add_jobs):
    [job] = add_jobs(
        task_path="shop.jobs.send_receipt",
        args=[42, "ünï"],
        kwargs={"copy": True},
        options={"timeout": 30, "unique": "r<42>"},
        queue_name="mail",
        priority=7,
        status=Status.SUCCESSFUL,
        result={"sent": 3},
    )
    text = text_of(viewer.get(job_page(job)))
    for part in (
        f"send_receipt #{job.pk}",
        "Successful just now, after 1 attempt.",
        'send_receipt(42, "ünï", copy=true)',
        "Task shop.jobs.send_receipt",
        "Unique key r<42>",
        "Queue mail",
        "Priority 7",
        'Arguments [42, "ünï"]',
        '{"copy": true}',
        '"timeout": 30',
        '"unique": "r<42>"',
        '{"sent": 3}',
        "Duration 30 s",
    ):
        assert part in text


def test_how_long_it_is_kept_where_that_is_said(viewer, add_jobs):
    soon, until = timezone.now() + timedelta(days=2), timezone.now() + timedelta(hours=3)
    [job, for_ever, usual] = add_jobs(3, status=Status.SUCCESSFUL, finished_at=timezone.now())
    Job.objects.filter(pk=job.pk).update(prune_at=soon, result_until=until)
    Job.objects.filter(pk=for_ever.pk).update(prune_at=timezone.now() + timedelta(seconds=FOREVER))
    text = text_of(viewer.get(job_page(job)))
    assert "Kept until" in text and "Result until" in text and "for ever" not in text
    assert "Kept until for ever" in text_of(viewer.get(job_page(for_ever)))
    text = text_of(viewer.get(job_page(usual)))
    assert "Kept until" not in text and "Result until" not in text


def test_for_which_slot_it_waits(viewer, add_jobs):
    [job] = add_jobs(status=Status.WAITING, concurrency_key="tenant-7")
    text = text_of(viewer.get(job_page(job)))
    assert "Waiting for a slot of tenant-7." in text and "Concurrency key tenant-7" in text
    pause(key="tenant-7")
    assert "Waiting for a slot of tenant-7, which is paused." in text_of(viewer.get(job_page(job)))
    Job.objects.filter(pk=job.pk).update(waiting_for=2)
    assert "Waiting for 2 other jobs." in text_of(viewer.get(job_page(job)))


def test_the_attempts_newest_first(viewer, add_jobs, add_attempt, add_worker):
    worker = add_worker()
    [job] = add_jobs(status=Status.FAILED, attempts=3, tries=3, max_attempts=3)
    trouble = {"exception_class_path": "builtins.ValueError", "traceback": TRACEBACK}
    add_attempt(job, 1, "retrying", worker=worker, message="ValueError: first", **trouble)
    add_attempt(job, 2, "lost", worker_id=4711, message="the worker vanished")
    add_attempt(job, 3, "failed", worker=worker, message="ValueError: <third>", **trouble)
    response = viewer.get(job_page(job))
    text, html = text_of(response), response.content.decode()
    assert text.index("Attempt 3") < text.index("Attempt 2") < text.index("Attempt 1")
    for part in ("Failed, will retry", "Lost", "worker #4711, which is gone", str(worker), "2.0 s", "after 3 attempts"):
        assert part in text
    assert "&lt;third&gt;" in html
    assert html.count("<details") - html.count("<details open") == 1 + html.count("data-filter-title")
    assert "Traceback ValueError" in text


@pytest.mark.parametrize(
    ("told", "shown", "bar"),
    [
        ({"done": 30, "total": 120, "message": "<pages>"}, "30 of 120 <pages>", 'value="25"'),
        ({"done": 3.5, "total": None, "message": "read"}, "3.5 read", None),
        ({"done": 500, "total": 120, "message": ""}, "500 of 120", 'value="100"'),
        ({"done": "x"}, "", None),
        (["nonsense"], "", None),
        (None, "", None),
    ],
)
def test_how_far_a_running_job_says_it_is(viewer, add_jobs, add_worker, told, shown, bar):
    [job] = add_jobs(status=Status.RUNNING, attempts=1, worker=add_worker(), started_at=timezone.now(), progress=told)
    response = viewer.get(job_page(job))
    html = response.content.decode()
    assert shown.replace("<pages>", "&lt;pages&gt;") in " ".join(html.replace("%</progress>", "%</progress> ").split())
    assert ("<progress" in html) is (bar is not None) and (bar or "") in html


def test_how_far_it_said_it_was_is_no_news_of_a_job_that_has_ended(viewer, add_jobs):
    [job] = add_jobs(status=Status.SUCCESSFUL, attempts=1, progress={"done": 3, "total": 4, "message": "half-way"})
    assert "half-way" not in viewer.get(job_page(job)).content.decode()


def test_what_an_attempt_has_logged_is_folded(viewer, add_jobs, add_attempt):
    [job] = add_jobs(status=Status.SUCCESSFUL, attempts=2)
    add_attempt(job, 1, "retrying", message="OSError: no")
    add_attempt(job, 2, "succeeded", log="12:00:00.123 INFO shop: <sent>\n")
    html = viewer.get(job_page(job)).content.decode()
    assert html.count("<summary>Log</summary>") == 1
    assert '<pre class="jq-log">12:00:00.123 INFO shop: &lt;sent&gt;\n</pre>' in html
    assert html.count("<details open") == html.count("data-filter-title")


def test_of_many_attempts_the_newest(viewer, add_jobs, add_attempt, monkeypatch):
    monkeypatch.setattr(page_module, "SHOWN", 3)
    [job] = add_jobs(status=Status.FAILED, attempts=5)
    for number in range(1, 6):
        add_attempt(job, number, "failed")
    text = text_of(viewer.get(job_page(job)))
    assert "Attempt 3" in text
    assert "Attempt 2" not in text
    assert "2 earlier attempts are not shown." in text


def test_one_in_line(viewer, add_jobs):
    [job] = add_jobs(queue_name="mail")
    assert "In the queue mail." in text_of(viewer.get(job_page(job)))
    Queue.objects.create(name="mail", paused_at=timezone.now())
    assert "In the queue mail, which is paused." in text_of(viewer.get(job_page(job)))


def test_a_scheduled_one_tells_when(viewer, add_jobs, add_attempt):
    [job] = add_jobs(scheduled=True, attempts=1, tries=1, max_attempts=5)
    add_attempt(job, 1, "retrying", message="OSError: no")
    text = text_of(viewer.get(job_page(job)))
    assert "Scheduled Runs in 9 min" in text
    assert "1 of 5" in text


def test_a_scheduled_one_that_is_due(viewer, add_jobs):
    [job] = add_jobs(scheduled=True, run_after=timezone.now() - timedelta(seconds=1))
    assert "Runs due" in text_of(viewer.get(job_page(job)))


def test_a_running_one_tells_where(viewer, add_jobs, add_worker):
    worker = add_worker()
    started = timezone.now() - timedelta(seconds=20)
    [job] = add_jobs(status=Status.RUNNING, worker=worker, attempts=2, started_at=started)
    assert f"Attempt 2 has been running for 20 s on {worker}." in text_of(viewer.get(job_page(job)))
    [orphan] = add_jobs(status=Status.RUNNING, worker_id=4711, attempts=1, started_at=started)
    assert "an unknown worker" in text_of(viewer.get(job_page(orphan)))


def test_one_that_was_asked_to_stop(operator, add_jobs):
    [job] = add_jobs(status=Status.RUNNING, cancel_requested_at=timezone.now() - timedelta(seconds=5))
    assert "Asked to stop 5" in text_of(operator.get(job_page(job)))
    assert buttons(operator, job) == ["pause_task"]


def test_long_values_are_folded_and_huge_ones_cut(viewer, add_jobs):
    [job] = add_jobs(args=["word " * 400], kwargs={"huge": "x" * 300_000})
    response = viewer.get(job_page(job))
    assert len(response.content) < 150_000
    assert "2008 characters" in text_of(response)
    assert "[…]" in text_of(response)


@pytest.mark.parametrize(("args", "kwargs"), [({"no": "list"}, ["no dict"]), ("text", 3), (["\\u0000"], {})])
def test_strange_arguments(viewer, add_jobs, args, kwargs):
    [job] = add_jobs(task_path="module.that_is.gone", args=args, kwargs=kwargs, options=["strange"])
    assert "gone" in text_of(viewer.get(job_page(job)))


@pytest.mark.skipif(connection.vendor != "sqlite", reason="the others refuse to store it")
def test_half_a_character(viewer, add_jobs):
    [job] = add_jobs(args=["\ud800"], kwargs={"\udfff": 1}, status=Status.SUCCESSFUL, result="\ud800")
    assert "noop(" in text_of(viewer.get(job_page(job)))
    assert "noop(" in text_of(viewer.get(JOBS))


def test_one_that_is_not_there(viewer):
    response = viewer.get(f"{JOBS}4711/change/", follow=True)
    assert response.redirect_chain[0][0] == "/admin/"


# The buttons


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["cancel"]),
        ({"scheduled": True}, ["run_now", "cancel"]),
        ({"status": Status.WAITING}, ["cancel"]),
        ({"status": Status.RUNNING}, ["cancel"]),
        ({"status": Status.FAILED}, ["retry"]),
        ({"status": Status.CANCELLED}, ["retry"]),
        ({"status": Status.SUCCESSFUL}, []),
    ],
)
def test_only_what_is_possible_has_a_button(operator, viewer, add_jobs, fields, expected):
    [job] = add_jobs(**fields)
    assert buttons(operator, job) == [*expected, "pause_task"]
    assert buttons(viewer, job) == []


def test_a_button_for_each_permission(client_with, add_jobs):
    [job] = add_jobs(scheduled=True)
    assert buttons(client_with("view_job", "retry_job"), job) == ["run_now"]
    assert buttons(client_with("view_job", "cancel_job"), job) == ["cancel"]


def test_retry(operator, add_jobs):
    [job] = add_jobs(status=Status.FAILED)
    response = operator.post(f"{JOBS}{job.pk}/retry/", follow=True)
    assert response.redirect_chain == [(job_page(job), 302)]
    assert messages_of(response) == ["1 job was put back in line."]
    job.refresh_from_db()
    assert job.status == Status.READY


def test_cancel(operator, add_jobs):
    [waiting], [running] = add_jobs(), add_jobs(status=Status.RUNNING)
    assert messages_of(operator.post(f"{JOBS}{waiting.pk}/cancel/", follow=True)) == ["1 job was cancelled."]
    assert messages_of(operator.post(f"{JOBS}{running.pk}/cancel/", follow=True)) == [
        "1 running job was asked to stop."
    ]
    waiting.refresh_from_db()
    running.refresh_from_db()
    assert waiting.status == Status.CANCELLED
    assert running.is_cancelling


def test_run_now(operator, add_jobs):
    [job] = add_jobs(scheduled=True)
    assert messages_of(operator.post(f"{JOBS}{job.pk}/run_now/", follow=True)) == ["1 job was put in line."]
    job.refresh_from_db()
    assert not job.is_scheduled


def test_what_has_become_impossible_is_said(operator, add_jobs):
    [job] = add_jobs(status=Status.SUCCESSFUL)
    response = operator.post(f"{JOBS}{job.pk}/cancel/", follow=True)
    assert messages_of(response) == ["1 was left alone because it has succeeded."]


@pytest.mark.parametrize(
    ("verb", "lacking"), [("retry", "retry_job"), ("run_now", "retry_job"), ("cancel", "cancel_job")]
)
def test_g16_each_button_needs_its_permission(client_with, add_jobs, verb, lacking):
    [job] = add_jobs(status=Status.FAILED) if verb == "retry" else add_jobs(scheduled=True)
    client = client_with("view_job", *({"retry_job", "cancel_job"} - {lacking}))
    assert client.post(f"{JOBS}{job.pk}/{verb}/").status_code == 403
    blind = client_with(lacking)
    assert blind.post(f"{JOBS}{job.pk}/{verb}/").status_code == 403
    before = (job.status, job.place)
    job.refresh_from_db()
    assert (job.status, job.place) == before


def test_a_link_cannot_do_it(operator, add_jobs):
    [job] = add_jobs(status=Status.FAILED)
    assert operator.get(f"{JOBS}{job.pk}/retry/").status_code == 405
    operator.handler.enforce_csrf_checks = True
    assert operator.post(f"{JOBS}{job.pk}/retry/").status_code == 403
    job.refresh_from_db()
    assert job.status == Status.FAILED


def test_strangers_are_sent_to_the_login(client, add_jobs):
    [job] = add_jobs(status=Status.FAILED)
    assert "/login/" in client.post(f"{JOBS}{job.pk}/retry/").url


def test_a_job_that_is_gone(operator):
    assert operator.post(f"{JOBS}4711/retry/").status_code == 404


def test_the_history_tells_who_did_it(operator, add_jobs):
    [job] = add_jobs(status=Status.FAILED)
    operator.post(f"{JOBS}{job.pk}/retry/")
    text = text_of(operator.get(f"{JOBS}{job.pk}/history/"))
    assert "Retry" in text
    assert "with 9" in text
