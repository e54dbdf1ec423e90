"""System checks: each names the setting, what is wrong with it, and what to write instead."""

import sys
from types import SimpleNamespace

import django
import pytest
from django.core.checks import run_checks
from django.core.exceptions import MiddlewareNotUsed
from django.db import connection, connections

from django_jobqueue import checks
from django_jobqueue.conf import BACKEND_PATH
from django_jobqueue.middleware import Middleware

CONNECTIONS = "django_jobqueue.middleware.database_connections.DatabaseConnections"


class NotToday(Middleware):
    def __init__(self):
        raise MiddlewareNotUsed


class Unmakeable(Middleware):
    def __init__(self):
        raise LookupError("no such setting")


@pytest.fixture(autouse=True)
def no_tasks_of_other_tests(monkeypatch):
    """Theirs have options of layers that are not in the settings here."""
    monkeypatch.setattr(checks, "declared", {})


def ids(messages) -> list[str]:
    return [message.id for message in messages]


def found() -> list:
    return checks.check_installation()


@pytest.mark.django_db
def test_the_tests_own_settings_are_fine():
    assert [message for message in run_checks() if message.id.startswith("jobqueue")] == []


def test_every_message_has_a_hint(settings):
    settings.JOBQUEUE_MIDDLEWARE = ["no.such.Layer"]
    settings.TASKS = {}
    messages = found()
    assert messages and all(message.hint for message in messages)


def test_an_app_that_no_entry_uses_is_worth_a_warning(settings):
    settings.TASKS = {"default": {"BACKEND": "django.tasks.backends.dummy.DummyBackend"}}
    assert ids(found()) == ["jobqueue.W003"]


@pytest.mark.parametrize("value", ["a.B", {"a.B"}, 3, None])
def test_the_middleware_must_be_a_list(settings, value):
    settings.JOBQUEUE_MIDDLEWARE = value
    (message,) = found()
    assert message.id == "jobqueue.E006" and repr(value) in message.msg


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no.such.Layer", "does not import"),
        ("tests.test_checks.Missing", "does not import"),
        ("tests.test_checks.CONNECTIONS", "neither a class nor a callable"),
        ("tests.test_checks.Unmakeable", "LookupError: no such setting"),
    ],
)
def test_a_middleware_that_cannot_be_made_is_named(settings, path, words):
    settings.JOBQUEUE_MIDDLEWARE = [CONNECTIONS, path]
    (message,) = found()
    assert message.id == "jobqueue.E006" and path in message.msg and words in message.msg


def test_a_middleware_that_does_not_want_to_be_used_is_no_error(settings):
    settings.JOBQUEUE_MIDDLEWARE = [CONNECTIONS, "tests.test_checks.NotToday"]
    assert found() == []


def test_an_empty_list_is_fine(settings):
    """The worker itself looks after the connections."""
    settings.JOBQUEUE_MIDDLEWARE = []
    assert found() == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"HOST": "db.example.com"}, ["jobqueue.W040"]),
        ({"HOST": "localhost"}, []),
        ({"HOST": "/run/server"}, []),
        ({"HOST": "db.example.com", "OPTIONS": {"tcp_user_timeout": 60000, "read_timeout": 60}}, []),
    ],
)
def test_a_job_should_not_wait_for_ever_for_a_server_far_away(monkeypatch, values, expected):
    for name, value in values.items():
        monkeypatch.setitem(connections["default"].settings_dict, name, value)
    assert ids(checks.check_silent_connections()) == ([] if connection.vendor == "sqlite" else expected)


def test_the_backport_beside_djangos_own_does_no_harm(monkeypatch):
    monkeypatch.setattr(django, "VERSION", (6, 0, 0, "final", 0))
    monkeypatch.setitem(sys.modules, "django_tasks.backends.base", SimpleNamespace(BaseTaskBackend=OfTheBackport))
    assert found() == []


class OfTheBackport:
    def __init__(self, alias, params):
        pass


def test_an_entry_that_names_a_backend_of_the_backport_is_worth_a_warning(settings, monkeypatch):
    monkeypatch.setattr(django, "VERSION", (6, 0, 0, "final", 0))
    monkeypatch.setitem(sys.modules, "django_tasks.backends.base", SimpleNamespace(BaseTaskBackend=OfTheBackport))
    settings.TASKS = {
        "default": {"BACKEND": BACKEND_PATH},
        "mail": {"BACKEND": "tests.test_checks.OfTheBackport"},
        "gone": {"BACKEND": "no.such.Backend"},
    }
    (message,) = found()
    assert message.id == "jobqueue.W004" and "TASKS['mail']" in message.msg


def test_the_missing_backport_is_an_error(monkeypatch):
    monkeypatch.setattr(django, "VERSION", (5, 2, 0, "final", 0))
    monkeypatch.setattr("django.apps.apps.is_installed", lambda name: name != "django_tasks")
    assert "jobqueue.E005" in ids(found())


def test_local_times_and_utc_do_not_mix(settings):
    settings.USE_TZ = False
    on_postgresql = connections["default"].vendor == "postgresql"
    assert ids(found()) == ([] if on_postgresql else ["jobqueue.E010"])


# -- SQLite ---------------------------------------------------------------------------------------


@pytest.fixture
def sqlite(monkeypatch):
    """Pretend that the jobs are in a SQLite file with these options."""

    def pretend(**options):
        monkeypatch.setitem(connections["default"].settings_dict, "OPTIONS", options)
        monkeypatch.setattr(checks, "get_dialect", lambda alias: SimpleNamespace(name="sqlite"))
        return checks.check_settings_of_databases()

    return pretend


GOOD = {"transaction_mode": "IMMEDIATE", "timeout": 20, "init_command": "PRAGMA journal_mode=WAL;"}


def test_sqlite_as_the_documentation_says_is_fine(sqlite):
    assert sqlite(**GOOD) == []
    assert sqlite(**GOOD | {"transaction_mode": "exclusive", "init_command": "pragma journal_mode = wal"}) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transaction_mode": "DEFERRED"}, "IMMEDIATE"),
        ({"transaction_mode": None}, "IMMEDIATE"),
        ({"timeout": 5}, "timeout"),
        ({"init_command": ""}, "WAL"),
        ({"init_command": None}, "WAL"),
    ],
)
def test_sqlite_says_what_is_missing(sqlite, changes, words):
    (message,) = sqlite(**GOOD | changes)
    assert message.id == "jobqueue.W008" and words in message.msg and "transaction_mode" in message.hint


def test_sqlite_without_options_lacks_everything(sqlite):
    (message,) = sqlite()
    assert all(words in message.msg for words in ("IMMEDIATE", "WAL", "timeout"))


# -- servers --------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch):
    """Pretend that the jobs are in a server of this kind and version."""

    def pretend(name, *version, mariadb=False):
        fake = SimpleNamespace(get_database_version=lambda: version, mysql_is_mariadb=mariadb)
        monkeypatch.setattr(checks, "get_dialect", lambda alias: SimpleNamespace(name=name))
        monkeypatch.setattr(checks, "connections", {"default": fake})
        return list(checks._server("default"))

    return pretend


def test_servers_that_are_new_enough(server):
    assert server("postgresql", 14, 0) == server("postgresql", 18, 1) == []
    assert server("mysql", 8, 0, 11) == server("mysql", 8, 4, 0) == []
    assert server("mysql", 10, 6, 2, mariadb=True) == server("mysql", 11, 4, 1, mariadb=True) == []


def test_servers_that_are_too_old(server):
    for arguments in [("postgresql", 13, 9), ("mysql", 8, 0, 3), ("mysql", 5, 7, 40)]:
        (message,) = server(*arguments)
        assert message.id == "jobqueue.E009" and "SKIP LOCKED" in message.msg
    (message,) = server("mysql", 10, 5, 9, mariadb=True)
    assert "mariadb 10.5.9" in message.msg and "10.6" in message.msg


def test_no_server_is_asked_unless_it_is_named(monkeypatch):
    monkeypatch.setattr(checks, "connections", None)
    assert checks.check_databases(databases=None) == checks.check_databases(databases=["other"]) == []


@pytest.mark.django_db
def test_this_server_is_new_enough():
    assert checks.check_databases(databases=["default"]) == []


@pytest.mark.django_db
@pytest.mark.skipif(connections["default"].vendor != "mysql", reason="only there a session has a clock of its own")
def test_g15_a_server_whose_sessions_are_not_in_utc_is_an_error():
    with connections["default"].cursor() as cursor:
        try:
            cursor.execute("SET time_zone = '-05:00'")
            (message,) = checks.check_databases(databases=["default"])
        finally:
            cursor.execute("SET time_zone = '+00:00'")
    assert message.id == "jobqueue.E012" and "-300 minutes" in message.msg


def test_a_database_with_a_time_zone_of_its_own_is_an_error(monkeypatch):
    connection = connections["default"]
    monkeypatch.setitem(connection.settings_dict, "TIME_ZONE", "Asia/Tokyo")
    assert ids(found()) == ([] if connection.vendor == "postgresql" else ["jobqueue.E010"])


@pytest.mark.parametrize(("version", "found_ids"), [("3.2.1", []), ("2.9.10 (dt dec pq3)", ["jobqueue.E011"])])
def test_postgresql_is_used_through_psycopg_3(monkeypatch, version, found_ids):
    driver = SimpleNamespace(Database=SimpleNamespace(__version__=version))
    monkeypatch.setattr(checks, "get_dialect", lambda alias: SimpleNamespace(name="postgresql"))
    monkeypatch.setattr(checks, "connections", {"default": driver})
    assert ids(checks.check_settings_of_databases()) == found_ids


def test_options_that_are_no_dict_are_reported_by_all_the_checks(settings):
    settings.TASKS = {"default": {"BACKEND": BACKEND_PATH, "OPTIONS": ["LEASE"]}}
    assert "jobqueue.E001" in ids(run_checks())
