"""The scheduler of one worker: what it does at a look, and what it leaves to others."""

from __future__ import annotations

from datetime import timedelta
from unittest import mock

import pytest
from django.db import OperationalError
from django.db.models.functions import Now
from django.utils import timezone

from django_jobqueue.lifecycle import schedule as verbs
from django_jobqueue.models import Job, Schedule
from django_jobqueue.worker import scheduler as module
from django_jobqueue.worker.scheduler import Scheduler


@pytest.fixture
def add(db):
    def add(name: str, seconds: float = -1.0, **fields) -> Schedule:
        at = timezone.now() + timedelta(seconds=seconds)
        fields = {"task_path": "tests.tasks.noop", "spec": "every hour", **fields}
        return Schedule.objects.create(name=name, next_run_at=at, look_at=at, **fields)

    return add


@pytest.fixture
def scheduler(db) -> Scheduler:
    return Scheduler("default", mock.Mock())


def names() -> list[str]:
    return [options["schedule"] for options in Job.objects.order_by("pk").values_list("options", flat=True)]


def test_it_sleeps_until_the_next_tick_but_never_for_long(scheduler, add):
    assert scheduler._look() == module.INTERVAL
    add("later", 3600)
    assert scheduler._look() == module.INTERVAL
    add("soon", 2)
    assert 1 < scheduler._look() <= 2.01  # SQLite's clock has milliseconds
    assert names() == [] and not scheduler.enqueued.called


def test_it_enqueues_what_is_due_and_looks_again(scheduler, add):
    add("one")
    add("two", -2)
    assert scheduler._look() == 0.0
    assert names() == ["two", "one"] and scheduler.enqueued.call_count == 2
    assert scheduler._look() > 1


def test_what_another_worker_is_at_is_not_asked_for_without_end(scheduler, add):
    add("one")
    with mock.patch.object(module, "fire", return_value=None):
        assert scheduler._look() == module.PATIENCE


def test_one_that_cannot_be_enqueued_hinders_no_other(scheduler, add, caplog):
    unknown = add("unknown", -9, task_path="tests.tasks.removed")
    broken = add("broken", -8, spec="nonsense")
    add("good")
    scheduler._look()
    assert names() == ["good"]
    for row in (unknown, broken):
        row.refresh_from_db()
        assert row.error and row.look_at < timezone.now(), "its tick is still due"
    assert "Schedule unknown cannot be enqueued: No task" in caplog.text
    with mock.patch.object(module, "fire") as fire:
        scheduler._look()
        assert not fire.called, "it is left to others for a while"
        scheduler._put_off.clear()
        scheduler._look()
        assert fire.call_count == 2


def test_g12_schedules_of_other_code_are_left_alone_however_many(scheduler, add, monkeypatch):
    """Of a newer or older release, or of another project in the same database whose workers are down."""
    monkeypatch.setattr(verbs, "LOOK_LIMIT", 3)
    for number in range(10):
        add(f"foreign {number}", -60, fingerprint="x")
    add("ours", -1, fingerprint="y")
    add("mine", -1)
    scheduler._names = frozenset({"ours"})
    for _ in range(5):
        scheduler._look()
    assert sorted(names()) == ["mine", "ours"]
    assert Schedule.objects.filter(fingerprint="x", look_at__lt=Now()).count() == 10


def test_a_database_that_is_away_is_no_fault_of_the_schedule(scheduler, add):
    add("one")
    with mock.patch.object(module, "fire", side_effect=OperationalError("gone")), pytest.raises(OperationalError):
        scheduler._look()
    assert scheduler._put_off == {}
