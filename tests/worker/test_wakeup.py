"""Wake-up: what the claimer is told, for how long it may sleep, and what becomes of it when the channel is dead."""

import logging
import threading
import time
from contextlib import closing, contextmanager

import pytest
from django.db import connection, transaction

from django_jobqueue.dialects import Lane
from django_jobqueue.dialects.channel import LISTENERS, NotifyListener, connect
from django_jobqueue.lifecycle import QueueSelector, notify
from django_jobqueue.models import Job
from django_jobqueue.worker import wakeup as module
from django_jobqueue.worker.wakeup import Wakeup

from ..tasks import noop
from .workers import working

MAIL, DEFAULT = Lane("mail", 5), Lane("default", 0)


class Sleeper:
    """Stands for the claimer: it is woken, and sends the pings, over the connection of its own thread."""

    def __init__(self, queues: str = "", poll: float = 2.0) -> None:
        self.lanes: list = []
        self.times = 0
        self.wakeup = Wakeup("default", QueueSelector.parse(queues), poll=poll, woken=self.woken)
        self._woken, self._stopping = threading.Event(), threading.Event()
        self.sends_pings = True
        self._thread = threading.Thread(target=self._serve)

    def woken(self, lanes) -> None:
        self.times += 1
        self.lanes.append(set(lanes))
        self._woken.set()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._woken.wait(0.05)
            self._woken.clear()
            if self.sends_pings:
                self.wakeup.ping_if_due()
        connection.close()

    def __enter__(self):
        self.wakeup.start()
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self.wakeup.stop()
        self._stopping.set()
        self.wakeup.join(10)
        self._thread.join(10)
        assert not self.wakeup.is_alive()


@contextmanager
def listening(eventually, **options):
    with Sleeper(**options) as sleeper:
        eventually(lambda: sleeper.wakeup.listening)
        sleeper.lanes.clear()
        yield sleeper


@pytest.fixture(autouse=True)
def database(queue_db):
    yield
    notify.end_all()
    notify._notifiers.clear()


@pytest.fixture
def channel():
    if connection.vendor not in LISTENERS:
        pytest.skip("this database has no channel: workers poll")


@pytest.fixture
def notifications():
    if connection.vendor != "postgresql":
        pytest.skip("no notifications on this database")


# -- being told -----------------------------------------------------------------------------------


def test_a_commit_wakes_and_a_rollback_does_not(channel, eventually):
    with listening(eventually) as sleeper:
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            noop.enqueue()
            raise ZeroDivisionError
        time.sleep(0.3)
        assert not sleeper.lanes
        noop.enqueue()
        eventually(lambda: sleeper.lanes, within=2)


def test_the_lanes_are_named(notifications, eventually):
    with listening(eventually) as sleeper:
        noop.using(queue_name="mail", priority=5).enqueue()
        eventually(lambda: sleeper.lanes)
        assert sleeper.lanes == [{MAIL}]


def test_only_lanes_of_the_workers_own_queues_wake_it(notifications, eventually):
    with listening(eventually, queues="mail*") as sleeper:
        noop.enqueue()
        noop.using(queue_name="mail", priority=5).enqueue()
        eventually(lambda: sleeper.lanes)
        assert sleeper.lanes == [{MAIL}]


def test_a_commit_that_leaves_nothing_to_claim_wakes_nobody(eventually):
    if connection.vendor != "sqlite":
        pytest.skip("SQLite tells of every commit")
    with listening(eventually) as sleeper:
        job = noop.enqueue()
        eventually(lambda: sleeper.lanes)
        Job.objects.filter(pk=job.id).update(status=Job.Status.SUCCESSFUL)
        time.sleep(0.1)
        sleeper.lanes.clear()
        for _ in range(10):
            Job.objects.filter(pk=job.id).update(priority=1)
            time.sleep(0.01)
        time.sleep(0.1)
        assert not sleeper.lanes


def test_commits_without_end_wake_at_a_bounded_rate(eventually):
    if connection.vendor != "sqlite":
        pytest.skip("SQLite tells of every commit")
    with listening(eventually) as sleeper:
        before, end = sleeper.times, time.monotonic() + 1
        while time.monotonic() < end:
            noop.enqueue()
        assert sleeper.times - before <= 1 / 0.02 + 1


# -- how long to sleep ----------------------------------------------------------------------------


def test_without_a_channel_the_pause_grows_with_the_emptiness_up_to_the_poll_interval():
    wakeup = Wakeup("default", QueueSelector(), poll=2.0, woken=print)
    longest = {idle: max(wakeup.pause(idle) for _ in range(50)) for idle in (0, 5, 1000)}
    least = {idle: min(wakeup.pause(idle) for _ in range(50)) for idle in (0, 5, 1000)}
    assert longest[0] < 0.15 < 0.3 < least[5] and longest[5] < 0.7 and least[1000] > 1.4 and longest[1000] <= 2.5
    assert least[1000] < longest[1000], "workers do not look in step"
    assert max(Wakeup("default", QueueSelector(), poll=0.02, woken=print).pause(60) for _ in range(50)) <= 0.025


def test_with_a_channel_the_pause_is_long_whatever_the_poll_interval(channel, eventually):
    with listening(eventually, poll=0.1) as sleeper:
        assert min(sleeper.wakeup.pause(0) for _ in range(50)) > 3


def test_a_database_without_a_channel_needs_no_thread(eventually):
    with Sleeper() as sleeper:
        eventually(lambda: sleeper.wakeup.is_alive() == (connection.vendor in LISTENERS))


# -- is it true? ----------------------------------------------------------------------------------


def test_nothing_is_believed_before_the_first_ping_is_back(notifications, eventually):
    sleeper = Sleeper()
    sleeper.sends_pings = False  # before its threads begin: on a busy machine the first ping may be back at once
    with sleeper:
        eventually(lambda: sleeper.lanes)  # it asks for one
        time.sleep(0.3)
        assert not sleeper.wakeup.listening
        sleeper.sends_pings = True
        eventually(lambda: sleeper.wakeup.listening)


def test_the_channel_proves_itself_again_and_again(notifications, monkeypatch, eventually):
    monkeypatch.setattr(module, "PING_INTERVAL", 0.1)
    pings = []
    ping = module.ping
    monkeypatch.setattr(module, "ping", lambda using, token: pings.append(token) or ping(using, token))
    with listening(eventually) as sleeper:
        eventually(lambda: len(set(pings)) >= 3)
        assert sleeper.wakeup.listening


class Swallowing(NotifyListener):
    """As behind a proxy that gives the connection to somebody else after the LISTEN."""

    def __init__(self, using: str) -> None:
        super().__init__(using)
        if SWALLOW:
            self._connection.execute("UNLISTEN *")


SWALLOW: list[bool] = []


def test_a_channel_that_carries_nothing_is_not_believed(notifications, monkeypatch, eventually, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "PING_PATIENCE", 0.2)
    monkeypatch.setattr(module, "RETRY", (0.05, 0.1))
    monkeypatch.setitem(LISTENERS, "postgresql", Swallowing)
    SWALLOW.append(True)
    with Sleeper() as sleeper:
        eventually(lambda: "PgBouncer" in caplog.text)
        time.sleep(1.5)  # it has been tried again meanwhile
        assert not sleeper.wakeup.listening
        assert sleeper.wakeup.pause(1000) <= 2.5
        assert caplog.text.count("it polls") == 1
        SWALLOW.clear()
        eventually(lambda: sleeper.wakeup.listening)
        assert "The worker is told of new jobs." in caplog.text


def test_a_channel_that_falls_silent_is_found_out(notifications, monkeypatch, eventually, caplog):
    monkeypatch.setattr(module, "PING_PATIENCE", 0.2)
    monkeypatch.setattr(module, "PING_INTERVAL", 0.2)
    monkeypatch.setitem(LISTENERS, "postgresql", Swallowing)
    with listening(eventually) as sleeper:
        # The pings go to where nobody listens from now on.
        monkeypatch.setattr(module, "ping", lambda using, token: None)
        eventually(lambda: not sleeper.wakeup.listening)
        eventually(lambda: sleeper.lanes)  # the claimer does not sleep on
    assert "is not told of new jobs" in caplog.text


def test_g2_a_listener_that_is_cut_off_comes_back(notifications, monkeypatch, eventually, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(module, "RETRY", (0.05, 1.0))
    with listening(eventually) as sleeper:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query LIKE 'LISTEN%'"
            )
            assert cursor.fetchall() == [(True,)]
        eventually(lambda: "is not told of new jobs" in caplog.text)
        eventually(lambda: sleeper.wakeup.listening)
        sleeper.lanes.clear()
        noop.enqueue()
        eventually(lambda: {DEFAULT} in sleeper.lanes)


def test_an_error_of_the_claimers_own_connection_says_nothing_about_the_channel(notifications, monkeypatch, eventually):
    with listening(eventually) as sleeper:
        sleeper.sends_pings = False
        sleeper.wakeup._ping_due = True

        def broken(using, token):
            raise OSError("gone")

        with monkeypatch.context() as patch:
            patch.setattr(module, "ping", broken)
            with pytest.raises(OSError, match="gone"):
                sleeper.wakeup.ping_if_due()
        assert sleeper.wakeup._ping_due and sleeper.wakeup.listening


def test_a_worker_ends_its_wakeup_and_leaves_no_connection(channel, eventually):
    before = threading.active_count()
    with working() as worker:
        eventually(lambda: worker.wakeup.listening)
    assert not worker.wakeup.is_alive()
    if connection.vendor == "postgresql":
        with closing(connect("default")) as other:
            question = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query ILIKE 'listen%'"
            )
            eventually(lambda: other.execute(question).fetchone()[0] == 0)
    eventually(lambda: threading.active_count() <= before)
