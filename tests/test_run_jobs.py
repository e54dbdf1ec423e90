"""``testing.run_jobs``: jobs in a test's own transaction, on every database."""

import logging
import threading
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.db import IntegrityError, connection, connections, transaction
from django.test import TestCase

from django_jobqueue import Retry, chain, group, task
from django_jobqueue.compat import task_finished, task_started
from django_jobqueue.middleware import Middleware
from django_jobqueue.middleware.concurrency import Concurrency
from django_jobqueue.models import Attempt, Job, Worker
from django_jobqueue.testing import run_jobs

from . import tasks


class Seen(Middleware):
    lines: list[str] = []

    def process_job(self, context, call_next):
        self.lines.append(f"before {context.job.task_name}")
        try:
            return call_next()
        finally:
            self.lines.append(f"after {context.job.task_name}")


@task
def make_group(name):
    Group.objects.create(name=name)
    return [name, threading.current_thread() is threading.main_thread()]


@task
async def make_group_async(name):
    await Group.objects.acreate(name=name)
    return name


@task
def fail_in_sql(name):
    Group.objects.create(name=name)
    with connection.cursor() as cursor:
        cursor.execute("SELECT no_such_column FROM auth_group")


@task
def fail_outside(name):
    Group.objects.create(name=name)
    raise LookupError(name)


@task
def durable():
    with transaction.atomic(durable=True):
        Group.objects.create(name="durable")


@task
def break_off():
    with transaction.atomic():
        try:
            with transaction.atomic(savepoint=False):
                raise IntegrityError
        except IntegrityError:
            pass


@task(max_attempts=2, backoff=0.0, takes_context=True)
def twice(context):
    if context.attempt == 1:
        raise Retry
    return "at last"


@task(max_attempts=2, backoff=600.0)
def later():
    raise LookupError


@task
def for_ever():
    for_ever.enqueue()


@task(timeout=0.2)
def too_long():
    while True:
        pass


@task(middleware=(Concurrency,), concurrency=1, concurrency_key="{key}")
def one_at_a_time(key):
    return key


@task(atomic=True)
def all_or_nothing():
    Group.objects.create(name="nothing")
    raise LookupError


def result_of(result):
    result.refresh()
    return result.return_value


def test_jobs_see_what_the_test_has_not_committed_and_the_test_what_they_do(db):
    Group.objects.create(name="before")
    result = make_group.enqueue("made")
    assert run_jobs() == 1
    assert result_of(result) == ["made", True]
    assert set(Group.objects.values_list("name", flat=True)) == {"before", "made"}
    assert connection.in_atomic_block and Worker.objects.get().status == "STOPPED"
    assert run_jobs() == 0


def test_async_jobs_too(db):
    result = make_group_async.enqueue("made")
    assert run_jobs() == 1 and result_of(result) == "made"
    assert Group.objects.get().name == "made"


def test_a_failure_in_sql_leaves_the_test_its_transaction(db):
    Group.objects.create(name="before")
    results = [fail_in_sql.enqueue("lost"), fail_outside.enqueue("kept"), break_off.enqueue(), make_group.enqueue("ok")]
    assert run_jobs() == 4
    for result in results:
        result.refresh()
    assert [result.status for result in results] == ["FAILED", "FAILED", "SUCCESSFUL", "SUCCESSFUL"]
    assert {"before", "kept", "ok"} <= set(Group.objects.values_list("name", flat=True))


def test_retries_chains_groups_limits_and_what_jobs_enqueue(db):
    again, put_off = twice.enqueue(), later.enqueue()
    chain(tasks.add.s(1, 2), tasks.add.s(3), group(tasks.add.s(4), tasks.add.s(5))).enqueue()
    behind = tasks.noop.using(after=again).enqueue()
    limited = [one_at_a_time.enqueue("a") for _ in range(3)]
    scheduled = tasks.noop.using(run_after=timedelta(hours=1)).enqueue()
    run_jobs()
    assert result_of(again) == "at last" and Attempt.objects.filter(job_id=again.id).count() == 2
    assert Job.objects.get(pk=put_off.id).is_scheduled and Job.objects.get(pk=scheduled.id).is_scheduled
    assert set(Job.objects.exclude(batch=None).values_list("status", flat=True)) == {"SUCCESSFUL"}
    assert [result_of(result) for result in limited] == ["a"] * 3
    behind.refresh()
    assert behind.status == "SUCCESSFUL"


def test_middleware_and_signals(db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{__name__}.Seen"]
    Seen.lines.clear()
    heard = []

    def hear(task_result, **kwargs):
        heard.append(str(task_result.status))

    task_started.connect(hear)
    task_finished.connect(hear)
    try:
        tasks.noop.enqueue()
        run_jobs()
    finally:
        task_started.disconnect(hear)
        task_finished.disconnect(hear)
    assert Seen.lines == ["before noop", "after noop"] and heard == ["RUNNING", "SUCCESSFUL"]


def test_a_time_limit_holds(db):
    result = too_long.enqueue()
    run_jobs()
    result.refresh()
    assert result.status == "FAILED" and Attempt.objects.get().outcome == "timed_out"


def test_an_atomic_task_is_undone(db):
    result = all_or_nothing.enqueue()
    run_jobs()
    result.refresh()
    assert result.status == "FAILED" and not Group.objects.exists()


def test_jobs_without_end_are_an_error(db):
    for_ever.enqueue()
    with pytest.raises(RuntimeError, match="After 5 attempts there are still jobs"):
        run_jobs(max_jobs=5)
    assert Job.objects.filter(status="SUCCESSFUL").count() == 5
    assert Job.objects.filter(status="READY").count() == 1 and Worker.objects.get().status == "STOPPED"


def test_an_unknown_task_is_put_off(db, caplog):
    tasks.noop.enqueue()
    Job.objects.update(task_path="tests.tasks.gone")
    with caplog.at_level(logging.WARNING):
        assert run_jobs() == 0
    assert "tests.tasks.gone" in caplog.text and Job.objects.get().is_scheduled


def test_a_paused_queue_stays_paused(db):
    tasks.noop.enqueue()
    call_command("jobqueue", "pause", "default", verbosity=0)
    assert run_jobs() == 0


def test_without_a_transaction_too(queue_db):
    connection.ensure_connection()
    before = connections["default"].connection
    result = make_group.enqueue("made")
    assert run_jobs() == 1 and result_of(result) == ["made", True]
    assert connections["default"].connection is before, "the connection is the test's"


def test_a_backend_that_is_not_there_is_named(settings):
    settings.TASKS = {}
    with pytest.raises(LookupError, match="TASKS has no backend of django_jobqueue"):
        run_jobs()
    with pytest.raises(LookupError, match="named 'mail'"):
        run_jobs("mail")


class DurableTests(TestCase):
    def test_a_task_may_ask_for_a_durable_transaction(self):
        result = durable.enqueue()
        with self.captureOnCommitCallbacks(execute=True):
            run_jobs()
        assert result_status(result) == "SUCCESSFUL"


def result_status(result):
    result.refresh()
    return str(result.status)
