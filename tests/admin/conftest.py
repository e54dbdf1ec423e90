"""Jobs, workers and people for the tests of the admin."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.utils import timezone

from django_jobqueue.models import Attempt, Job, Worker


@pytest.fixture
def add_jobs(db):
    """Jobs as they would be after some life; ``scheduled=True`` for ones that are to run in ten minutes."""

    def add(count: int = 1, *, scheduled: bool = False, **fields) -> list[Job]:
        now = timezone.now()
        values = {"task_path": "tests.tasks.noop", "enqueued_at": now - timedelta(minutes=5)}
        if scheduled:
            values |= {"place": None, "run_after": now + timedelta(minutes=10)}
        if fields.get("status") in (Job.Status.SUCCESSFUL, Job.Status.FAILED):
            values |= {"attempts": 1, "tries": 1, "started_at": now - timedelta(seconds=30), "finished_at": now}
        jobs = Job.objects.bulk_create([Job(**{**values, **fields}) for _ in range(count)])
        return list(Job.objects.filter(pk__in=[job.pk for job in jobs]).order_by("pk"))

    return add


@pytest.fixture
def add_attempt(db):
    def add(job: Job, number: int, outcome: str, **fields) -> Attempt:
        start = timezone.now() - timedelta(minutes=10 - number)
        values = {"started_at": start, "finished_at": start + timedelta(seconds=2)}
        return Attempt.objects.create(job_id=job.pk, number=number, outcome=outcome, **{**values, **fields})

    return add


@pytest.fixture
def add_worker(db):
    def add(seconds_left: float = 30, **fields) -> Worker:
        now = timezone.now()
        values = {"name": "web1:17", "hostname": "web1", "pid": 17, "slots": 4, "started_at": now - timedelta(hours=1)}
        values |= {"heartbeat_at": now - timedelta(seconds=12), "lease_until": now + timedelta(seconds=seconds_left)}
        return Worker.objects.create(**{**values, **fields})

    return add


@pytest.fixture
def client_with(db):
    """A client who is logged in as a member of the staff with these permissions of ours, and no others."""

    def log_in(*codenames: str) -> Client:
        user = User.objects.create_user(f"with {len(codenames)} {User.objects.count()}", is_staff=True)
        permissions = Permission.objects.filter(content_type__app_label="django_jobqueue", codename__in=codenames)
        assert len(permissions) == len(codenames)
        user.user_permissions.set(permissions)
        client = Client(enforce_csrf_checks=False)
        client.force_login(user)
        return client

    return log_in


@pytest.fixture
def viewer(client_with) -> Client:
    """Somebody who may look, and do nothing."""
    return client_with("view_job", "view_queue", "view_worker", "view_pause")


@pytest.fixture
def operator(client_with) -> Client:
    """Somebody who may look and do everything."""
    look = ["view_job", "view_queue", "view_worker", "view_pause"]
    return client_with(*look, "retry_job", "cancel_job", "move_job", "pause_queue", "pause_task")
