"""A worker's own sessions: out of no pool, on the file that is there now, and not waiting for the dead."""

import os
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from django.db import OperationalError, connection, connections

from django_jobqueue import enqueue_many, task
from django_jobqueue.dialects import get_dialect
from django_jobqueue.dialects.session import Patience
from django_jobqueue.models import Job, Worker

from ..silence import silent_way
from ..tasks import add, effect
from .workers import drain, make_worker, working

SERVERS_ONLY = pytest.mark.skipif(connection.vendor == "sqlite", reason="there is no server")


@pytest.fixture
def short_patience(monkeypatch, settings):
    monkeypatch.setattr("django_jobqueue.worker.worker.LEAST_PATIENCE", 1.0)
    settings.TASKS = {
        "default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend", "QUEUES": [], "OPTIONS": {"LEASE": 3}}
    }


# -- no pool --------------------------------------------------------------------------------------


@contextmanager
def pool_of(change, **options):
    change(OPTIONS={**connection.settings_dict["OPTIONS"], "pool": options}, CONN_MAX_AGE=0)
    try:
        yield
    finally:
        connections.close_all()
        connection.close_pool()


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Django has pools for PostgreSQL only")
def test_g9_a_pool_of_one_connection_is_enough_for_a_worker_with_four_threads(elsewhere, caplog):
    with pool_of(elsewhere, min_size=1, max_size=1, timeout=10):
        for number in range(12):
            effect.enqueue("pooled", number)
        connections.close_all()  # ours is the one
        drain(threads=4)
        assert "has 1 connections, the jobs of this worker may want 12 at once" in caplog.text
        assert set(Job.objects.values_list("status", flat=True)) == {"SUCCESSFUL"}


@pytest.mark.skipif(connection.vendor != "postgresql", reason="Django has pools for PostgreSQL only")
def test_a_job_gives_its_connection_back_to_the_pool(elsewhere):
    from .test_connections import ask, in_slot, use

    with pool_of(elsewhere, min_size=1, max_size=1, timeout=10):
        first, second = in_slot(use, use)
        assert first is second and connection.pool.get_stats()["pool_available"] == 1
        changed, third = in_slot(lambda: [use(), ask("SET search_path = pg_catalog")][0], use)
        assert changed is first and third is not first


def test_a_session_leaves_the_threads_connection_as_it_was(queue_db):
    before = connections["default"]
    with get_dialect("default").session():
        assert connections["default"] is not before
        assert connections["default"].settings_dict["NAME"] == before.settings_dict["NAME"]
    assert connections["default"] is before


# -- a file that was made anew --------------------------------------------------------------------


@pytest.mark.skipif(connection.vendor != "sqlite", reason="other databases are no files")
@pytest.mark.parametrize("how", ["deleted", "another one in its place", "the link leads elsewhere"])
def test_a11_a_worker_notices_that_its_database_was_made_anew(elsewhere, short_patience, tmp_path, eventually, how):
    path, other, migrated = tmp_path / "jobs.sqlite3", tmp_path / "other.sqlite3", connection.settings_dict["NAME"]

    def make_at(place: Path):
        with closing(sqlite3.connect(migrated)) as source, closing(sqlite3.connect(place)) as target:
            source.backup(target)

    elsewhere(NAME=str(path))
    if how == "the link leads elsewhere":
        make_at(tmp_path / "first.sqlite3")
        path.symlink_to(tmp_path / "first.sqlite3")
    else:
        make_at(path)
    with working(threads=1):
        first = add.enqueue(1, 2)
        eventually(lambda: Job.objects.get(pk=first.id).status == "SUCCESSFUL")
        connections.close_all()
        if how == "deleted":
            for file in tmp_path.iterdir():
                file.unlink()
            make_at(path)
        elif how == "another one in its place":
            make_at(other)
            other.replace(path)
        else:
            make_at(other)
            path.unlink()
            path.symlink_to(other)
        second = effect.enqueue("made anew")
        eventually(lambda: Job.objects.get(pk=second.id).status == "SUCCESSFUL", within=20)
        eventually(Worker.objects.exists)  # under a new number, once it has missed its row


# -- silence --------------------------------------------------------------------------------------


GATE = threading.Event()


@task
def answer():
    return connection.vendor


@task
def wait():
    GATE.wait(30)


@SERVERS_ONLY
def test_b8_a_worker_goes_on_when_its_connections_have_died_without_a_word(
    elsewhere, short_patience, monkeypatch, eventually
):
    with silent_way(elsewhere, os.environ["DATABASE_URL"]) as way, working(threads=2):
        first = answer.enqueue()
        eventually(lambda: Job.objects.get(pk=first.id).status == "SUCCESSFUL")
        way.fall_silent()
        connections.close_all()
        fell_silent = time.monotonic()
        second = answer.enqueue()
        eventually(lambda: Job.objects.get(pk=second.id).status == "SUCCESSFUL", within=20)
        assert time.monotonic() - fell_silent < 15


@SERVERS_ONLY
def test_b8_a_worker_stops_when_the_connection_of_its_main_thread_has_died_without_a_word(
    elsewhere, short_patience, eventually
):
    """It has been idle since the start, and what was claimed ahead is to be given back."""

    def run() -> None:
        Job.objects.exists()  # as the command does, before it makes the worker
        worker.run()
        connections.close_all()

    with silent_way(elsewhere, os.environ["DATABASE_URL"]) as way:
        worker = make_worker(threads=1, shutdown_timeout=0.5)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        first = answer.enqueue()
        eventually(lambda: Job.objects.get(pk=first.id).status == "SUCCESSFUL")
        way.fall_silent()
        connections.close_all()
        GATE.clear()
        enqueue_many([wait.s() for _ in range(40)])
        eventually(lambda: Job.objects.running().count() > 1, within=30)
        worker.stop()
        thread.join(40)
        GATE.set()
        assert not thread.is_alive()
        assert not Job.objects.running().exists(), "given back, or written"


@pytest.mark.once
def test_patience_grows_where_it_was_too_short_and_for_a_while_only(monkeypatch):
    patience = Patience(10.0)
    patience.run_out()
    assert patience.seconds == 20.0
    for _ in range(10):
        patience.run_out()
    assert patience.seconds == 600.0
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 601)
    assert patience.seconds == 10.0


@pytest.mark.skipif(connection.vendor != "postgresql", reason="elsewhere the driver has a limit of its own")
def test_b8_a_statement_that_is_not_answered_ends(queue_db, monkeypatch):
    dialect = get_dialect("default")
    monkeypatch.setattr(dialect, "patience", 0.3)
    with dialect.session(), pytest.raises(OperationalError, match="has not answered"):
        dialect._rows("SELECT pg_sleep(5)")
    with dialect.session():
        assert dialect._rows("SELECT 1")[0][0] == 1


def test_settings_of_the_project_win(queue_db, monkeypatch):
    options = connection.settings_dict["OPTIONS"]
    dialect = get_dialect("default")
    with dialect.session():
        ours = connections["default"].settings_dict["OPTIONS"]
        assert ours.items() >= options.items()
    if connection.vendor == "postgresql":
        monkeypatch.setitem(options, "keepalives_idle", 99)
        with dialect.session():
            ours = connections["default"].settings_dict["OPTIONS"]
            assert ours["keepalives_idle"] == 99 and ours["keepalives"] == 1
