"""What a transaction has locked: the rows that it writes, and none that it has only read on the way to them.

A claim passes over what is locked, so a row too many is a job that starts after others of lower priority.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction
from django.db.models.functions import Now

from django_jobqueue.lifecycle import finish, promote
from django_jobqueue.models import Job

from ..lifecycle.steps import USING, end, enqueue, failed, retrying, run_of, snoozed, succeeded, take, worker
from ..tasks import noop

pytestmark = pytest.mark.skipif(connection.vendor == "sqlite", reason="there is one writer at a time")


def elsewhere(function):
    """Call it in a thread of its own, with a connection of its own."""

    def call():
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(30)


@pytest.mark.parametrize("of_all", [6, 60], ids=["few", "more"])
@pytest.mark.parametrize("written", [1, 2, 4])
def test_g1_jobs_that_are_claimed_keep_no_others_from_being_claimed(queue_db, of_all, written):
    jobs = [enqueue().pk for _ in range(of_all)]
    with transaction.atomic(USING):
        assert [job.pk for job in take(worker(), written)] == jobs[:written]
        mine = elsewhere(lambda: [job.pk for job in take(worker(), of_all)])
    assert mine == jobs[written:]


@pytest.mark.parametrize("of_all", [6, 60], ids=["few", "more"])
@pytest.mark.parametrize("written", [1, 2, 4])
@pytest.mark.parametrize("outcome", [succeeded, failed, retrying, snoozed])
def test_g1_outcomes_that_are_written_keep_no_jobs_from_being_claimed(queue_db, outcome, of_all, written):
    jobs = [enqueue().pk for _ in range(of_all)]
    taken = take(worker(), written)
    with transaction.atomic(USING):
        for job in taken:
            end(job, outcome())
        mine = elsewhere(lambda: [job.pk for job in take(worker(), of_all)])
    assert mine == jobs[written:]


@pytest.mark.parametrize("written", [2, 4])
def test_g1_outcomes_that_are_written_together_keep_no_jobs_from_being_claimed(queue_db, written):
    jobs = [enqueue().pk for _ in range(6)]
    taken = take(worker(), written)
    with transaction.atomic(USING):
        finish([run_of(job, succeeded()) for job in taken], USING)
        mine = elsewhere(lambda: [job.pk for job in take(worker(), 6)])
    assert mine == jobs[written:]


def test_g1_scheduled_jobs_that_are_put_in_line_keep_no_others_from_being_claimed(queue_db):
    jobs = [enqueue().pk for _ in range(6)]
    due = [enqueue(noop.using(run_after=timedelta(hours=1))).pk for _ in range(2)]
    Job.objects.filter(pk__in=due).update(run_after=Now() - timedelta(seconds=1))
    with transaction.atomic(USING):
        assert promote(USING) == 2
        assert elsewhere(lambda: [job.pk for job in take(worker(), 6)]) == jobs
