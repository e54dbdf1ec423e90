"""The list of jobs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from django_jobqueue.admin import changelist, pagination
from django_jobqueue.models import Job, Queue

from .pages import JOBS, listed, text_of

Status = Job.Status


@pytest.fixture
def small_window(monkeypatch):
    monkeypatch.setattr(changelist, "WINDOW", 10)


def test_a_row_says_what_where_and_how_long(viewer, add_jobs):
    add_jobs(
        task_path="shop.jobs.send_receipt",
        args=[42],
        kwargs={"copy": True},
        queue_name="mail",
        priority=7,
        status=Status.SUCCESSFUL,
        max_attempts=5,
    )
    response = viewer.get(JOBS)
    text = text_of(response)
    for part in ("Successful", "send_receipt", "(42, copy=true)", "mail", "7", "1 of 5", "5 min", "30 s"):
        assert part in text
    assert 'title="shop.jobs.send_receipt"' in response.content.decode()


def test_the_newest_come_first_whatever_order_is_asked_for(viewer, add_jobs):
    jobs = add_jobs(3)
    newest_first = [job.pk for job in reversed(jobs)]
    assert listed(viewer.get(JOBS)) == newest_first
    assert listed(viewer.get(JOBS, {"o": "1"})) == newest_first
    assert listed(viewer.get(JOBS, {"o": "-6.2"})) == newest_first


def test_no_column_offers_an_order(viewer, add_jobs):
    add_jobs(2)
    assert "?o=" not in viewer.get(JOBS).content.decode()


@pytest.mark.parametrize(
    ("word", "fields"),
    [
        ("ready", {}),
        ("scheduled", {"scheduled": True}),
        ("running", {"status": Status.RUNNING}),
        ("waiting", {"status": Status.WAITING}),
        ("failed", {"status": Status.FAILED}),
        ("cancelled", {"status": Status.CANCELLED}),
        ("successful", {"status": Status.SUCCESSFUL}),
    ],
)
def test_each_status_has_its_filter(viewer, add_jobs, word, fields):
    for other in ({}, {"scheduled": True}, *({"status": status} for status in Status)):
        add_jobs(**other)
    wanted = add_jobs(2, **fields)
    found = listed(viewer.get(JOBS, {"status": word}))
    assert {job.pk for job in wanted} <= set(found)
    assert len(found) in (3, 4)  # READY was added twice: as itself, and as a status


def test_the_line_is_listed_from_its_head(viewer, add_jobs):
    first, second, third = add_jobs(3)
    for job, place in ((first, 30), (second, 10), (third, 20)):
        Job.objects.filter(pk=job.pk).update(place=place)
    assert listed(viewer.get(JOBS, {"status": "ready"})) == [second.pk, third.pk, first.pk]


def test_scheduled_jobs_are_listed_by_their_time(viewer, add_jobs):
    now = timezone.now()
    [late] = add_jobs(scheduled=True, run_after=now + timedelta(hours=2))
    [soon] = add_jobs(scheduled=True, run_after=now + timedelta(hours=1))
    response = viewer.get(JOBS, {"status": "scheduled"})
    assert listed(response) == [soon.pk, late.pk]
    assert "in 59 min" in text_of(response)


def test_the_filters_beside_the_list(viewer, add_jobs):
    Queue.objects.create(name="known to workers")
    add_jobs(3, status=Status.FAILED, queue_name="mail", task_path="shop.jobs.send")
    add_jobs(1, task_path="blog.jobs.send")
    text = text_of(viewer.get(JOBS))
    for part in ("Failed 3", "Ready 1", "known to workers", "mail", "shop.jobs.send", "blog.jobs.send"):
        assert part in text


def test_by_queue_and_by_task(viewer, add_jobs):
    [mail] = add_jobs(queue_name="mail", task_path="shop.jobs.send")
    add_jobs(queue_name="mail")
    add_jobs(task_path="shop.jobs.send")
    assert listed(viewer.get(JOBS, {"queue": "mail", "task": "shop.jobs.send"})) == [mail.pk]


def test_a_filter_that_is_no_choice_any_more_is_still_shown(viewer, add_jobs):
    add_jobs()
    response = viewer.get(JOBS, {"queue": "gone", "task": "no.such.task"})
    assert listed(response) == []
    assert "There are no such jobs." in text_of(response)


def test_an_empty_list_offers_nothing_to_do(operator, add_jobs):
    add_jobs()
    assert "0 of 1 selected" in text_of(operator.get(JOBS))
    assert "selected" not in text_of(operator.get(JOBS, {"status": "failed"}))


def test_an_empty_window_speaks_of_itself_only(viewer, add_jobs, small_window):
    add_jobs(1, task_path="shop.jobs.send")
    add_jobs(11)
    response = viewer.get(JOBS, {"task": "shop.jobs.send"})
    assert listed(response) == []
    assert "There are no such jobs among these." in text_of(response)
    assert "such" not in text_of(viewer.get(JOBS))


def test_by_worker(viewer, add_jobs, add_worker):
    mine, other = add_worker(), add_worker()
    [job] = add_jobs(status=Status.RUNNING, worker=mine)
    add_jobs(status=Status.RUNNING, worker=other)
    add_jobs(status=Status.SUCCESSFUL, worker=mine)
    assert listed(viewer.get(JOBS, {"worker": mine.pk})) == [job.pk]
    assert listed(viewer.get(JOBS, {"worker": "nobody"})) == []


@pytest.mark.parametrize("query", ["{id}", "#{id}", "  {id} "])
def test_a_number_finds_the_job(viewer, add_jobs, small_window, query):
    jobs = add_jobs(30)
    response = viewer.get(JOBS, {"q": query.format(id=jobs[0].pk)})
    assert listed(response) == [jobs[0].pk]
    assert response.context["cl"].window is None


def test_a_number_that_no_column_holds(viewer, add_jobs):
    add_jobs()
    assert listed(viewer.get(JOBS, {"q": "9" * 30})) == []


def test_a_word_finds_tasks(viewer, add_jobs):
    [receipt] = add_jobs(task_path="shop.jobs.send_receipt")
    add_jobs(task_path="shop.jobs.other")
    assert listed(viewer.get(JOBS, {"q": "RECEIPT"})) == [receipt.pk]


def test_what_no_index_finds_is_looked_for_among_the_newest(viewer, add_jobs, small_window):
    old = add_jobs(15, queue_name="mail")
    new = add_jobs(5, queue_name="mail")
    response = viewer.get(JOBS, {"queue": "mail"})
    assert listed(response) == [job.pk for job in reversed(old[-5:] + new)]
    assert f"looks at the newest 10 jobs only: those after #{old[-6].pk}." in text_of(response)
    before = viewer.get(JOBS + response.context["cl"].window.older)
    assert listed(before) == [job.pk for job in reversed(old[:-5])]


def test_successful_jobs_are_looked_for_among_the_newest(viewer, add_jobs, small_window):
    add_jobs(5, status=Status.SUCCESSFUL)
    add_jobs(10)
    assert listed(viewer.get(JOBS, {"status": "successful"})) == []


def test_failed_jobs_are_found_however_old(viewer, add_jobs, small_window):
    [failed] = add_jobs(status=Status.FAILED, queue_name="mail")
    add_jobs(30, status=Status.SUCCESSFUL)
    response = viewer.get(JOBS, {"status": "failed", "queue": "mail"})
    assert listed(response) == [failed.pk]
    assert response.context["cl"].window is None


def test_of_very_many_failed_jobs_the_newest_are_looked_at(viewer, add_jobs, small_window):
    jobs = add_jobs(25, status=Status.FAILED, queue_name="mail")
    add_jobs(30, status=Status.SUCCESSFUL)
    response = viewer.get(JOBS, {"status": "failed", "queue": "mail"})
    assert listed(response) == [job.pk for job in reversed(jobs[-10:])]


@pytest.mark.parametrize("status", ["ready", "scheduled"])
def test_of_a_very_long_line_the_newest_are_looked_at(viewer, add_jobs, small_window, status):
    jobs = add_jobs(25, scheduled=status == "scheduled")
    found = listed(viewer.get(JOBS, {"status": status, "task": "tests.tasks.noop"}))
    assert sorted(found) == [job.pk for job in jobs[-10:]]


def test_pages(viewer, add_jobs):
    jobs = add_jobs(120)
    assert listed(viewer.get(JOBS, {"p": 3})) == [job.pk for job in reversed(jobs[:20])]
    text = text_of(viewer.get(JOBS, {"p": 2}))
    assert "120 jobs" in text
    assert "There are more" not in text


def test_a_page_that_is_none(viewer, add_jobs):
    add_jobs(120)
    assert viewer.get(JOBS, {"p": 99}).url == f"{JOBS}?e=1"


def test_the_pages_end_at_the_cap_and_go_on_behind_it(viewer, add_jobs, monkeypatch):
    monkeypatch.setattr(pagination.CappedPaginator, "cap", 100)
    jobs = add_jobs(120)
    first, last = viewer.get(JOBS), viewer.get(JOBS, {"p": 2})
    assert "There are more" in text_of(first)
    assert "Older jobs" not in text_of(first)
    assert "Older jobs" in text_of(last)
    assert listed(viewer.get(JOBS + last.context["cl"].older)) == [job.pk for job in reversed(jobs[:20])]


def test_a_filter_that_could_be_a_scan_is_refused(viewer, add_jobs):
    add_jobs()
    for parameter in ("task_path__contains", "worker__name", "enqueued_at__lt", "id__gt"):
        assert viewer.get(JOBS, {parameter: "1"}).status_code == 400
    assert viewer.get(JOBS, {"id__lt": "no number"}).url == f"{JOBS}?e=1"


@pytest.mark.parametrize("before", ["9" * 30, "-" + "9" * 30, "0", "²"])
def test_strange_ids_to_begin_before(viewer, add_jobs, before):
    add_jobs()
    assert viewer.get(JOBS, {"id__lt": before, "queue": "default"}).status_code in (200, 302)


def test_the_message_of_the_latest_attempt(viewer, add_jobs, add_attempt):
    [failed] = add_jobs(status=Status.FAILED, attempts=2)
    add_attempt(failed, 1, "retrying", message="ValueError: the first")
    add_attempt(failed, 2, "failed", message="ValueError: the <second>")
    [again] = add_jobs(scheduled=True, attempts=1)
    add_attempt(again, 1, "retrying", message="OSError: later")
    [fine] = add_jobs(status=Status.SUCCESSFUL)
    add_attempt(fine, 1, "succeeded", message="not shown")
    text = text_of(viewer.get(JOBS))
    assert "ValueError: the <second>" in text
    assert "OSError: later" in text
    assert "the first" not in text
    assert "not shown" not in text


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([], {}),
        ({"no": "list"}, ["no dict"]),
        (None, None),
        ("text", 3),
        (["<script>alert(1)</script>"], {"</td>": "<b>"}),
        (["long " * 10_000], {}),
        ([[[[["deep"]]]]], {"": "", "ünïcode 🦄": None}),
    ],
)
def test_strange_arguments_and_a_vanished_task(viewer, add_jobs, args, kwargs):
    # JSON null, where a row has been written by hand: a column of the database refuses NULL.
    from django.db.models import JSONField, Value

    def value(it):
        return Value(it, JSONField()) if it is None else it

    add_jobs(task_path="module.that_is.gone", args=value(args), kwargs=value(kwargs))
    response = viewer.get(JOBS)
    assert "gone" in text_of(response)
    assert "<script>alert" not in response.content.decode()


def test_attempts_that_do_not_count_are_told_of(viewer, add_jobs):
    add_jobs(attempts=9, tries=2, max_attempts=5)
    response = viewer.get(JOBS)
    assert "2 of 5" in text_of(response)
    assert "Started 9 times in all" in response.content.decode()


def test_notices(viewer, add_jobs, add_worker):
    add_jobs()
    assert "No worker is running" in text_of(viewer.get(JOBS))
    add_worker()
    text = text_of(viewer.get(JOBS))
    assert "No worker" not in text
    assert "silent" not in text
    add_worker(seconds_left=-5)
    Queue.objects.create(name="mail", paused_at=timezone.now())
    text = text_of(viewer.get(JOBS))
    assert "1 worker is silent" in text
    assert "The queue mail is paused" in text


def test_somebody_without_permission_sees_nothing(client_with, add_jobs):
    add_jobs()
    client = client_with("view_worker")
    assert client.get(JOBS).status_code == 403
    assert client.get("/admin/django_jobqueue/").status_code == 200
    assert "Jobs" not in text_of(client.get("/admin/django_jobqueue/"))


def test_nothing_can_be_added_changed_or_deleted(admin_client, add_jobs):
    [job] = add_jobs()
    assert admin_client.get(f"{JOBS}add/").status_code == 403
    assert admin_client.post(f"{JOBS}{job.pk}/change/", {"queue_name": "x"}).status_code == 403
    assert admin_client.post(f"{JOBS}{job.pk}/delete/", {"post": "yes"}).status_code == 403
    assert "delete_selected" not in admin_client.get(JOBS).content.decode()
