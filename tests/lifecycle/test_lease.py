"""Leases: a worker's row, and for how long it is believed."""

from datetime import timedelta

import pytest
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone

from django_jobqueue.lifecycle import cancel, register, renew, sign_off
from django_jobqueue.lifecycle.lease import announce_stop, cancel_requests
from django_jobqueue.models import Worker

from .steps import USING, end, enqueue, fall_silent, started, succeeded, take_one, worker

pytestmark = pytest.mark.django_db


def valid(row: Worker) -> bool:
    return Worker.objects.filter(pk=row.pk, lease_until__gt=Now()).exists()


def test_a_new_worker_is_alive_for_the_time_of_its_lease():
    row = register(USING, queues=["mail", "images*"], slots=3, lease=12.5)
    assert row.is_alive and valid(row)
    assert (row.queues, row.slots, row.lease) == (["mail", "images*"], 3, 12.5)
    assert abs(row.lease_until - row.heartbeat_at - timedelta(seconds=12.5)) < timedelta(milliseconds=50)
    assert row.name == f"{row.hostname}:{row.pid}" and row.stopped_at is None
    assert str(row) == f"{row.name} #{row.pk}"


def test_each_start_is_another_worker():
    assert worker().pk != worker().pk


def test_a_heartbeat_prolongs_the_lease():
    row = worker()
    Worker.objects.filter(pk=row.pk).update(
        lease_until=F("lease_until") - timedelta(seconds=25), heartbeat_at=F("heartbeat_at") - timedelta(seconds=25)
    )
    assert renew(row.pk, USING, lease=30)
    row.refresh_from_db()
    assert row.lease_until - row.heartbeat_at >= timedelta(seconds=29.9)
    assert valid(row) and row.silence < timedelta(seconds=10)


def test_a_late_heartbeat_is_good_as_long_as_nobody_gave_the_worker_up():
    row = worker()
    fall_silent(row)
    assert renew(row.pk, USING, lease=30) and valid(row)


@pytest.mark.parametrize("status", [Worker.Status.LOST, Worker.Status.STOPPED])
def test_g4_the_heartbeat_of_a_worker_that_was_given_up_is_refused(status):
    row = worker()
    fall_silent(row)
    Worker.objects.filter(pk=row.pk).update(status=status)
    assert not renew(row.pk, USING, lease=30)
    row.refresh_from_db()
    assert row.status == status and not valid(row)


def test_the_heartbeat_of_an_unknown_worker_is_refused():
    assert not renew(10**9, USING, lease=30)


def test_g15_a_lease_is_on_the_databases_clock(monkeypatch):
    yesterday = timezone.now() - timedelta(days=1)
    monkeypatch.setattr("django.utils.timezone.now", lambda: yesterday)
    assert valid(worker())


def test_a_worker_that_stops_is_alive_until_it_has_stopped():
    row = worker()
    announce_stop(row.pk, USING)
    row.refresh_from_db()
    assert row.status == Worker.Status.STOPPING and row.is_alive
    assert renew(row.pk, USING, lease=30)
    sign_off(row.pk, USING)
    row.refresh_from_db()
    assert row.status == Worker.Status.STOPPED and not row.is_alive and row.stopped_at is not None


def test_a_lost_worker_stays_lost():
    row = worker()
    Worker.objects.filter(pk=row.pk).update(status=Worker.Status.LOST)
    announce_stop(row.pk, USING)
    sign_off(row.pk, USING)
    row.refresh_from_db()
    assert row.status == Worker.Status.LOST


def test_g13_a_worker_learns_which_of_its_running_jobs_are_to_be_cancelled():
    one, other = started(), started()
    idle = worker()
    cancel([one.pk, other.pk, enqueue().pk])
    assert cancel_requests(one.worker_id, USING) == [one.pk]
    assert cancel_requests(other.worker_id, USING) == [other.pk]
    assert cancel_requests(idle.pk, USING) == []
    end(one, succeeded())
    assert cancel_requests(one.worker_id, USING) == []


def test_alive_and_gone_are_opposites():
    rows = {status: worker() for status in Worker.Status}
    for status, row in rows.items():
        Worker.objects.filter(pk=row.pk).update(status=status)
    assert set(Worker.objects.alive()) == {rows[Worker.Status.RUNNING], rows[Worker.Status.STOPPING]}
    assert set(Worker.objects.gone()) == {rows[Worker.Status.STOPPED], rows[Worker.Status.LOST]}


def test_a_worker_holds_what_it_claims():
    holder = worker()
    job = enqueue()
    take_one(holder)
    assert list(holder.jobs.all()) == [job]
