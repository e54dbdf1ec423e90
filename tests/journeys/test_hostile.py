"""What a task, a row or a receiver may do without stopping the worker or harming the jobs that follow."""

from __future__ import annotations

import pytest
from django.db import connection

from django_jobqueue.models import Attempt, Job
from tests.models import Effect

from . import tasks
from .conftest import outcomes, statuses, wait_for_exit

pytestmark = pytest.mark.processes

FAILS = {
    "sys_exit": "builtins.SystemExit",
    "keyboard_interrupt": "builtins.KeyboardInterrupt",
    "generator_exit": "builtins.GeneratorExit",
    "stop_iteration": "builtins.StopIteration",
    "async_sys_exit": "builtins.SystemExit",
    "async_cancel_itself": "asyncio.exceptions.CancelledError",
    "returns_object": "django_jobqueue.exceptions.InvalidResult",
    "returns_nan": "django_jobqueue.exceptions.InvalidResult",
    "returns_nul": "django_jobqueue.exceptions.InvalidResult",
    "returns_surrogate": "django_jobqueue.exceptions.InvalidResult",
    "returns_itself": "django_jobqueue.exceptions.InvalidResult",
    "nul_in_message": "builtins.ValueError",
    "huge_message": "builtins.ValueError",
    "unspeakable": "tests.journeys.tasks.Unspeakable",
    "recurse": "builtins.RecursionError",
}


def drain(start_worker, *args, within=40, **kwargs):
    process = start_worker("--drain", "0.5", *args, **kwargs)
    assert wait_for_exit(process, within) == 0, process.log.read_text()
    return process


def last_error(job):
    attempt = Attempt.objects.filter(job_id=job).order_by("number").last()
    return attempt and attempt.exception_class_path


def test_g9_whatever_a_task_raises_or_returns_is_one_failed_attempt(queue_db, start_worker):
    jobs = {}
    for name in FAILS:
        jobs[name] = int(getattr(tasks, name).enqueue().id)
        tasks.effect.enqueue(name)
    drain(start_worker, "--threads", 1)
    assert {name: last_error(job) for name, job in jobs.items()} == FAILS
    assert set(Job.objects.filter(pk__in=jobs.values()).values_list("status", "attempts")) == {("FAILED", 1)}
    assert sorted(Effect.objects.values_list("name", flat=True)) == sorted(FAILS)
    assert all(len(text) < 70_000 for text in Attempt.objects.values_list("traceback", flat=True))


def test_g9_control_exceptions_full_of_nonsense_end_their_own_job_only(queue_db, start_worker):
    names = [
        "snooze_nonsense",
        "snooze_for_ever",
        "retry_nonsense_delay",
        "retry_nonsense_time",
        "retry_nonsense_queue",
        "retry_nonsense_priority",
        "long_class_name",
        "skip_with_nul",
        "returns_deep_list",
    ]
    jobs = {}
    for name in names:
        jobs[name] = int(getattr(tasks, name).enqueue().id)
        tasks.effect.enqueue(name)
    drain(start_worker, "--threads", 1)
    assert sorted(Effect.objects.values_list("name", flat=True)) == sorted(names)
    found = {name: Job.objects.get(pk=job).status for name, job in jobs.items()}
    assert "RUNNING" not in found.values(), found
    assert found["skip_with_nul"] == "CANCELLED", found
    # MariaDB holds no JSON that is nested deeper than 32 levels
    assert found["returns_deep_list"] == ("FAILED" if connection.vendor == "mysql" else "SUCCESSFUL"), found


def test_g9_an_async_job_cannot_end_the_event_loop_of_the_others(queue_db, start_worker):
    tasks.async_orphan_exits.enqueue()
    others = [int(tasks.async_work.enqueue(0.2).id) for _ in range(3)]
    drain(start_worker)
    assert set(Job.objects.filter(pk__in=others).values_list("status", flat=True)) == {"SUCCESSFUL"}, statuses()


MALFORMED = {
    "args is text": ("args", '"abc"'),
    "args is a number": ("args", "5"),
    "args is null": ("args", "null"),
    "kwargs is a list": ("kwargs", "[]"),
    "kwargs is text": ("kwargs", '"abc"'),
    "options is a list": ("options", "[1]"),
    "a missing argument": ("args", "[]"),
    "an unexpected argument": ("kwargs", '{"other": 1}'),
}


def test_g9_malformed_rows_fail_alone(queue_db, start_worker):
    jobs = {}
    for name, (column, value) in MALFORMED.items():
        jobs[name] = int(tasks.one_argument.enqueue(1).id)
        tasks.effect.enqueue(name)
        with connection.cursor() as cursor:
            cursor.execute(f"UPDATE {Job._meta.db_table} SET {column} = %s WHERE id = %s", [value, jobs[name]])
    drain(start_worker)
    assert sorted(Effect.objects.values_list("name", flat=True)) == sorted(MALFORMED)
    found = {name: Job.objects.get(pk=job).status for name, job in jobs.items()}
    # options that are none of ours stop nothing
    assert found == dict.fromkeys(MALFORMED, "FAILED") | {"options is a list": "SUCCESSFUL"}
    assert outcomes() == {"succeeded": len(MALFORMED) + 1, "failed": len(MALFORMED) - 1}


def test_g9_a_job_that_was_started_very_often_stops_no_queue(queue_db, start_worker):
    """A job that snoozes each minute gets there in three weeks."""
    often = tasks.one_argument.enqueue(1)
    Job.objects.filter(pk=often.id).update(attempts=32_767)
    for number in range(5):
        tasks.effect.enqueue(str(number))
    drain(start_worker)
    assert Effect.objects.count() == 5
    assert statuses() == {"SUCCESSFUL": 6}


@pytest.mark.parametrize(
    "name",
    ["leaves_transaction_open", "turns_autocommit_off", "breaks_transaction", "closes_connection", "breaks_connection"],
)
def test_g9_what_a_task_does_to_its_connection_is_gone_for_the_next(queue_db, start_worker, name):
    """The next job's writes must reach the database, not an abandoned transaction."""
    getattr(tasks, name).enqueue()
    for number in range(3):
        tasks.effect.enqueue(str(number))
    drain(start_worker, "--threads", 1)
    assert set(Effect.objects.filter(name__in="012").values_list("name", flat=True)) == set("012"), statuses()
    assert Job.objects.filter(status="SUCCESSFUL").count() >= 3


@pytest.mark.parametrize(
    "way",
    [
        "raise-started raise-finished",
        "leave-transaction-started leave-transaction-finished",
        "exit-started",
        "exit-finished",
    ],
)
def test_g9_no_receiver_of_a_signal_stops_the_worker(queue_db, start_worker, way):
    for number in range(8):
        tasks.effect.enqueue(str(number))
    process = drain(start_worker, JOURNEY_RECEIVERS=way)
    good = set(Effect.objects.exclude(name="of the receiver").values_list("name", flat=True))
    assert statuses() == {"SUCCESSFUL": 8}, process.log.read_text()
    assert good == set("01234567")


def test_g9_a_result_too_big_for_the_database_stops_nothing(queue_db, start_worker):
    """MariaDB takes no packet beyond 16 MB, by default."""
    big = tasks.big_result.enqueue(20)
    for number in range(3):
        tasks.effect.enqueue(str(number))
    drain(start_worker)
    assert Effect.objects.count() == 3
    assert Job.objects.get(pk=big.id).status in ("SUCCESSFUL", "FAILED"), statuses()
    assert Job.objects.filter(status="SUCCESSFUL").count() >= 3
