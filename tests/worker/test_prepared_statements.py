"""Django lets the server bind values and keep plans, as docs/howto/databases.md says: for our statements too."""

from datetime import timedelta

import pytest
from django.db import connection, connections, transaction

from django_jobqueue import chain, enqueue_many, task
from django_jobqueue.middleware.concurrency import Concurrency
from django_jobqueue.middleware.rate_limit import RateLimit
from django_jobqueue.models import Job, Limit

from ..admin.plans import prepared
from ..tasks import add, echo, noop
from .workers import drain

TIMES = 6


@task(middleware=[Concurrency, RateLimit], concurrency=2, concurrency_key="tenant-{number}", rate_limit="1000/s")
def limited(number):
    pass


@task(unique="one-{number}")
def single(number):
    pass


@pytest.fixture(autouse=True)
def prepares(queue_db, monkeypatch):
    if connection.vendor != "postgresql":
        pytest.skip("the others know no such options")
    config = connections.settings["default"]
    options = {**config.get("OPTIONS", {}), "server_side_binding": True, "prepare_threshold": 2}
    monkeypatch.setitem(config, "OPTIONS", options)
    connection.close()
    yield
    connection.close()


def test_an_insert_is_planned_once_for_all_tasks_also_in_transactions():
    for number in range(TIMES):
        with transaction.atomic():
            echo.enqueue(number, key="x")
            noop.using(queue_name="50% 'mail'").enqueue()
    assert len(prepared(f"INSERT INTO {Job._meta.db_table} ")) == 1
    assert [job.args for job in Job.objects.filter(task_path=echo.module_path).order_by("pk")] == [
        [number] for number in range(TIMES)
    ]


def test_all_ways_into_the_queue_and_out_of_it_work():
    for number in range(TIMES):
        noop.enqueue()
        limited.enqueue(number % 2)
        single.enqueue(number % 2)
        add.using(run_after=timedelta(seconds=0.1)).enqueue(number, 1)
        chain(add.s(number, 1), add.s(1)).enqueue()
        with transaction.atomic():
            enqueue_many([echo.s(number)] * 60)
    drain(5)
    assert set(Job.objects.values_list("status", flat=True)) == {"SUCCESSFUL"}
    assert Job.objects.count() == TIMES * (1 + 1 + 1 + 2 + 60) + 2
    assert Limit.objects.exists()
