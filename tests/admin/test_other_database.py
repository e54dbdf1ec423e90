"""Jobs that live in another database than the rest of the project."""

from __future__ import annotations

from copy import deepcopy

import pytest
from django.core.management import call_command
from django.db import connections
from django.utils import timezone

from django_jobqueue.admin.base import database
from django_jobqueue.compat import Task
from django_jobqueue.conf import BACKEND_PATH
from django_jobqueue.models import Job, Queue, Worker

from .pages import JOBS, QUEUES, WORKERS, job_page, listed, messages_of, run_action, text_of

pytestmark = pytest.mark.django_db(databases=["default", "jobs"], transaction=True)


@pytest.fixture(scope="module", autouse=True)
def second_database(django_db_setup, django_db_blocker, tmp_path_factory):
    """A second database with our tables."""
    config = deepcopy(connections["default"].settings_dict)
    name = tmp_path_factory.mktemp("other") / "jobs.sqlite3"
    connections.databases["jobs"] = config | {"ENGINE": "django.db.backends.sqlite3", "NAME": str(name), "OPTIONS": {}}
    with django_db_blocker.unblock():
        call_command("migrate", database="jobs", verbosity=0)
        yield
        connections["jobs"].close()
    del connections["jobs"]
    del connections.databases["jobs"]


@pytest.fixture
def jobs_database(settings):
    """TASKS names it, behind a backend that is none of ours."""
    settings.TASKS = {
        "foreign": {"BACKEND": f"{Task.__module__.split('.base')[0]}.backends.dummy.DummyBackend"},
        "default": {"BACKEND": BACKEND_PATH, "OPTIONS": {"DATABASE": "jobs"}},
    }


def test_the_first_backend_of_ours_decides(settings, jobs_database):
    assert database() == "jobs"
    settings.TASKS = {"default": {"BACKEND": BACKEND_PATH}}
    assert database() == "default"
    settings.TASKS = {}
    assert database() == "default"


def test_all_pages_read_it(admin_client, jobs_database):
    now = timezone.now()
    Queue.objects.using("jobs").create(name="mail")
    worker = Worker.objects.using("jobs").create(
        name="web1:1", hostname="web1", pid=1, started_at=now, heartbeat_at=now, lease_until=now
    )
    fields = {"task_path": "tests.tasks.noop", "queue_name": "mail", "enqueued_at": now}
    running = Job.objects.using("jobs").create(status=Job.Status.RUNNING, worker_id=worker.pk, started_at=now, **fields)
    failed = Job.objects.using("jobs").create(status=Job.Status.FAILED, attempts=1, **fields)
    assert listed(admin_client.get(JOBS)) == [failed.pk, running.pk]
    assert "web1:1" in text_of(admin_client.get(job_page(running)))
    assert f"noop #{running.pk}" in text_of(admin_client.get(WORKERS))
    assert "mail" in text_of(admin_client.get(QUEUES))
    response = run_action(admin_client, JOBS, "retry", [failed])
    assert messages_of(response) == ["1 job was put back in line."]
    assert Job.objects.using("jobs").get(pk=failed.pk).status == Job.Status.READY
    admin_client.post(f"{QUEUES}mail/pause/")
    assert Queue.objects.using("jobs").get(name="mail").is_paused
    assert not Job.objects.exists()
