"""What a page costs: few statements, and none that reads a table."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_jobqueue.admin import changelist
from django_jobqueue.models import Attempt, Dependency, Job, Queue

from .pages import JOBS, PAUSES, QUEUES, WORKERS, job_page, run_action
from .plans import analyse, watched

Status = Job.Status

LISTS = [
    "",
    "?p=3",
    "?status=ready",
    "?status=scheduled",
    "?status=running",
    "?status=waiting",
    "?status=failed",
    "?status=cancelled",
    "?status=successful",
    "?queue=mail",
    "?task=tests.tasks.noop",
    "?task=no.such.task",
    "?queue=mail&task=tests.tasks.noop",
    "?status=failed&queue=mail",
    "?status=failed&task=no.such.task",
    "?status=ready&queue=mail",
    "?status=ready&task=no.such.task",
    "?status=scheduled&queue=mail",
    "?status=running&queue=mail",
    "?status=successful&queue=mail",
    "?q=12",
    "?q=noop",
    "?q=nothing+like+this",
    "?status=cancelled&q=noop",
    "?id__lt=5000",
    "?id__lt=5000&queue=mail",
]


@pytest.fixture
def years_later(add_jobs, add_attempt, add_worker, monkeypatch):
    """A great many finished jobs, and a few of every other kind among them, old and new."""
    monkeypatch.setattr(changelist, "WINDOW", 1000)
    now = timezone.now()

    def few():
        for status in (Status.READY, Status.WAITING, Status.FAILED, Status.CANCELLED):
            add_jobs(60, status=status, queue_name="mail")
        add_jobs(60, scheduled=True, queue_name="mail", attempts=1)

    many = [
        Job(task_path="tests.tasks.noop", enqueued_at=now, status=Status.SUCCESSFUL, finished_at=now, attempts=1)
        for _ in range(10_000)
    ]
    few()
    Job.objects.bulk_create(many)
    few()
    worker = add_worker()
    fields = {"number": 1, "started_at": now, "finished_at": now, "outcome": "succeeded", "worker": worker}
    done = Job.objects.filter(status=Status.SUCCESSFUL).values_list("pk", flat=True)
    Attempt.objects.bulk_create([Attempt(job_id=pk, **fields) for pk in done])
    waits = [Dependency(on_id=pk - 1, job_id=pk, rule="cancel", status=Status.SUCCESSFUL) for pk in done]
    Dependency.objects.bulk_create(waits)
    add_jobs(5, status=Status.RUNNING, worker=worker, queue_name="mail")
    add_worker(seconds_left=-5)
    for name in ("default", "mail", "images"):
        Queue.objects.create(name=name, paused_at=now if name == "images" else None)
    for job in Job.objects.failed():
        add_attempt(job, 1, "failed", message="ValueError: no", worker=worker, traceback="Traceback")
    analyse()
    return worker


def test_no_page_and_no_action_reads_a_table(operator, years_later):
    kinds = [Job.objects.filter(status=status).first() for status in Status]
    lists = [f"{JOBS}{query}" for query in LISTS] + [f"{JOBS}?worker={years_later.pk}", QUEUES, WORKERS, PAUSES]
    pages = [job_page(job) for job in kinds] + [f"{QUEUES}mail/change/", f"{WORKERS}{years_later.pk}/change/"]
    for url in lists + pages:
        with CaptureQueriesContext(connection) as queries, watched() as plans:
            response = operator.get(url)
        assert response.status_code == 200, url
        assert len(queries) <= 15, (url, len(queries))
        assert plans.scans == [], url

    jobs = list(Job.objects.failed()[:2])
    with watched() as plans:
        run_action(operator, f"{JOBS}?status=failed", "retry", jobs)
        run_action(operator, f"{JOBS}?status=failed", "retry", jobs, across=True)
        run_action(operator, f"{JOBS}?status=scheduled", "run_now", jobs, across=True)
        for url in (f"{JOBS}?status=ready", f"{JOBS}?queue=mail", JOBS):
            run_action(operator, url, "priority", jobs, across=True)
            run_action(operator, url, "priority", jobs, across=True, value=7)
            run_action(operator, url, "move", jobs, across=True, value="other")
            run_action(operator, url, "reschedule", jobs, across=True, value="2038-01-01T00:00")
        run_action(operator, f"{JOBS}?status=ready", "cancel", jobs, across=True)
    assert plans.scans == []
