"""stats: numbers that are right, and that are had without reading the table."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from django_jobqueue import stats
from django_jobqueue.models import Job, Queue, Worker
from django_jobqueue.stats import Count

from .admin.plans import analyse, watched

pytestmark = pytest.mark.django_db

Status = Job.Status


def add(count: int = 1, **fields) -> list[Job]:
    now = timezone.now()
    defaults = {"task_path": "tests.tasks.noop", "enqueued_at": now, "queue_name": "default"}
    return Job.objects.bulk_create([Job(**{**defaults, **fields}) for _ in range(count)])


def add_worker(seconds_left: float = 30, **fields) -> Worker:
    now = timezone.now()
    defaults = {
        "name": "web1:1",
        "hostname": "web1",
        "pid": 1,
        "started_at": now,
        "heartbeat_at": now,
        "lease_until": now + timedelta(seconds=seconds_left),
    }
    return Worker.objects.create(**{**defaults, **fields})


def test_nothing_at_all():
    overview = stats.overview()
    assert overview.queues == ()
    assert overview.workers == stats.WorkerNumbers(alive=0, silent=0, lost=0, slots=0)
    successful = overview.totals.pop("successful")
    assert successful is None or successful.estimated
    assert set(overview.totals.values()) == {Count(0)}


def test_totals_tell_the_kinds_of_jobs_apart():
    add(2)
    add(3, place=None, run_after=timezone.now())
    for count, status in enumerate([Status.RUNNING, Status.WAITING, Status.FAILED, Status.CANCELLED], 4):
        add(count, status=status)
    add(20, status=Status.SUCCESSFUL)
    totals = stats.totals()
    del totals["successful"]
    assert totals == {
        "ready": Count(2),
        "scheduled": Count(3),
        "running": Count(4),
        "waiting": Count(5),
        "failed": Count(6),
        "cancelled": Count(7),
    }


def test_a_count_stops_at_the_cap():
    add(12, status=Status.FAILED)
    add(10, status=Status.CANCELLED)
    totals = stats.totals(cap=10)
    assert totals["failed"] == Count(10, capped=True)
    assert totals["cancelled"] == Count(10)


def test_conditions_that_no_row_can_meet():
    add(2)
    assert stats.capped_counts([Job.objects.none(), Job.objects.all()]) == [Count(0), Count(2)]
    assert stats.capped_counts([Job.objects.filter(pk__in=[])]) == [Count(0)]
    assert stats.capped_counts([]) == []


@pytest.mark.parametrize(
    ("count", "text"),
    [(Count(7), "7"), (Count(10_000, capped=True), "10,000+"), (Count(1_234_567, estimated=True), "~1,234,567")],
)
def test_a_count_as_text(count, text):
    assert str(count) == text


def test_successful_jobs_are_estimated_or_not_counted():
    add(300, status=Status.SUCCESSFUL)
    add(20, status=Status.FAILED)
    if connection.vendor != "postgresql":
        assert stats.totals()["successful"] is None
        return
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE django_jobqueue_job")
    count = stats.totals()["successful"]
    assert count.estimated
    assert count.number == pytest.approx(300, abs=10)


def test_queues_that_workers_met_and_queues_with_jobs_in_line():
    Queue.objects.create(name="empty")
    Queue.objects.create(name="mail", paused_at=timezone.now())
    add(2, queue_name="mail")
    add(3, queue_name="mail", place=None, run_after=timezone.now())
    add(4, queue_name="mail", status=Status.RUNNING)
    add(5, queue_name="nobody serves it")
    empty, mail, lonely = stats.queues()
    assert (empty.name, empty.ready, empty.oldest_seconds, empty.paused) == ("empty", Count(0), None, False)
    assert (mail.name, mail.ready, mail.scheduled, mail.running) == ("mail", Count(2), Count(3), Count(4))
    assert mail.paused
    assert (lonely.name, lonely.ready, lonely.paused) == ("nobody serves it", Count(5), False)


def test_the_oldest_job_in_line_is_found_in_any_priority():
    now = timezone.now()
    for priority, minutes in [(0, 5), (10, 1), (-10, 30), (100, 0)]:
        add(priority=priority, enqueued_at=now - timedelta(minutes=minutes))
    add(status=Status.RUNNING, enqueued_at=now - timedelta(hours=5))
    [queue] = stats.queues()
    assert queue.oldest_seconds == pytest.approx(1800, abs=30)


def test_a_job_waits_in_line_only_since_it_was_due():
    now = timezone.now()
    add(enqueued_at=now - timedelta(days=2), run_after=now - timedelta(minutes=2))
    [queue] = stats.queues()
    assert queue.oldest_seconds == pytest.approx(120, abs=30)


def test_many_queues_do_not_take_many_statements():
    def statements():
        with CaptureQueriesContext(connection) as queries:
            assert len(stats.queues()) == Queue.objects.count()
        return len(queries)

    for number in range(3):
        Queue.objects.create(name=f"queue {number}")
        add(queue_name=f"queue {number}")
    few = statements()
    for number in range(3, 60):
        Queue.objects.create(name=f"queue {number}")
        add(queue_name=f"queue {number}", priority=number % 3)
    assert statements() == few <= 7


def test_more_queues_than_one_statement_can_count(monkeypatch):
    monkeypatch.setattr(stats, "COUNTS_PER_STATEMENT", 2)
    for number in range(5):
        add(number + 1, queue_name=f"queue {number}")
    assert [queue.ready.number for queue in stats.queues()] == [1, 2, 3, 4, 5]


def test_workers():
    add_worker(slots=4)
    add_worker(slots=2, status=Worker.Status.STOPPING)
    add_worker(seconds_left=-5, slots=8)
    add_worker(status=Worker.Status.STOPPED, stopped_at=timezone.now())
    add_worker(status=Worker.Status.LOST, stopped_at=timezone.now())
    add_worker(status=Worker.Status.LOST, stopped_at=timezone.now() - timedelta(days=3))
    assert stats.workers() == stats.WorkerNumbers(alive=2, silent=1, lost=1, slots=6)


def test_the_keys_for_whose_slots_jobs_wait():
    add(3, status=Status.WAITING, concurrency_key="b")
    add(12, status=Status.WAITING, concurrency_key="a")
    add(2, concurrency_key="a")
    add(1, status=Status.RUNNING, concurrency_key="a")
    add(1, concurrency_key="free")
    add(1, status=Status.WAITING, waiting_for=1, concurrency_key="later")
    add(1, place=None, run_after=timezone.now(), concurrency_key="a")
    assert stats.keys(cap=10) == (
        stats.KeyNumbers("a", waiting=Count(10, capped=True), slots=Count(3)),
        stats.KeyNumbers("b", waiting=Count(3), slots=Count(0)),
    )
    assert stats.keys(limit=1) == stats.overview().keys[:1]


def test_no_number_reads_the_table():
    """Among many finished jobs every statement finds its few rows through an index of theirs."""
    add(10_000, status=Status.SUCCESSFUL)
    for status in (Status.READY, Status.RUNNING, Status.WAITING, Status.FAILED, Status.CANCELLED):
        add(50, status=status)
    add(50, place=None, run_after=timezone.now())
    for number in range(20):
        add(50, status=Status.WAITING, concurrency_key=f"tenant-{number}")
    analyse()
    with watched() as plans:
        stats.overview()
    assert plans.reading >= 5
    assert plans.scans == []
