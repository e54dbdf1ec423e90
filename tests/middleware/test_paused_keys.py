"""Paused keys: jobs that come to run under them are put off until they are resumed, at no cost."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.db.models.functions import Now

from django_jobqueue import enqueue_many, task
from django_jobqueue.dialects.draw import Draw
from django_jobqueue.exceptions import Snooze
from django_jobqueue.lifecycle import admit, pause, resume
from django_jobqueue.middleware.rate_limit import Start
from django_jobqueue.models import Attempt, Job, Limit, Pause, Permit
from django_jobqueue.models.pause import HOLD

from ..lifecycle.steps import fresh, take, worker
from ..tasks import noop
from ..worker.workers import drain, make_worker, working

LAYERS = [f"django_jobqueue.middleware.{path}" for path in ("concurrency.Concurrency", "rate_limit.RateLimit")]


@pytest.fixture(autouse=True)
def used(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = LAYERS


@task(concurrency=5, concurrency_key="tenant-{tenant}", middleware=LAYERS)
def import_rows(tenant):
    return tenant


@task(rate_limit="100/s", rate_key="tenant-{tenant}", middleware=LAYERS)
def send(tenant):
    return tenant


@task(rate_limit="100/s", rate_key="tenant-{tenant}", middleware=LAYERS)
async def asend(tenant):
    return tenant


@task(concurrency=5, concurrency_key="tenant-{tenant}", atomic=True, middleware=LAYERS)
def book(tenant):
    return tenant


@task(concurrency=5, middleware=LAYERS)
def report():
    return "done"


EACH = pytest.mark.parametrize("made", [import_rows, send, asend, book], ids=lambda made: made.name)
RATED = pytest.mark.parametrize("made", [send, asend], ids=lambda made: made.name)
SLOTTED = pytest.mark.parametrize("made", [import_rows, book], ids=lambda made: made.name)


@SLOTTED
def test_under_a_paused_key_nobody_gets_a_slot(made):
    pause(key="tenant-7")
    jobs = [int(made.enqueue(tenant).id) for tenant in (7, 7, 8)]
    drain(0)
    rows = [Job.objects.get(pk=pk) for pk in jobs]
    assert [(row.status, row.attempts) for row in rows] == [("WAITING", 0), ("WAITING", 0), ("SUCCESSFUL", 1)]


@RATED
def test_under_a_paused_key_nothing_starts_and_no_attempt_is_burned(made):
    pause(key="tenant-7")
    jobs = [int(made.enqueue(tenant).id) for tenant in (7, 7, 8)]
    drain(0)
    rows = [Job.objects.get(pk=pk) for pk in jobs]
    assert [row.status for row in rows] == ["READY", "READY", "SUCCESSFUL"]
    assert [(row.tries, row.attempts) for row in rows[:2]] == [(0, 1), (0, 1)]
    assert {row.run_after for row in rows[:2]} == {Pause.objects.get().held_until}, "by which they are found again"
    attempt = Attempt.objects.get(job_id=jobs[0])
    assert attempt.outcome == "snoozed" and "'tenant-7' is resumed" in attempt.message
    assert not Permit.objects.filter(key__endswith=" tenant-7").exists(), "it takes no slot, and is no start"


@EACH
def test_resuming_brings_them_back_at_once(made):
    pause(key="tenant-7")
    job = Job.objects.get(pk=made.enqueue(7).id)
    drain(0)
    assert resume(key="tenant-7")
    drain(0)
    assert fresh(job).status == "SUCCESSFUL"


def test_the_key_of_a_task_that_names_none_is_its_path():
    pause(key=report.module_path)
    job = Job.objects.get(pk=report.enqueue().id)
    drain(0)
    assert fresh(job).status == "WAITING"


def test_one_name_is_that_of_all_limits_that_make_it():
    pause(key="tenant-7")
    enqueue_many([import_rows.s(7), send.s(7)])
    drain(0)
    assert sorted(Job.objects.values_list("status", flat=True)) == ["READY", "WAITING"]


def test_a_task_without_a_limit_knows_no_keys():
    pause(key="tests.tasks.noop")
    noop.enqueue()
    drain(0)
    assert Job.objects.get().status == "SUCCESSFUL"


def test_what_runs_under_the_key_goes_on_and_keeps_its_slot():
    import_rows.enqueue(7)
    admit(["tenant-7"], "default")
    [job] = take(worker())
    pause(key="tenant-7")
    assert fresh(job).status == "RUNNING" and Job.objects.having_slots().count() == 1


def test_there_is_no_hot_loop(eventually):
    pause(key="tenant-7")
    enqueue_many([send.s(7) for _ in range(20)])
    with working(threads=2):
        eventually(lambda: Job.objects.scheduled().count() == 20)
        time.sleep(1)
    assert Attempt.objects.count() == 20


def test_when_the_moment_has_come_and_nobody_has_resumed_they_wait_for_another():
    pause(key="tenant-7")
    old = Pause.objects.get().held_until
    send.enqueue(7)
    drain(0)
    Pause.objects.update(held_until=Now() + timedelta(seconds=30))
    Job.objects.update(run_after=Now() - timedelta(seconds=1))
    drain(0)
    moment = Pause.objects.get().held_until
    assert moment - old < timedelta(minutes=1) and moment > old - HOLD + timedelta(minutes=50)
    assert Job.objects.get().run_after == moment and Attempt.objects.count() == 2


def test_a_key_that_is_resumed_while_it_is_asked_lets_the_job_start(monkeypatch):
    """Between the look at the pause and the look for its moment."""
    look = Draw._held_until

    def resume_first(self, now):
        resume(key="tenant-7")
        return look(self, now)

    monkeypatch.setattr(Draw, "_held_until", resume_first)
    pause(key="tenant-7")
    send.enqueue(7)
    [job] = take(worker())
    Start(make_worker().execution.context(job, send, lambda: None), "1/s").draw()
    assert Limit.objects.get().started == 1


def test_snooze_says_which_key(settings):
    pause(key="tenant-7")
    send.enqueue(7)
    [job] = take(worker())
    context = make_worker().execution.context(job, send, lambda: None)
    with pytest.raises(Snooze, match="tenant-7") as raised:
        Start(context, "100/s").draw()
    assert raised.value.at == Pause.objects.get().held_until


def test_g2_what_was_put_off_after_the_key_was_resumed_is_brought_back_by_a_worker(monkeypatch, eventually):
    """The outcome of a job that came to the pause is written when the pause is over already."""
    monkeypatch.setattr("django_jobqueue.worker.maintenance.REAP_INTERVAL", 0.1)
    pause(key="tenant-7")
    moment = Pause.objects.get().held_until
    resume(key="tenant-7")
    job = Job.objects.get(pk=send.enqueue(7).id)
    Job.objects.filter(pk=job.pk).update(place=None, run_after=moment)
    with working(threads=1):
        eventually(lambda: fresh(job).status == "SUCCESSFUL")
