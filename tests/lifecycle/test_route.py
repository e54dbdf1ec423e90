"""A router that sends reads to a replica: what is written, and what decides it, goes to the primary."""

from __future__ import annotations

from copy import deepcopy
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import connections
from django.urls import reverse
from django.utils import timezone

from django_jobqueue import chain, enqueue_many, lifecycle, task
from django_jobqueue.lifecycle.route import write_route
from django_jobqueue.models import Job, Queue, Schedule, UniqueKey

from ..admin.pages import JOBS, run_action
from ..tasks import add, fail, noop
from ..worker.workers import drain

pytestmark = pytest.mark.django_db(databases=["default", "replica"], transaction=True)


@pytest.fixture(scope="module", autouse=True)
def replica(django_db_setup, django_db_blocker, tmp_path_factory):
    """A database with our tables, which nothing is copied to, as when a replica lags far behind; writes are refused."""
    config = deepcopy(connections["default"].settings_dict)
    name = tmp_path_factory.mktemp("replica") / "replica.sqlite3"
    connections.databases["replica"] = config | {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(name),
        "OPTIONS": {},
    }
    with django_db_blocker.unblock():
        call_command("migrate", database="replica", verbosity=0)
        yield
        connections["replica"].close()
    del connections["replica"]
    del connections.databases["replica"]


class Router:
    def db_for_read(self, model, **hints):
        return "replica"

    def db_for_write(self, model, **hints):
        return "default"

    def allow_relation(self, *args, **hints):
        return True


@pytest.fixture(autouse=True)
def routed(settings):
    """Any statement on the replica but a SELECT of something that is not ours is an error."""
    settings.DATABASE_ROUTERS = ["tests.lifecycle.test_route.Router"]

    def refuse(execute, sql, params, many, context):
        assert "django_jobqueue" not in sql, f"on the replica: {sql}"
        return execute(sql, params, many, context)

    with connections["replica"].execute_wrapper(refuse):
        yield


def job(result):
    return Job.objects.using("default").get(pk=result.id)


def everything(**conditions):
    return Job.objects.filter(**conditions)  # its route is the replica


def test_a9_verbs_on_a_queryset_write_to_the_primary():
    ready, later, failed = noop.enqueue(), noop.using(run_after=timedelta(hours=1)).enqueue(), fail.enqueue()
    assert everything().db == "replica"
    assert lifecycle.move(everything(pk=ready.id), "mail") == 1 and job(ready).queue_name == "mail"
    assert lifecycle.set_priority(everything(pk=ready.id), 7) == 1 and job(ready).priority == 7
    assert lifecycle.reschedule(everything(pk=later.id), timezone.now() + timedelta(days=9)) == 1
    assert lifecycle.run_now(everything(pk=later.id)) == 1 and job(later).place is not None
    assert lifecycle.cancel(everything(pk__in=[ready.id, later.id])).cancelled == 2
    drain()
    assert job(failed).status == "FAILED"
    assert lifecycle.retry(everything(status="FAILED")) == 1 and job(failed).status == "READY"
    assert lifecycle.retry_all([ready.id]).retried == 1
    assert lifecycle.cancel(everything()).cancelled == 2


def test_a9_batches_pauses_schedules_and_prune():
    steps = chain(noop.s(), noop.si()).enqueue()
    assert lifecycle.cancel_batch(steps.batch_id).cancelled == 2
    assert lifecycle.retry_batch(steps.batch_id) == 1
    assert lifecycle.pause("mail") and Queue.objects.using("default").get(name="mail").paused_at
    assert lifecycle.resume("mail")
    assert lifecycle.pause(task=noop) and lifecycle.resume(task=noop)
    assert lifecycle.pause(key="a") and lifecycle.resume(key="a")
    row = Schedule.objects.using("default").create(name="s", task_path=noop.module_path, spec="* * * * *", args=[])
    assert lifecycle.pause_schedule(row.pk) and lifecycle.resume_schedule(row.pk)
    assert lifecycle.run_schedule_now(row.pk)
    drain()
    assert lifecycle.prune(0.0) == 3


@task(unique=True, on_conflict="replace")
def replacing(a):
    pass


def test_a9_enqueues_read_nothing_from_the_replica():
    results = [add.enqueue(1, 2), *enqueue_many([add.s(1, 2)] * 60), replacing.enqueue(1), replacing.enqueue(1)]
    assert results[-1].id == results[-2].id and results[-1].status == "READY"
    assert UniqueKey.objects.using("default").count() == 1
    made = job(results[0])
    del made.__dict__["place"]
    assert made.place is not None, "a column that is loaded later comes from where the job is"
    made.refresh_from_db()
    assert add.get_result(results[0].id).id == results[0].id
    results[0].refresh()


def test_a9_the_admin_and_the_command(admin_client, settings):
    class OnlyOurs(Router):
        def db_for_read(self, model, **hints):
            return "replica" if model._meta.app_label == "django_jobqueue" else "default"

    settings.DATABASE_ROUTERS = [OnlyOurs()]
    one, two = noop.enqueue(), noop.enqueue()
    run_action(admin_client, JOBS, "cancel", [job(one)])
    assert job(one).status == "CANCELLED"
    assert admin_client.get(reverse("admin:django_jobqueue_job_change", args=[one.id])).status_code == 200
    run_action(admin_client, JOBS, "retry", [job(one)])
    for command in (
        ["move", one.id, "--to", "mail"],
        ["priority", "--task", noop.module_path, "--to", "5"],
        ["reschedule", "--queue", "mail", "--to", "2h"],
        ["cancel", "--status", "scheduled"],
        ["retry", "--all"],
        ["pause", "mail"],
        ["resume", "mail"],
        ["cancel", two.id, "--dry-run"],
        ["status"],
    ):
        call_command("jobqueue", *command, verbosity=0)
    assert job(one).queue_name == "mail" and job(two).priority == 5
    call_command("jobqueue", "prune", "--older-than", "0s", verbosity=0)
    assert not Job.objects.using("default").filter(pk=one.id).exists()


def test_the_route(settings):
    assert write_route("x") == "x"
    assert write_route(None, Job.objects.using("replica")) == "replica", "said by the caller"
    assert write_route(None, Job.objects.all()) == write_route(None) == "default"
    ours = "django_jobqueue.backend.JobQueueBackend"
    settings.TASKS = {"a": {"BACKEND": ours, "OPTIONS": {"DATABASE": "replica"}}}
    assert write_route(None) == "replica"
    settings.TASKS = {**settings.TASKS, "b": {"BACKEND": ours}}
    assert write_route(None) == "default"
