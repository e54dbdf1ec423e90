"""Notify: who wakes the workers, when, and at what cost to the one who enqueues."""

import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction
from django.test import TestCase

from django_jobqueue import enqueue_many
from django_jobqueue.dialects import Lane, channel
from django_jobqueue.dialects.channel import (
    LISTENERS,
    SENDERS,
    Listener,
    News,
    NotifySender,
    connect,
    decode,
    encode,
)
from django_jobqueue.dialects.postgresql import enqueue
from django_jobqueue.lifecycle import cancel, notify, pause, resume, retry, run_now
from django_jobqueue.models import Job

from ..tasks import noop
from . import steps

MAIL, DEFAULT = Lane("mail", 5), Lane("default", 0)


@pytest.fixture
def ear(queue_db) -> Iterator[Listener]:
    """A connection that listens, as a worker does."""
    if connection.vendor != "postgresql":
        pytest.skip("no notifications on this database")
    listener = LISTENERS[connection.vendor]("default")
    yield listener
    listener.close()


@pytest.fixture(autouse=True)
def fresh_notifier():
    """Each test with a notifier of its own, and none left over."""
    notify.end_all()
    notify._notifiers.clear()
    yield
    notify.end_all()
    notify._notifiers.clear()


def hear(ear: Listener, within: float = 5.0) -> list[News]:
    """The next news, and what comes with them."""
    return ear.wait(within)


def commit(task=noop) -> None:
    """Enqueue in a transaction, so that the workers are told of it after the commit."""
    with transaction.atomic():
        task.enqueue()


def silence(ear: Listener) -> bool:
    return not ear.wait(0.3)


def notifier_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "jobqueue-notifier"]


# -- the payload ----------------------------------------------------------------------------------


def test_what_is_sent_is_what_is_heard():
    lanes = {MAIL, DEFAULT, Lane('kö"ln, 東', -100)}
    assert decode(encode(lanes)) == News(frozenset(lanes))
    assert encode(lanes).isascii(), "the server's encoding may be any"


def test_more_lanes_than_a_payload_holds_mean_all_of_them():
    lanes = {Lane("x" * 100, number) for number in range(200)}
    assert decode(encode(lanes)) == News()


@pytest.mark.parametrize("payload", ["", "x", "[1]", "[[1]]", '{"a": 1}', "null", '[["a", "b"]]', "[" * 5000])
def test_a_payload_from_a_stranger_means_look(payload):
    assert decode(payload) == News()


# -- when -----------------------------------------------------------------------------------------


def test_an_enqueue_names_its_lane(ear):
    noop.using(queue_name="mail", priority=5).enqueue()
    assert hear(ear) == [News(frozenset({MAIL}))]


def test_many_at_once_are_one_notification(ear):
    enqueue_many([noop.using(queue_name="mail", priority=5).s(), *[noop.s()] * 100])
    assert hear(ear) == [News(frozenset({MAIL, DEFAULT}))]
    assert silence(ear)


def test_g1_a_transaction_that_rolls_back_wakes_nobody(ear):
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        noop.enqueue()
        raise ZeroDivisionError
    assert silence(ear)


def test_g1_a_savepoint_that_rolls_back_wakes_nobody_for_its_jobs(ear):
    with transaction.atomic():
        noop.enqueue()
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            noop.using(queue_name="mail").enqueue()
            raise ZeroDivisionError
        noop.using(priority=1).enqueue()
    assert hear(ear) == [News(frozenset({DEFAULT, Lane("default", 1)}))]


def test_nobody_is_woken_before_the_commit(ear):
    with transaction.atomic():
        noop.enqueue()
        assert silence(ear)
    assert hear(ear)


def test_a_transaction_keeps_one_note_for_all_that_it_enqueues(queue_db):
    before = len(connection.run_on_commit)
    with transaction.atomic():
        for number in range(50):
            noop.using(priority=number % 3).enqueue()
        assert len(connection.run_on_commit) - before <= 1
        with transaction.atomic():
            noop.enqueue()
        assert len(connection.run_on_commit) - before <= 2


def test_a_loop_of_enqueues_is_a_few_notifications(ear):
    numbers, done, heard = 1000, threading.Event(), []

    def listen():
        while not done.is_set():
            heard.extend(ear.wait(0.2))

    thread = threading.Thread(target=listen)
    thread.start()
    for _ in range(numbers):
        noop.enqueue()
    notify.end_all()
    done.set()
    thread.join()
    assert 1 <= len(heard) < numbers / 3


def test_jobs_for_later_wake_nobody(ear):
    noop.using(run_after=timedelta(minutes=1)).enqueue()
    assert silence(ear)


def test_a_job_that_is_due_soon_makes_the_workers_look(ear):
    noop.using(run_after=timedelta(seconds=2)).enqueue()
    assert hear(ear) == [News()]


def test_what_people_do_wakes_the_workers(ear):
    job = steps.enqueue(noop.using(run_after=timedelta(hours=1)))
    run_now([job.pk])
    assert hear(ear) == [News()]
    cancel([job.pk])
    retry([job.pk])
    assert hear(ear) == [News()]
    pause("default")
    assert silence(ear)
    resume("default")
    assert hear(ear) == [News()]


def test_a_retry_without_delay_wakes_the_workers_and_a_success_does_not(ear):
    again, well = steps.started(), steps.started()
    while hear(ear, 0.3):
        pass
    steps.end(well, steps.succeeded())
    assert silence(ear)
    steps.end(again, steps.retrying())
    assert hear(ear) == [News()]


def test_enqueuing_works_where_the_caller_commits_by_hand(queue_db):
    """There is no hook for such a commit; the workers see the job when they look."""
    transaction.set_autocommit(False)
    try:
        noop.enqueue()
        connection.commit()
    finally:
        transaction.set_autocommit(True)
    assert Job.objects.count() == 1


# -- by the INSERT itself ---------------------------------------------------------------------------


def test_a_single_enqueue_needs_no_thread_and_no_connection_to_be_told_of(ear):
    for number in range(3):
        noop.using(queue_name="mail", priority=number).enqueue()
        assert hear(ear) == [News(frozenset({Lane("mail", number)}))]
        time.sleep(notify.PAUSE)
    assert not notifier_threads()


def test_those_that_follow_close_upon_it_are_told_of_together(ear, monkeypatch):
    monkeypatch.setattr(notify, "PAUSE", 0.3)
    noop.enqueue()
    assert hear(ear) == [News(frozenset({DEFAULT}))]
    noop.using(queue_name="mail", priority=5).enqueue()
    assert hear(ear) == [News(frozenset({MAIL}))], "by the thread, which opens its connection for that"
    noop.enqueue()
    noop.using(queue_name="mail", priority=5).enqueue()
    assert hear(ear) == [News(frozenset({DEFAULT, MAIL}))]


def test_no_commit_waits_for_another_that_tells(ear):
    """Only one at a time may do so, and who is not the first does not wait to be the next."""
    with closing(connect("default")) as other:  # in a transaction, until it is closed
        other.execute(f"SELECT pg_advisory_xact_lock({enqueue.TELLING})")
        noop.enqueue()
        assert Job.objects.count() == 1
        assert hear(ear) == [News(frozenset({DEFAULT}))]
    assert notifier_threads(), "it was told of after the commit"


def test_g1_where_notifications_are_refused_the_job_is_saved_all_the_same(ear, monkeypatch):
    """Their queue may be full: a listener that hangs in a transaction holds all of them back."""
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE OR REPLACE FUNCTION pg_temp.refuse(text, text) RETURNS void LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE 'too many notifications in the NOTIFY queue' USING ERRCODE = '54000'; END $$"
        )
    telling = enqueue.INSERT_TELLING.replace("pg_notify(", "pg_temp.refuse(")
    assert telling != enqueue.INSERT_TELLING
    monkeypatch.setattr(enqueue, "INSERT_TELLING", telling)
    for _ in range(10):
        noop.enqueue()
        time.sleep(notify.PAUSE)
    assert Job.objects.count() == 10
    assert hear(ear)[0] == News(frozenset({DEFAULT})), "by the notifier"


@pytest.mark.parametrize(
    "when",
    [
        pytest.param(lambda first: {"run_after": timedelta(hours=1)}, id="scheduled"),
        pytest.param(lambda first: {"after": [first.pk]}, id="waiting"),
    ],
)
def test_g1_what_is_not_in_line_is_not_told_of(ear, when):
    first = steps.enqueue(noop)
    assert hear(ear)
    time.sleep(notify.PAUSE)
    noop.using(**when(first)).enqueue()
    assert silence(ear)


# -- what it costs --------------------------------------------------------------------------------


def test_a_database_without_a_channel_has_no_thread(queue_db):
    commit()
    assert bool(notifier_threads()) == (connection.vendor in SENDERS)


class Refused(NotifySender):
    def __init__(self, using: str) -> None:
        TRIES.append(using)
        raise OSError("too many connections")


TRIES: list[str] = []


def test_a_refused_connection_costs_the_caller_nothing_and_is_said_once(ear, monkeypatch, caplog, eventually):
    TRIES.clear()
    monkeypatch.setitem(SENDERS, "postgresql", Refused)
    monkeypatch.setattr(notify, "RETRY", (0.05, 0.05))
    for _ in range(200):
        commit()
    eventually(lambda: len(TRIES) >= 3)
    assert Job.objects.count() == 200
    assert [record.levelno for record in caplog.records].count(logging.WARNING) == 1
    assert "too many connections" in caplog.text
    monkeypatch.undo()
    assert hear(ear) == [News(frozenset({DEFAULT}))], "what could not be said is said as soon as it can be"


def test_an_enqueue_tells_of_itself_while_the_notifier_has_no_connection(ear, monkeypatch, eventually):
    monkeypatch.setitem(SENDERS, "postgresql", Refused)
    commit()
    eventually(lambda: notify._notifiers["default"]._failing)
    noop.using(queue_name="mail", priority=5).enqueue()
    assert hear(ear) == [News(frozenset({MAIL}))]


def test_the_caller_sends_it_himself_where_the_connection_is_there(ear, eventually):
    """In a process that goes on working the thread may wait for the interpreter for long."""
    commit()
    assert hear(ear)
    notifier = notify._notifiers["default"]
    eventually(lambda: notifier._at_rest)
    with notifier._line:  # so that the thread can do nothing
        commit(noop.using(queue_name="mail", priority=5))
        assert hear(ear) == [News(frozenset({MAIL}))]
        commit()
        assert silence(ear), "one at a time"
    assert hear(ear) == [News(frozenset({DEFAULT}))]


def test_what_the_database_refuses_is_sent_again(ear, monkeypatch, caplog, eventually):
    commit()
    assert hear(ear)
    eventually(lambda: notify._notifiers["default"]._at_rest)
    monkeypatch.setattr(channel, "CHANNEL", "no-name")
    commit(noop.using(queue_name="mail", priority=5))
    eventually(lambda: "syntax error" in caplog.text)
    monkeypatch.undo()
    assert hear(ear) == [News(frozenset({MAIL}))]
    assert len(caplog.records) == 1


def test_many_callers_at_once_lose_nothing(ear, eventually):
    heard: set[Lane] = set()
    lanes = [Lane(f"queue-{number}", 0) for number in range(160)]

    def enqueue(some):
        for lane in some:
            commit(noop.using(queue_name=lane.queue_name))
            time.sleep(random.uniform(0, 0.01))  # so that some find the connection free, and some do not
        connection.close()

    threads = [threading.Thread(target=enqueue, args=[lanes[start::8]]) for start in range(8)]
    for thread in threads:
        thread.start()

    def has_heard_all() -> bool:
        heard.update(*(news.lanes for news in ear.wait(0.2)))
        return heard == set(lanes)

    eventually(has_heard_all, within=20)
    for thread in threads:
        thread.join()
    assert heard == set(lanes)


def test_a_connection_that_died_is_replaced_at_once(ear, caplog):
    commit()
    assert hear(ear)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND query LIKE %s AND pid <> pg_backend_pid()",
            ["NOTIFY %"],
        )
        assert cursor.fetchall() == [(True,)]
    commit()
    assert hear(ear)
    assert not caplog.records


def test_thread_and_connection_end_when_there_is_nothing_to_say(ear, monkeypatch, eventually):
    monkeypatch.setattr(notify, "IDLE", 0.1)
    commit()
    assert hear(ear)
    eventually(lambda: not notifier_threads())
    eventually(lambda: not senders_at_the_server())
    commit()
    assert hear(ear), "and they start again"


def senders_at_the_server() -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE %s "
            "AND pid <> pg_backend_pid()",
            ["NOTIFY %"],
        )
        return cursor.fetchone()[0]


def test_who_creates_or_drops_a_database_meets_no_connection_of_ours(ear, eventually):
    """As Django's test runner does at its end."""
    commit()
    assert hear(ear)
    assert senders_at_the_server() == 1
    with connection.creation._nodb_cursor():
        eventually(lambda: not senders_at_the_server(), within=2)


def test_a_process_without_a_thread_to_spare_notifies_when_it_has_one_again(ear, monkeypatch):
    with monkeypatch.context() as patch:

        def refuse(self):
            raise RuntimeError("can't start new thread")

        patch.setattr(threading.Thread, "start", refuse)
        commit()
    assert silence(ear)
    commit(noop.using(queue_name="mail", priority=5))
    assert hear(ear) == [News(frozenset({DEFAULT, MAIL}))]


def test_it_takes_no_connection_out_of_a_pool(ear, monkeypatch):
    options = connections["default"].settings_dict["OPTIONS"]
    with monkeypatch.context() as patch:
        patch.setitem(connections["default"].settings_dict, "OPTIONS", {**options, "pool": True})
        raw = connect("default")  # where psycopg_pool is not installed, this says so if it asks for it
    assert getattr(raw, "_pool", None) is None
    raw.close()


# -- processes ------------------------------------------------------------------------------------


@pytest.mark.processes
def test_a_short_command_wakes_the_workers_before_it_ends(ear, spawn):
    process = spawn("shell", "-v", 0, "-c", "from tests.tasks import noop; noop.enqueue()")
    assert process.wait(20) == 0
    assert hear(ear) == [News(frozenset({DEFAULT}))]


FORK = """
import os, time
from django.db import connections
from tests.lifecycle.test_notify import commit
from tests.tasks import noop
commit(noop.using(queue_name="parent"))
time.sleep(0.3)
connections.close_all()
if (child := os.fork()) == 0:
    commit(noop.using(queue_name="child"))
    time.sleep(0.3)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
commit(noop.using(queue_name="parent", priority=1))
"""


@pytest.mark.processes
def test_a_fork_has_a_connection_of_its_own(ear, spawn):
    process = spawn("shell", "-v", 0, "-c", FORK)
    assert process.wait(20) == 0, process.log.read_text()
    assert hear(ear) == [News(frozenset({Lane(*lane)})) for lane in [("parent", 0), ("child", 0), ("parent", 1)]]


# -- in the tests of a project --------------------------------------------------------------------


class InATestCase(TestCase):
    """A real one, for that is what projects write."""

    def test_enqueuing_starts_nothing(self):
        noop.enqueue()
        assert not notifier_threads()

    def test_captured_callbacks_can_be_executed(self):
        with self.captureOnCommitCallbacks(execute=True) as callbacks:
            noop.enqueue()
            noop.enqueue()
        assert len(callbacks) == (connection.vendor in SENDERS)


A_PROJECTS_TEST = """
from django.test import TestCase
from tests.tasks import noop


class T(TestCase):
    def test_it(self):
        with self.captureOnCommitCallbacks(execute=True):
            noop.enqueue()
"""


@pytest.mark.processes
def test_a_test_run_of_a_project_can_drop_its_database(ear, tmp_path, worker_env):
    """Django's own runner: the database is dropped while the notifier holds a connection to it."""
    (tmp_path / "test_project.py").write_text(A_PROJECTS_TEST)
    name = f"{connection.settings_dict['NAME']}_p"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "django", "test", "--noinput", str(tmp_path)],
        env={**worker_env, "JOBQUEUE_TEST_DATABASE": name, "PYTHONPATH": worker_env["PYTHONPATH"]},
        capture_output=True,
        text=True,
        timeout=50,
        cwd=os.getcwd(),
    )
    assert result.returncode == 0, result.stderr
    assert "OK" in result.stderr and "accessed by other users" not in result.stderr
