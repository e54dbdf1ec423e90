"""DatabaseConnections: a job finds and leaves the connections as a request would."""

import asyncio

import pytest
from django.db import connection, connections, reset_queries

from django_jobqueue.conf import DEFAULT_MIDDLEWARE, middleware_paths
from django_jobqueue.middleware.database_connections import DatabaseConnections

from ..models import Effect
from ..tasks import async_add
from ..worker.runs import run_async, run_sync
from .test_chain import plain, writes


@pytest.fixture
def persistent(queue_db):
    """A connection that is to be kept for ever."""
    connection.close()
    age, connection.settings_dict["CONN_MAX_AGE"] = connection.settings_dict["CONN_MAX_AGE"], None
    connection.ensure_connection()
    yield connection
    connection.settings_dict["CONN_MAX_AGE"] = age
    connection.close()


def test_it_is_the_default(settings):
    assert DEFAULT_MIDDLEWARE == ("django_jobqueue.middleware.database_connections.DatabaseConnections",)
    if hasattr(settings, "JOBQUEUE_MIDDLEWARE"):
        del settings.JOBQUEUE_MIDDLEWARE
    assert middleware_paths() == DEFAULT_MIDDLEWARE


def test_a_connection_that_may_live_on_is_kept(persistent):
    inner = persistent.connection
    assert run_sync(writes, "one").state == "succeeded"
    assert persistent.connection is inner


def test_a_connection_past_its_age_is_closed_after_the_job(persistent):
    persistent.close_at = 0
    assert run_sync(plain).state == "succeeded"
    assert persistent.connection is None


def test_a_connection_past_its_age_is_closed_even_when_the_job_fails(persistent):
    def fail(context, call_next):
        persistent.close_at = 0
        call_next()
        raise ValueError

    assert run_sync(plain, middleware=(fail,)).state == "failed"
    assert persistent.connection is None


@pytest.mark.parametrize("state", [{"close_at": 0}, {"errors_occurred": True}], ids=["too old", "broken"])
def test_a_connection_that_cannot_go_on_is_closed_before_the_next_job(persistent, monkeypatch, state):
    """The job before may have met an error; the server has dropped the connection since."""
    monkeypatch.setattr(type(connections["default"]), "is_usable", lambda self: False)
    found = []

    def look(context, call_next):
        found.append(persistent.connection)
        return call_next()

    for name, value in state.items():
        setattr(persistent, name, value)
    assert run_sync(writes, "after", middleware=(look,)).state == "succeeded"
    assert found == [None]
    assert Effect.objects.filter(name="after").exists()


def test_each_job_has_the_health_of_the_connection_checked_once(persistent, monkeypatch):
    """If the project wants that: ``CONN_HEALTH_CHECKS``."""
    checks = []
    monkeypatch.setattr(type(connections["default"]), "is_usable", lambda self: not checks.append(self))
    persistent.health_check_enabled = True
    try:
        run_sync(plain)  # it leaves a connection behind that has to be checked
        for number in (1, 2):
            assert run_sync(writes, f"checked {number}").state == "succeeded"
            assert len(checks) == number
    finally:
        persistent.health_check_enabled = False


def test_logged_queries_do_not_pile_up(persistent, settings):
    settings.DEBUG = True
    reset_queries()
    for _ in range(3):
        run_sync(writes, "logged")
    # a transaction's BEGIN counts too, where the database says it
    assert 1 <= len(connection.queries_log) <= 4
    reset_queries()


def test_an_async_job_passes_through():
    async def call_next():
        return 42

    assert asyncio.run(DatabaseConnections().aprocess_job(None, call_next)) == 42
    assert run_async(async_add, 1, 2).result == 3
