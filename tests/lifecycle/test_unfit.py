"""One row that cannot be judged ends alone: the keys, chains and groups of all others go on."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import DataError, connection, transaction
from django.db.models.functions import Now

from django_jobqueue import chain, enqueue_many, group
from django_jobqueue.compat import InvalidTask
from django_jobqueue.lifecycle import Progress, admit, finish, follow_up, promote, reap, report, waiting_keys
from django_jobqueue.middleware.concurrency import Concurrency
from django_jobqueue.models import Job
from tests.refusals import execute, refusing

from .. import batch_tasks as tasks
from ..tasks import echo
from .steps import (
    USING,
    attempts,
    end,
    enqueue,
    failed,
    fall_silent,
    fresh,
    run_of,
    started,
    succeeded,
    take,
    take_one,
    worker,
)
from .test_admit import of_tenant, several
from .test_follow import jobs_of, statuses

pytestmark = pytest.mark.django_db(transaction=True)

only_mysql = pytest.mark.skipif(connection.vendor != "mysql", reason="of MariaDB and MySQL")


def admit_all():
    return admit(waiting_keys(USING), USING)


def hand_on(*results):
    """End the jobs in line with these results, and tell who waits for them."""
    for result in results:
        end(take_one(worker()), succeeded(result))
    return follow_up(USING)


@pytest.mark.parametrize(
    "options",
    [{"concurrency": "many"}, {"concurrency": [1]}, {"concurrency": {"a": 1}}],
    ids=str,
)
def test_g9_a_job_whose_limit_is_none_ends_alone(options):
    jobs = several(of_tenant, 5)  # each has a key of its own
    behind = Job.objects.get(pk=of_tenant.enqueue(2).id)
    Job.objects.filter(pk=jobs[2].pk).update(options=options)
    admit_all()
    assert [fresh(job).status for job in (*jobs, behind)] == ["READY", "READY", "FAILED", "READY", "READY", "READY"]
    (attempt,) = attempts(jobs[2])
    assert attempt.outcome == "failed" and next(iter(options)) in attempt.message


@pytest.mark.parametrize("options", [[1], 5, "concurrency", ["concurrency"]], ids=str)
def test_g9_a_job_whose_options_are_no_object_stops_no_key(options):
    jobs = several(of_tenant, 3)
    Job.objects.filter(pk=jobs[1].pk).update(options=options)
    admit_all()
    assert [fresh(job).status for job in (jobs[0], jobs[2])] == ["READY", "READY"]
    assert fresh(jobs[1]).status in ("READY", "FAILED")


def test_g9_more_slots_than_an_integer_holds_are_as_good_as_any_number():
    jobs = several(of_tenant, 3)
    Job.objects.filter(pk=jobs[1].pk).update(options={"concurrency": sys.maxsize})
    admit_all()
    assert {fresh(job).status for job in jobs} == {"READY"}


def test_more_slots_than_an_integer_holds_are_refused_where_they_are_written():
    with pytest.raises(InvalidTask, match=r"concurrency.*from 1 to 2147483647"):
        of_tenant.using(concurrency=sys.maxsize)
    with pytest.raises(ValueError, match="from 1 to 2147483647"):
        Concurrency.clean_option("concurrency", 2**31)
    assert Concurrency.clean_option("concurrency", 2**31 - 1) == 2**31 - 1


def test_g9_a_key_that_the_database_refuses_to_serve_holds_up_no_other_one():
    jobs = several(of_tenant, 3)
    with refusing(f"NEW.id = {jobs[1].pk} AND NEW.status = 'READY'"):
        admit_all()
        assert [fresh(job).status for job in jobs] == ["READY", "WAITING", "READY"]


@pytest.mark.parametrize("args", [{"a": 1}, "text", 5], ids=str)
def test_g9_a_job_whose_args_are_no_list_ends_alone(args):
    chains = [chain(tasks.one.s(), tasks.add.s()).enqueue() for _ in range(4)]
    bad = jobs_of(chains[1])[1]
    Job.objects.filter(pk=bad.pk).update(args=args)
    hand_on(1, 2, 3, 4)
    assert [statuses(one)[1] for one in chains] == ["READY", "FAILED", "READY", "READY"]
    assert "must be a list" in attempts(bad)[0].message
    assert not Job.objects.to_follow_up().exclude(pk=bad.pk).exists()


def test_g9_a_job_that_the_database_does_not_let_come_in_line_ends_alone():
    one, other = (group(tasks.one.s(), tasks.one.s()).then(tasks.total.s()).enqueue() for _ in range(2))
    bad = jobs_of(one)[2]
    with refusing(f"NEW.id = {bad.pk} AND NEW.status = 'READY'"):
        hand_on(1, 2, 3, 4)
    assert statuses(one)[2] == "FAILED" and "cannot be put in line" in attempts(bad)[0].message
    assert statuses(other)[2] == "READY" and fresh(jobs_of(other)[2]).args == [[3, 4]]


def test_g9_a_job_that_cannot_even_be_ended_holds_up_no_other_one():
    one, other = (chain(tasks.one.s(), tasks.add.s()).enqueue() for _ in range(2))
    bad = jobs_of(one)[1]
    with refusing(f"NEW.id = {bad.pk}"):
        hand_on(1, 2)
        assert (statuses(one)[1], statuses(other)[1]) == ("WAITING", "READY")
        assert follow_up(USING) == set(), "and is not tried again and again"


@only_mysql
def test_g9_a_result_that_is_too_deep_to_be_handed_on():
    deep: list = []
    for _ in range(29):
        deep = [deep]
    one, other = (chain(tasks.one.s(), tasks.show.s()).enqueue() for _ in range(2))
    third = group(tasks.one.s(), tasks.one.s()).then(tasks.show.s()).enqueue()
    hand_on(deep, 2, deep, deep)
    assert statuses(other)[1] == "READY"
    assert {statuses(one)[1], statuses(third)[2]} <= {"READY", "FAILED"} and statuses(third)[2] == "FAILED"


@contextmanager
def no_hanging_up() -> Iterator[int]:
    """How many bytes a statement may have, for a block in which the server never hangs up: each time it does, everybody
    else waits until that has been tried again and again.
    """
    ((limit, before),) = execute("SELECT @@max_allowed_packet, CONNECTION_ID()")
    yield limit
    assert execute("SELECT CONNECTION_ID()") == [(before,)]


@only_mysql
@pytest.mark.parametrize("text", ["x", '"', "\N{ELEPHANT}"], ids=ascii)
def test_g9_results_that_are_too_large_together(text):
    with no_hanging_up() as limit:
        escaped = [len(json.dumps(json.dumps(text * times))) for times in (1, 2)]
        half = text * (limit * 6 // 10 // (escaped[1] - escaped[0]))
        large = group(tasks.one.s(), tasks.one.s()).then(tasks.show.s()).enqueue()
        gathered = group(tasks.one.s(), tasks.one.s()).then(group(tasks.show.s(), tasks.show.s())).enqueue()
        small = chain(tasks.one.s(), tasks.add.s()).enqueue()
        hand_on(half, half, half, half, 3)
    assert (statuses(large)[2], statuses(small)[1]) == ("FAILED", "READY")
    assert set(statuses(gathered)[2:]) <= {"FAILED", "CANCELLED"}, "the job that gathers, and those that wait for it"
    assert re.search(
        r"what it waited for, .* of [\d,]+ bytes is more than the server takes: max_allowed_packet is [\d,]+\.",
        attempts(jobs_of(large)[2])[0].message,
    )


@only_mysql
def test_g9_a_result_and_the_arguments_of_the_call_that_are_too_large_together():
    with no_hanging_up() as limit:
        half = "x" * (limit * 6 // 10)
        large, small = (chain(tasks.one.s(), tasks.add.s(text)).enqueue() for text in (half, "y"))
        hand_on(half, "x")
    assert (statuses(large)[1], statuses(small)[1]) == ("FAILED", "READY")
    assert "max_allowed_packet" in attempts(jobs_of(large)[1])[0].message


@only_mysql
def test_g9_a_result_that_is_too_large_beside_other_news():
    with no_hanging_up() as limit:
        jobs = [started() for _ in range(3)]
        jobs[1].attempt_log = "said something"
        runs = [run_of(jobs[0], succeeded(1)), run_of(jobs[1], succeeded("x" * limit)), run_of(jobs[2], failed())]
        assert set(finish(runs, USING).values()) == {"SUCCESSFUL", "FAILED"}
    assert [fresh(job).status for job in jobs] == ["SUCCESSFUL", "FAILED", "FAILED"]
    assert "max_allowed_packet" in attempts(jobs[1])[0].traceback


@only_mysql
@pytest.mark.parametrize("number", [1, 3])
def test_a_call_that_is_too_large_is_refused_when_it_is_enqueued(number):
    with no_hanging_up() as limit, transaction.atomic():
        with pytest.raises(DataError, match=r"tests\.tasks\.echo: a call of [\d,]+ bytes .* max_allowed_packet is"):
            enqueue_many([echo.s("x" * limit), *[echo.s("small")] * (number - 1)])
        enqueue()
    assert Job.objects.count() == 1


def test_g9_a_job_that_the_database_does_not_let_run_ends_alone():
    jobs = [enqueue() for _ in range(4)]
    with refusing(f"NEW.id = {jobs[1].pk} AND NEW.status = 'RUNNING'"):
        taken = take(worker(), 4)
    assert [job.pk for job in taken] == [job.pk for job in (jobs[0], *jobs[2:])]
    assert fresh(jobs[1]).status == "FAILED" and "refuses to let it run" in attempts(jobs[1])[0].message
    assert {job.status for job in map(fresh, taken)} == {"RUNNING"}


def test_g9_a_due_job_that_cannot_be_put_in_line_ends_alone():
    jobs = [enqueue() for _ in range(4)]
    Job.objects.update(place=None, run_after=Now())
    with refusing(f"NEW.id = {jobs[1].pk} AND NEW.status = 'READY'"):
        assert promote(USING) == 3
    assert [fresh(job).status for job in jobs] == ["READY", "FAILED", "READY", "READY"]
    assert Job.objects.in_line().count() == 3


def test_g9_progress_that_cannot_be_stored_keeps_no_other_from_it():
    one, other = started(), started()
    with refusing(f"NEW.id = {one.pk}"):
        assert report([Progress(job.pk, job.fence, 1.0) for job in (one, other)], USING) == 1
    assert (fresh(one).progress, fresh(other).progress["done"]) == (None, 1.0)


def test_g9_a_lost_job_that_cannot_be_given_back_keeps_no_other_lost():
    jobs = [started() for _ in range(3)]
    for job in jobs:
        fall_silent(job.worker)
    with refusing(f"NEW.id = {jobs[1].pk}"):
        assert {run.job.pk for run in reap(USING)} == {jobs[0].pk, jobs[2].pk}
    assert [fresh(job).status for job in jobs] == ["READY", "RUNNING", "READY"]
    assert len(reap(USING)) == 1
