"""What the database refuses is recorded as less, and holds up nothing else; a database that is away is waited for.

Which of the two it is, the database is asked: the class of an exception tells it with no driver.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from django.db import connection

from django_jobqueue.compat import task_finished
from django_jobqueue.dialects.asking import problem_of
from django_jobqueue.lifecycle import finish
from django_jobqueue.models import Attempt, Job
from django_jobqueue.worker import completer
from django_jobqueue.worker.completer import TRIES
from django_jobqueue.worker.worker import Worker
from tests.refusals import charset_of_attempts, cut_connections, execute, refusing, setting_of_database

from ..lifecycle.steps import USING, attempts, enqueue, failed, fresh, retrying, run_of, started, succeeded
from ..tasks import add, fail, noop
from .test_completer import Desk
from .workers import drain, working

pytestmark = pytest.mark.django_db(transaction=True)

only_postgresql = pytest.mark.skipif(connection.vendor != "postgresql", reason="PostgreSQL has such settings")
only_mysql = pytest.mark.skipif(connection.vendor != "mysql", reason="of MariaDB and MySQL")


@pytest.fixture
def desk():
    return Desk()


def test_g9_a_trigger_that_refuses_one_outcome_does_not_hold_up_the_others(desk):
    jobs = [started() for _ in range(5)]
    with refusing(f"NEW.id = {jobs[2].pk} AND NEW.status = 'SUCCESSFUL'"):
        desk.write(*(run_of(job, succeeded(place)) for place, job in enumerate(jobs)))
    assert [fresh(job).status for job in jobs] == ["SUCCESSFUL"] * 2 + ["FAILED"] + ["SUCCESSFUL"] * 2
    (attempt,) = attempts(jobs[2])
    assert attempt.outcome == "failed" and "cannot be stored" in attempt.message
    assert desk.faults == []


def test_g9_what_refuses_attempts_does_not_keep_a_job_running(desk):
    bad, good = started(), started()
    with refusing(f"NEW.job_id = {bad.pk}", event="INSERT", model=Attempt):
        desk.write(run_of(bad, succeeded()), run_of(good, succeeded()))
    assert (fresh(bad).status, fresh(good).status) == ("FAILED", "SUCCESSFUL")
    assert fresh(bad).fence is None and fresh(bad).finished_at is not None


def test_g9_a_row_that_cannot_be_changed_at_all_keeps_nobody_waiting(desk):
    bad, good = started(), started()
    began = time.monotonic()
    with refusing(f"NEW.id = {bad.pk}"):
        desk.write(run_of(bad, succeeded()), run_of(good, succeeded()))
    assert time.monotonic() - began < 15
    assert (fresh(bad).status, fresh(good).status) == ("RUNNING", "SUCCESSFUL"), "the lease will tell"
    assert good.pk in dict(desk.written) and bad.pk not in dict(desk.written)


def test_g9_a_row_that_cannot_be_changed_is_tried_again(desk, eventually):
    bad = started()
    with refusing(f"NEW.id = {bad.pk}"):
        desk.completer.put(run_of(bad, succeeded(7)))
        desk.completer.start()
        eventually(lambda: desk.completer.holds(bad), within=20)
    eventually(lambda: desk.written, within=20)
    assert desk.written == [(bad.pk, "SUCCESSFUL")] and fresh(bad).result == 7, "with what it came to"
    assert not desk.completer.holds(bad) and desk.completer.unwritten == 0
    desk.completer.close()
    desk.completer.join(10)


def test_g6_a_worker_that_has_such_a_row_stops_without_it(queue_db, eventually):
    bad = enqueue()
    with refusing(f"NEW.id = {bad.pk} AND NEW.status <> 'RUNNING'"):
        with working() as worker:
            eventually(lambda: worker.completer.holds(bad_fence(bad)), within=20)
            good = enqueue()
            eventually(lambda: fresh(good).status == "SUCCESSFUL", within=20)
            began = time.monotonic()
        assert time.monotonic() - began < 9
    assert fresh(bad).status == "RUNNING"


class Told:
    """Who is told that jobs have ended: their ids and statuses."""

    def __init__(self) -> None:
        self.ends: list[tuple[str, str]] = []

    def __call__(self, *, task_result: Any, **more: Any) -> None:
        self.ends.append((task_result.id, task_result.status))


@pytest.fixture
def told():
    receiver = Told()
    task_finished.connect(receiver)
    yield receiver
    task_finished.disconnect(receiver)


def refused_for_good(worker: Worker) -> bool:
    """Has the outcome been tried after the worker has stopped waiting for it?"""
    return any(tries > TRIES + 2 for tries in list(worker.completer._refused.tries.values()))


NEITHER_WELL_NOR_BADLY = "NEW.id = {} AND NEW.status IN ('SUCCESSFUL', 'FAILED')"


def test_g9_a_worker_outlives_an_outcome_that_is_refused_again_and_again(queue_db, monkeypatch, eventually, told):
    """Beyond the number of tries for which it is waited; what it came to is written once the database takes it."""
    monkeypatch.setattr(completer, "LONGEST_PAUSE", 0.05)
    bad = enqueue(add, 700, 77)
    with working() as worker:
        with refusing(NEITHER_WELL_NOR_BADLY.format(bad.pk)):
            eventually(lambda: refused_for_good(worker), within=60)
            good = enqueue(add, 1, 2)
            eventually(lambda: fresh(good).status == "SUCCESSFUL", within=60)
            eventually(lambda: worker.desk.idle, within=60)
            assert fresh(bad).status == "RUNNING"
        eventually(lambda: len(told.ends) == 2, within=60)
        assert not worker.completer.holds(bad)
    assert worker.exit_code == 0 and worker.completer.done == 2
    written = fresh(bad)
    # the trigger may go between the refusal of the result and that of the failure which is written for it
    assert (written.status, written.result) in (("SUCCESSFUL", 777), ("FAILED", None))
    assert sorted(told.ends) == sorted([(str(bad.pk), written.status), (str(good.pk), "SUCCESSFUL")]), "once each"


@pytest.mark.parametrize("task", [pytest.param(fail, id="failed"), pytest.param(noop, id="succeeded")])
def test_g6_a_drain_ends_beside_an_outcome_that_is_refused_again_and_again(queue_db, monkeypatch, task):
    monkeypatch.setattr(completer, "LONGEST_PAUSE", 0.05)
    bad, others = enqueue(task), [enqueue() for _ in range(3)]
    with refusing(NEITHER_WELL_NOR_BADLY.format(bad.pk)):
        assert drain(0.2).exit_code == 0
    assert [fresh(job).status for job in others] == ["SUCCESSFUL"] * 3
    assert fresh(bad).status in ("RUNNING", "READY"), "it is run again, by the next worker"


def bad_fence(job: Job) -> Job:
    return fresh(job)


@only_postgresql
def test_g9_a_result_that_takes_longer_than_a_statement_may(desk):
    bad, good = started(), started()
    condition = f"NEW.id = {bad.pk} AND NEW.result IS NOT NULL"
    with refusing(condition, act="PERFORM pg_sleep(5);"), setting_of_database("statement_timeout", "700ms"):
        desk.write(run_of(bad, succeeded("large")), run_of(good, succeeded("small")))
    assert (fresh(bad).status, fresh(good).status) == ("FAILED", "SUCCESSFUL")
    assert "OperationalError" in attempts(bad)[0].message


@only_postgresql
def test_g9_a_trigger_that_says_that_the_disk_is_full_refuses_only_its_row(desk):
    bad, good = started(), started()
    act = "RAISE 'the quota is used up' USING ERRCODE = '53100';"
    with refusing(f"NEW.id = {bad.pk} AND NEW.result IS NOT NULL", act=act):
        desk.write(run_of(bad, succeeded("large")), run_of(good, succeeded("small")))
    assert (fresh(bad).status, fresh(good).status) == ("FAILED", "SUCCESSFUL")


@only_postgresql
def test_g2_outcomes_wait_for_a_database_that_is_read_only(desk, eventually):
    """As after a failover, when the connection leads to a server that is a copy."""
    job = started()
    with setting_of_database("default_transaction_read_only", "on"):
        desk.completer.put(run_of(job, succeeded(1)))
        desk.completer.start()
        eventually(lambda: desk.completer.recovery.away, within=20)
        assert "read-only" in str(problem_of(USING))
        assert desk.completer.unwritten == 1 and fresh(job).status == "RUNNING"
    cut_connections()
    eventually(lambda: desk.written, within=20)
    assert desk.written == [(job.pk, "SUCCESSFUL")] and fresh(job).result == 1
    desk.completer.close()
    desk.completer.join(10)


@only_postgresql
def test_g9_a_row_that_somebody_holds_locked_is_written_later(desk, eventually):
    bad, good = started(), started()
    released = threading.Event()

    def hold():
        with connection.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(f"SELECT 1 FROM {Job._meta.db_table} WHERE id = %s FOR UPDATE", [bad.pk])
            locked.set()
            released.wait(30)
            cursor.execute("ROLLBACK")
        connection.close()

    locked, holder = threading.Event(), threading.Thread(target=hold)
    holder.start()
    assert locked.wait(10)
    with setting_of_database("lock_timeout", "200ms"):
        desk.completer.put(run_of(bad, succeeded("kept")))
        desk.completer.put(run_of(good, succeeded()))
        desk.completer.start()
        eventually(lambda: fresh(good).status == "SUCCESSFUL", within=20)
        assert fresh(bad).status == "RUNNING"
        released.set()
        holder.join(10)
        eventually(lambda: fresh(bad).status == "SUCCESSFUL", within=20)
    assert fresh(bad).result == "kept"
    desk.completer.close()
    desk.completer.join(10)


@only_mysql
def test_g9_text_that_a_column_cannot_hold_is_written_in_ascii(desk):
    bad, again, good = started(), started(noop.using(max_attempts=3)), started()
    with charset_of_attempts("utf8mb3"):
        desk.write(
            run_of(bad, failed(ValueError("an 🐘"))),
            run_of(again, retrying(60, ValueError("a 🐭"))),
            run_of(good, succeeded("🐘")),
        )
        assert [fresh(job).status for job in (bad, again, good)] == ["FAILED", "READY", "SUCCESSFUL"]
        assert attempts(bad)[0].message == "ValueError: an \\U0001f418"
        assert attempts(again)[0].outcome == "retrying", "it runs again, as it should"


@only_mysql
def test_g9_a_result_that_is_larger_than_a_packet(desk):
    ((limit,),) = execute("SELECT @@max_allowed_packet")
    bad, good = started(), started()
    bad.attempt_log = "said something"
    desk.write(run_of(bad, succeeded("x" * (limit + 10))), run_of(good, succeeded("small")))
    assert (fresh(bad).status, fresh(good).status) == ("FAILED", "SUCCESSFUL")


def test_the_database_that_is_there_says_so(queue_db):
    assert problem_of(USING) is None
    assert not Attempt.objects.exists()


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no connection to cut")
def test_g2_a_connection_that_is_cut_is_no_refusal(queue_db):
    jobs = [started() for _ in range(3)]

    def write():
        try:
            written.update(finish([run_of(job, succeeded(1)) for job in jobs[1:]], USING))
        finally:
            connection.close()

    def write_after_a_cut():
        finish([run_of(jobs[0], succeeded())], USING)
        ready.set()
        assert is_cut.wait(20)
        write()

    written: dict[int, str] = {}
    ready, is_cut = threading.Event(), threading.Event()
    thread = threading.Thread(target=write_after_a_cut)
    thread.start()
    assert ready.wait(20)
    assert cut_connections()
    is_cut.set()
    thread.join(30)
    assert written == {job.pk: "SUCCESSFUL" for job in jobs[1:]}
