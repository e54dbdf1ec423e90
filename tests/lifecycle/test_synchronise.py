"""The rows of schedules follow the code, through deploys, rollbacks and restarts in the middle of them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from unittest import mock

import pytest
from django.db import connections

from django_jobqueue import cron, every
from django_jobqueue.compat import TASKS_LOGGER
from django_jobqueue.lifecycle import pause_schedule, synchronise
from django_jobqueue.lifecycle import schedule as verbs
from django_jobqueue.lifecycle.synchronise import definitions
from django_jobqueue.models import Schedule
from django_jobqueue.registry import copy_of

from .. import tasks
from .test_schedule import START, Clock

module = sys.modules[synchronise.__module__]  # the room's own name is the verb's
HOUR = timedelta(hours=1)


@pytest.fixture
def clock(db, monkeypatch) -> Clock:
    clock = Clock(START)
    for place in (module, verbs):
        monkeypatch.setattr(place, "Now", clock)
    return clock


@contextmanager
def release(*schedule, task=tasks.noop) -> Iterator[None]:
    """The code has these schedules, and no others."""
    with mock.patch.object(module, "declared", {task.func: copy_of(task, schedule=schedule)}):
        yield


def look(*schedule) -> None:
    """A worker of this release keeps the rows in step once."""
    with release(*schedule):
        synchronise("default")


def row(name: str = "tests.tasks.noop") -> Schedule:
    return Schedule.objects.get(name=name)


def test_a_schedule_gets_a_row_that_does_not_fire_for_the_past(clock):
    look(
        cron("0 * * * *", tz="Europe/Berlin", jitter=5, overlap="skip", catch_up=7, queue_name="q", priority=3),
        every(timedelta(minutes=10)),
        cron("0 0 1 1 *", name="yearly"),
    )
    first = row()
    assert (first.spec, first.time_zone, first.jitter, first.overlap) == ("0 * * * *", "Europe/Berlin", 5.0, "skip")
    assert (first.catch_up, first.queue_name, first.priority, first.task_path) == (7, "q", 3, "tests.tasks.noop")
    assert first.next_run_at == first.look_at == datetime(2026, 3, 1, 13, tzinfo=UTC)
    assert row("tests.tasks.noop 2").next_run_at == START + timedelta(minutes=10)
    assert row("yearly").next_run_at == datetime(2027, 1, 1, tzinfo=UTC)


def test_arguments_are_kept_as_the_task_will_get_them(clock):
    with release(every(HOUR, args=[(1, 2)], kwargs={"b": {3: 4}}), task=tasks.add):
        synchronise("default")
    assert (row("tests.tasks.add").args, row("tests.tasks.add").kwargs) == ([[1, 2]], {"b": {"3": 4}})


def test_what_is_unchanged_keeps_its_tick_and_what_is_changed_begins_anew(clock):
    look(every(HOUR))
    clock.now += timedelta(minutes=50)
    look(every(HOUR))
    assert row().next_run_at == START + HOUR
    look(every(HOUR, jitter=3, args=[]))
    assert row().jitter == 3 and row().next_run_at == START + HOUR, "its times are the same"
    look(every(timedelta(minutes=30)))
    assert row().next_run_at == clock.now + timedelta(minutes=30)


def test_an_admins_pause_survives_deploys(clock):
    look(every(HOUR))
    pause_schedule(row().pk)
    look(every(2 * HOUR))
    assert row().is_paused and row().next_run_at is None and row().spec == "every 2 hours"


def test_a_worker_of_the_old_release_changes_nothing_while_the_new_one_lives(clock):
    old, new = every(HOUR), every(timedelta(minutes=10))
    look(old)
    look(new)
    expected = row().next_run_at
    for _ in range(20):  # ten minutes: the new release stands by its definition, the old one starts again and again
        clock.now += timedelta(seconds=30)
        look(new)
        look(old)
        assert row().spec == "every 10 minutes" and row().next_run_at == expected


def test_a_rollback_takes_effect_when_nobody_has_the_new_release_any_more(clock):
    old, new = every(HOUR), every(timedelta(minutes=10))
    look(old)
    look(new)
    clock.now += timedelta(seconds=30)
    look(old)
    assert row().spec == "every 10 minutes"
    clock.now += module.VOUCHED
    look(old)
    assert row().spec == "every hour" and row().next_run_at == clock.now + HOUR
    look(new)  # and forward again: now this is the one that was there before
    assert row().spec == "every hour"
    clock.now += module.VOUCHED
    look(new)
    assert row().spec == "every 10 minutes"


def test_what_vanished_from_the_code_is_marked_when_nobody_has_it_any_more(clock):
    look(every(HOUR))
    clock.now += timedelta(seconds=30)
    look()
    assert row().vanished_at is None, "a worker of the release that has it may be alive"
    clock.now += module.VOUCHED
    look()
    assert row().vanished_at == clock.now and row().next_run_at is row().look_at is None
    clock.now += HOUR * 5
    look(every(HOUR))
    assert row().vanished_at is None and row().next_run_at == clock.now + HOUR


def test_schedules_of_another_project_are_no_business_of_ours(clock):
    look(every(HOUR))
    Schedule.objects.update(task_path="elsewhere.tasks.work")
    clock.now += HOUR
    look()
    assert row().vanished_at is None
    Schedule.objects.update(task_path="tests.tasks.removed")
    look()
    assert row().vanished_at is not None


def test_the_schedules_of_a_module_that_cannot_be_imported_are_not_gone(clock):
    look(every(HOUR))
    clock.now += HOUR
    Schedule.objects.update(task_path="tests.journeys.broken_module.work")
    look()
    assert row().vanished_at is None, "it raises: nobody knows what it has"
    Schedule.objects.update(task_path="tests.journeys.no_such_module.work")
    look()
    assert row().vanished_at is not None


def test_a_row_of_the_admin_with_the_same_name_is_left_alone(clock, caplog):
    Schedule.objects.create(name="tests.tasks.noop", task_path="tests.tasks.add", spec="0 * * * *")
    look(every(HOUR))
    assert row().task_path == "tests.tasks.add" and not row().is_from_code
    assert "was made in the admin" in caplog.text


def test_the_admins_own_rows_are_left_alone(clock):
    Schedule.objects.create(name="mine", task_path="tests.tasks.noop", spec="0 * * * *", look_at=START)
    clock.now += HOUR
    look()
    assert row("mine").vanished_at is None and row("mine").look_at == START


def test_an_unchanged_schedule_costs_one_statement(clock, django_assert_num_queries):
    look(every(HOUR), cron("0 3 * * *"))
    with release(every(HOUR), cron("0 3 * * *")), django_assert_num_queries(1):
        synchronise("default")


def test_schedules_of_other_databases_and_backends_are_left_alone(clock, settings):
    settings.TASKS = {"default": {"BACKEND": f"{TASKS_LOGGER}.backends.dummy.DummyBackend"}}
    with release(every(HOUR)):
        assert synchronise("default") == frozenset()
    assert not Schedule.objects.exists()


def test_names_are_the_tasks_path_and_a_number_from_the_second_on():
    task = copy_of(tasks.noop, schedule=(every(HOUR), every(HOUR), every(HOUR, name="third")))
    assert [one.name for one in definitions([task])] == ["tests.tasks.noop", "tests.tasks.noop 2", "third"]


def test_g12_many_workers_that_start_at_once_make_one_row_each(queue_db, monkeypatch):
    faults = []
    barrier = threading.Barrier(6)

    def start() -> None:
        try:
            barrier.wait(10)
            for _ in range(3):
                synchronise("default")
        except Exception as error:
            faults.append(error)
        finally:
            connections.close_all()

    with release(*(every(HOUR * number) for number in range(1, 9))):
        threads = [threading.Thread(target=start) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert faults == []
    rows = Schedule.objects.all()
    assert len(rows) == 8 and all(one.next_run_at == one.look_at and one.former == [] for one in rows)
    assert len({one.spec for one in rows}) == 8
