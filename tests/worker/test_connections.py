"""Connections: a thread's outlive the job, are verified before use, and keep nothing of one job for the next."""

import threading
import time
from contextlib import suppress

import pytest
from django.db import connection, connections, transaction
from django.db.backends.signals import connection_created

from django_jobqueue.worker.connections import Keeper
from django_jobqueue.worker.session_state import changes_session

from ..models import Effect


def in_slot(*jobs, max_age=60.0, before=lambda: None):
    """What these come to that run one after another as jobs of one thread; ``before`` is called before each."""
    results = []

    def live():
        keeper = Keeper(max_age)
        try:
            for number, job in enumerate(jobs):
                before()
                keeper.before()
                try:
                    results.append(job())
                except Exception as error:
                    results.append(error)
                keeper.after(f"job {number}")
        finally:
            keeper.close()

    thread = threading.Thread(target=live)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    return results


def use():
    """The connection of the driver that a job finds."""
    Effect.objects.count()
    return connection.connection


def ask(sql, params=()):
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return cursor.fetchone()[0] if cursor.description else None


def session():
    """What tells one session of the server from another."""
    question = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}.get(connection.vendor)
    return ask(question) if question else id(use())


# -- how long they live ---------------------------------------------------------------------------


@pytest.mark.parametrize("age", [0, 600])
def test_a_connection_outlives_the_job_whatever_the_web_server_has(queue_db, age):
    def use_with_age():
        connection.settings_dict["CONN_MAX_AGE"] = age
        return use()

    first, second = in_slot(use_with_age, use)
    assert first is second


def test_a_connection_past_its_age_is_closed_after_the_job(queue_db):
    first, second = in_slot(use, use, max_age=1e-9)
    assert first is not second


@pytest.mark.parametrize(("age", "is_kept"), [(0, False), (60, True), (None, True)])
def test_with_age_0_connections_live_as_databases_says(queue_db, age, is_kept):
    def use_with_age():
        connection.settings_dict["CONN_MAX_AGE"] = age
        return use()

    first, second = in_slot(use_with_age, use, max_age=0)
    assert (first is second) == is_kept


def test_none_keeps_them_for_ever(queue_db):
    def look():
        return use(), connection.close_at

    (first, until), (second, _) = in_slot(look, look, max_age=None)
    assert first is second and until is None


def test_an_idle_thread_closes_what_is_past_its_age(queue_db):
    states = []

    def live():
        keeper = Keeper(0.05)
        use()
        keeper.after("a job")
        time.sleep(max(0.0, keeper.expires_in()) + 0.01)
        keeper.close_expired()
        states.append((connection.connection, keeper.expires_in()))

    thread = threading.Thread(target=live)
    thread.start()
    thread.join()
    assert states == [(None, None)]


def test_logged_queries_do_not_pile_up(queue_db, settings):
    settings.DEBUG = True

    def count():
        use()
        return len(connection.queries_log)

    first, second, third = in_slot(count, count, count)
    assert second == third <= first


# -- before use -----------------------------------------------------------------------------------


def end_session(number):
    """Somebody ends it: an administrator, an idle time-out of the server."""
    statement = {"postgresql": "SELECT pg_terminate_backend(%s)", "mysql": "KILL %s"}[connection.vendor]
    in_slot(lambda: ask(statement, [number]))


@pytest.mark.parametrize("idle", [0.2, 1.1], ids=["a moment", "long"])
def test_g9_a_connection_that_the_server_has_closed_costs_no_job(queue_db, idle):
    if connection.vendor == "sqlite":
        pytest.skip("there is no server that closes")
    found = []

    def use_then_lose():
        found.append(session())

    def end():
        if found:
            end_session(found[0])
            time.sleep(idle)

    _, second = in_slot(use_then_lose, session, before=end)
    assert isinstance(second, int) and second != found[0]


def test_a_busy_thread_asks_the_server_nothing(queue_db):
    def job():
        use()

    asked = []

    def spy():
        connection.is_usable = lambda: not asked.append(1)
        use()

    in_slot(spy, *[job] * 20)
    assert asked == []


def test_a_connection_in_which_the_last_job_met_an_error_is_verified(queue_db):
    asked = []

    def fail():
        use()
        connection.is_usable = lambda: asked.append(1)  # false
        with suppress(Exception):
            ask("SELECT nothing FROM nowhere")
        return connection.connection

    first, second = in_slot(fail, use)
    assert asked == [1] and first is not second


def test_a11_a_sqlite_file_that_was_made_anew_is_opened_anew(queue_db, tmp_path, monkeypatch):
    if connection.vendor != "sqlite":
        pytest.skip("other databases are no files")
    path = tmp_path / "a.sqlite3"
    monkeypatch.setitem(connections.settings["default"], "NAME", str(path))

    def make():
        ask("CREATE TABLE made (number integer)")

    def count():
        return ask("SELECT count(*) FROM sqlite_master")

    results = in_slot(make, path.unlink, count)
    assert results == [None, None, 0]


# -- nothing of one job is there for the next -----------------------------------------------------

CHANGES = {
    "postgresql": [
        "SET search_path = pg_catalog",
        "/* a comment */ set role pg_monitor",
        "SET TIME ZONE 'Asia/Tokyo'",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SELECT 1; SET statement_timeout = 12345",
        "SELECT set_config('app.tenant', 'a', false)",
        "SELECT pg_advisory_lock(4711)",
        "WITH a AS (SELECT pg_try_advisory_lock_shared(4711)) SELECT * FROM a",
        "CREATE TEMPORARY TABLE left_behind (number integer)",
        "SELECT 1 AS number INTO TEMP left_behind",
        "LISTEN something",
        "PREPARE left_behind AS SELECT 1",
        "DO $$ BEGIN PERFORM set_config('app.tenant', 'a', false); END $$",
        "SET LOCAL app.tenant = 'a'; RESET ALL; SET app.tenant = 'a'",
        "BEGIN",
    ],
    "mysql": [
        "SET SESSION sql_mode = ''",
        "SET @left_behind = 1",
        "SELECT @left_behind := 1",
        "SELECT 1 INTO @left_behind",
        "SELECT GET_LOCK('left behind', 1)",
        "CREATE TEMPORARY TABLE left_behind (number integer)",
        "SET time_zone = '+09:00'",
        "START TRANSACTION",
        "USE information_schema",
    ],
    "sqlite": [
        "PRAGMA foreign_keys = OFF",
        "PRAGMA cache_size(10)",
        "ATTACH DATABASE ':memory:' AS other",
        "CREATE TEMP TABLE left_behind (number integer)",
        "CREATE TABLE temp.left_behind (number integer)",
        "BEGIN",
    ],
}


@pytest.mark.parametrize("change", [change for changes in CHANGES.values() for change in changes])
def test_g9_a_session_that_a_job_has_changed_is_not_the_next_ones(queue_db, change):
    if change not in CHANGES[connection.vendor]:
        pytest.skip("another database's")

    def change_it():
        raw = use()
        ask(change)
        return raw

    first, second = in_slot(change_it, use)
    assert not isinstance(first, Exception), first
    assert first is not second


def test_g9_what_a_function_changes_is_told_by_the_server(queue_db):
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL tells")
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE FUNCTION to_tokyo() RETURNS void LANGUAGE sql "
            "AS $$ SELECT set_config('TimeZone', 'Asia/Tokyo', false) $$"
        )
    try:
        zones = in_slot(lambda: [ask("SELECT to_tokyo()"), ask("SHOW time zone")][1], lambda: ask("SHOW time zone"))
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP FUNCTION to_tokyo()")
    assert zones == ["Asia/Tokyo", "UTC"]


def test_what_jobs_usually_do_changes_no_session(queue_db):
    def work():
        raw = use()
        with transaction.atomic():
            made = Effect.objects.create(name="set")
            Effect.objects.filter(pk=made.pk).update(value=1)
            with transaction.atomic():
                Effect.objects.select_for_update().get(pk=made.pk).delete()
        return raw

    if connection.vendor == "postgresql":

        def local():
            with transaction.atomic():
                ask("SET LOCAL app.tenant = 'a'")
                ask("SELECT pg_advisory_xact_lock(1), set_config('app.tenant', %s, true)", ["b"])
            return connection.connection

    else:
        local = work
    first, *others = in_slot(work, local, work, use)
    assert all(other is first for other in others)


def test_what_receivers_set_as_it_connects_is_the_projects_own(queue_db):
    """They run after ours: their SET is no job's, and the next job needs it."""
    statement = {"postgresql": "SET application_name = 'mine'", "mysql": "SET @mine = 1"}.get(
        connection.vendor, "PRAGMA cache_size(10)"
    )

    def set_up(sender, connection, **kwargs):
        with connection.cursor() as cursor:
            cursor.execute(statement)

    connection_created.connect(set_up)
    try:
        first, second, third = in_slot(use, use, use)
    finally:
        connection_created.disconnect(set_up)
    assert first is second is third


def leave_transaction():
    transaction.atomic().__enter__()
    Effect.objects.create(name="left behind")
    return connection.connection


def leave_autocommit_off():
    use()
    transaction.set_autocommit(False)
    Effect.objects.create(name="left behind")
    return connection.connection


@pytest.mark.parametrize("leave", [leave_transaction, leave_autocommit_off])
def test_g9_an_open_transaction_is_rolled_back(queue_db, leave):
    first, second = in_slot(leave, use)
    assert not isinstance(first, Exception) and first is not second
    assert not Effect.objects.exists()


def put_attribute():
    connection.tenant = "a"
    return use()


def put_attribute_after_use():
    raw = use()
    connection.tenant = "a"
    return raw


def leave_wrapper():
    raw = use()
    connection.execute_wrappers.append(lambda execute, *args: execute(*args))
    return raw


def leave_debug_cursor():
    raw = use()
    connection.force_debug_cursor = True
    return raw


@pytest.mark.parametrize("mark", [put_attribute, put_attribute_after_use, leave_wrapper, leave_debug_cursor])
def test_g9_what_a_job_puts_on_djangos_connection_goes_with_it(queue_db, mark):
    def look():
        return hasattr(connection, "tenant") or connection.force_debug_cursor or len(connection.execute_wrappers) > 1

    first, left, *_ = in_slot(mark, look)
    assert not isinstance(first, Exception), first
    assert not left


def test_g9_a_backend_with_a_tenant_starts_each_job_without(queue_db, monkeypatch):
    """As django-tenants has it: the connection knows a schema before it connects at all."""
    kind = type(connections.create_connection("default"))

    class Tenants(kind):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.schema_name = "public"

        def set_schema(self, name):
            self.schema_name = name

    Tenants.__module__ = "somebody.elses"
    monkeypatch.setattr(connections, "create_connection", lambda alias: Tenants(connections.settings[alias], alias))
    monkeypatch.setattr("django_jobqueue.worker.connections.is_djangos", lambda alias: False)
    monkeypatch.setattr(
        "django_jobqueue.worker.connections.untouched", lambda alias: vars(connections.create_connection(alias))
    )

    def switch():
        connection.set_schema("a")

    def switch_and_use():
        connection.set_schema("a")
        use()

    def look():
        return connection.schema_name

    assert in_slot(switch, look, switch_and_use, look) == [None, "public", None, "public"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("vendor", "sql"),
    [
        ("postgresql", 'UPDATE a\nSET b = 1; UPDATE "set" SET x = 1'),
        ("postgresql", "SET CONSTRAINTS ALL DEFERRED"),
        ("mysql", "SELECT @@max_allowed_packet"),
        ("sqlite", 'SELECT "template"."temp" FROM "template"'),
    ],
)
def test_statements_that_only_look_like_it(vendor, sql):
    assert not changes_session(vendor, sql)


@pytest.mark.once
def test_statements_that_are_no_plain_text():
    assert changes_session("postgresql", b"SET a = 1") and not changes_session("postgresql", b"SELECT 1")
    assert changes_session("postgresql", object())  # who knows
    assert changes_session("somebody's", "PRAGMA a = 1") and changes_session("somebody's", "SET a = 1")
    assert changes_session("postgresql", f"SELECT '{'x' * 5000}'; SET a = 1")
