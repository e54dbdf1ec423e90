"""The list of batches, and the page of one."""

from __future__ import annotations

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext

from django_jobqueue import chain, group
from django_jobqueue.models import Batch, Job

from .. import batch_tasks as tasks
from .pages import text_of

BATCHES = "/admin/django_jobqueue/batch/"
JOBS = "/admin/django_jobqueue/job/"


@pytest.fixture
def viewer(client_with):
    return client_with("view_batch", "view_job")


@pytest.fixture
def operator(client_with):
    return client_with("view_batch", "view_job", "retry_batch", "cancel_batch")


@pytest.fixture
def batch(db):
    steps = chain(tasks.one.s(), group(tasks.add.s(1), tasks.add.s(2)), tasks.total.s(), name="import of May")
    return Batch.objects.get(pk=steps.enqueue().batch_id)


def page_of(batch) -> str:
    return f"{BATCHES}{batch.pk}/change/"


def test_the_list_tells_how_far_each_is(viewer, batch):
    chain(tasks.one.s(), tasks.add.s()).enqueue()
    Job.objects.filter(batch=batch, task_path__endswith=".one").update(status="SUCCESSFUL")
    text = text_of(viewer.get(BATCHES))
    for part in ("import of May", "1 of 4", "0 of 2", "In progress"):
        assert part in text


def test_the_page_draws_what_comes_after_what(viewer, batch):
    response = viewer.get(page_of(batch))
    html, text = response.content.decode(), text_of(response)
    first, left, right, last = Job.objects.filter(batch=batch).order_by("pk")
    for job in (first, left, right, last):
        assert f'href="{JOBS}{job.pk}/change/"' in html
        assert f"{job.task_name} #{job.pk}" in text
    boxes = {box.only: box for box in response.context["graph"].boxes}
    assert [boxes[job.pk].level for job in (first, left, right, last)] == [0, 1, 1, 2]
    assert html.count('class="jq-line"') == 4
    assert f"{JOBS}?batch={batch.pk}" in html


def test_many_jobs_of_a_task_share_a_box(viewer):
    enqueued = group(*(tasks.add.s(number) for number in range(40))).then(tasks.total.s()).enqueue()
    response = viewer.get(f"{BATCHES}{enqueued.batch_id}/change/")
    assert "add × 40" in text_of(response)
    assert [len(box.jobs) for box in response.context["graph"].boxes] == [40, 1]


def test_the_jobs_of_a_batch_are_listed(viewer, batch):
    tasks.one.enqueue()
    response = viewer.get(JOBS, {"batch": batch.pk})
    assert {job.batch_id for job in response.context["cl"].result_list} == {batch.pk}
    assert len(response.context["cl"].result_list) == 4


def test_a_job_names_its_batch_and_its_neighbours(viewer, batch):
    first, left, right, last = Job.objects.filter(batch=batch).order_by("pk")
    response = viewer.get(f"{JOBS}{left.pk}/change/")
    html = response.content.decode()
    assert f'<a href="{page_of(batch)}">import of May</a>' in html
    assert f'<a href="{JOBS}{first.pk}/change/">#{first.pk}</a>' in html
    assert f'<a href="{JOBS}{last.pk}/change/">#{last.pk}</a>' in html
    assert f"#{right.pk}</a>" not in html
    assert "Waiting for 2 other jobs." in text_of(viewer.get(f"{JOBS}{last.pk}/change/"))


def test_g16_who_may_only_look_sees_no_buttons_and_can_do_nothing(viewer, batch):
    assert "jq-buttons" not in viewer.get(page_of(batch)).content.decode()
    for verb in ("cancel", "retry"):
        assert viewer.post(f"{BATCHES}{batch.pk}/{verb}/").status_code == 403
    assert set(Job.objects.values_list("status", flat=True)) == {"READY", "WAITING"}


def test_g16_a_get_changes_nothing(operator, batch):
    assert operator.get(f"{BATCHES}{batch.pk}/cancel/").status_code == 405
    assert operator.post(f"{BATCHES}4711/cancel/").status_code == 404


def test_a_batch_is_cancelled_and_retried(operator, batch):
    assert "jq-button-cancel" in operator.get(page_of(batch)).content.decode()
    response = operator.post(f"{BATCHES}{batch.pk}/cancel/", follow=True)
    assert "4 jobs were cancelled" in text_of(response)
    assert set(Job.objects.values_list("status", flat=True)) == {"CANCELLED"}
    assert "jq-button-cancel" not in response.content.decode()
    response = operator.post(f"{BATCHES}{batch.pk}/retry/", follow=True)
    assert "1 job was put back in line." in text_of(response)
    assert sorted(Job.objects.values_list("status", flat=True)) == ["READY", "WAITING", "WAITING", "WAITING"]
    assert [str(entry.action_flag) for entry in LogEntry.objects.filter(object_id=batch.pk)] == ["2", "2"]


def test_a_batch_is_found_by_its_number_and_name(viewer, batch):
    other = chain(tasks.one.s(), name="else").enqueue()
    for query in (str(batch.pk), "May"):
        found = viewer.get(BATCHES, {"q": query}).context["cl"].result_list
        assert [one.pk for one in found] == [batch.pk]
    assert other.batch_id != batch.pk


def test_the_pages_cost_the_same_for_many_batches(viewer, batch):
    def cost(url) -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert viewer.get(url).status_code == 200
        return len(queries)

    cost(BATCHES)
    few = cost(BATCHES), cost(page_of(batch))
    for _ in range(40):
        chain(tasks.one.s(), tasks.add.s()).enqueue()
    assert (cost(BATCHES), cost(page_of(batch))) == few
    assert max(few) <= 12
