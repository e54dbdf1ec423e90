"""The INSERT of a single job on PostgreSQL: when the server keeps its plan, and when it must not."""

from datetime import timedelta

import pytest
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from django_jobqueue.dialects.postgresql.enqueue import PREPARE_FROM
from django_jobqueue.models import Job

from ..admin.plans import prepared
from ..tasks import add, echo, noop

INSERT = f"INSERT INTO {Job._meta.db_table} "

pytestmark = pytest.mark.skipif(connection.vendor != "postgresql", reason="nothing is prepared there")


@pytest.fixture(autouse=True)
def fresh_connection(queue_db):
    connection.close()
    yield
    connection.close()


def enqueue_some(number=PREPARE_FROM + 3):
    for count in range(number):
        echo.using(queue_name=f"50% 'mail' {count % 2}").enqueue(count, key="x")


def test_it_is_planned_once_for_all_tasks_after_a_few():
    enqueue_some(PREPARE_FROM)
    assert prepared(INSERT) == []
    for number in range(20):
        noop.enqueue()
        add.using(priority=5).enqueue(number, 40_000 * number)
        add.using(run_after=timedelta(hours=1)).enqueue(number, 2**40 * number)
    assert 2 <= len(prepared(INSERT)) <= 3, "with a place, without one, and such as tell of it"
    assert Job.objects.count() == PREPARE_FROM + 60
    assert Job.objects.filter(place=None).count() == 20


def test_the_callers_transaction_depends_on_no_plan():
    for _ in range(PREPARE_FROM + 3):
        with transaction.atomic():
            noop.enqueue()
    assert prepared(INSERT) == []
    transaction.set_autocommit(False)
    try:
        enqueue_some()
        connection.commit()
    finally:
        transaction.set_autocommit(True)
    assert prepared(INSERT) == []
    enqueue_some()
    assert prepared(INSERT)
    connection.connection.pgconn.exec_(b"DISCARD ALL")
    with transaction.atomic():
        enqueue_some()
    assert Job.objects.count() == 4 * (PREPARE_FROM + 3)


def test_what_somebody_has_discarded_is_not_missed():
    enqueue_some()
    assert prepared(INSERT)
    connection.connection.pgconn.exec_(b"DISCARD ALL")  # behind psycopg's back
    enqueue_some()
    assert Job.objects.count() == 2 * (PREPARE_FROM + 3)
    assert prepared(INSERT) == [], "and nothing is prepared over this connection any more"
    connection.close()
    enqueue_some()
    assert prepared(INSERT), "but over the next one"


def test_a_rollback_costs_the_plan_and_nothing_else():
    enqueue_some()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        noop.enqueue()
        raise ZeroDivisionError
    assert prepared(INSERT) == [], "psycopg does that"
    enqueue_some()
    assert prepared(INSERT) and Job.objects.count() == 2 * (PREPARE_FROM + 3)


def test_nothing_is_prepared_where_the_server_calls_its_session_by_another_number(monkeypatch):
    """As behind PgBouncer, which makes up the number that it gives to its clients."""
    connection.ensure_connection()
    monkeypatch.setattr(type(connection.connection.info), "backend_pid", 4711)
    enqueue_some(2 * PREPARE_FROM)
    monkeypatch.undo()
    assert prepared(INSERT) == []


@pytest.mark.parametrize("where", ["DISABLE_SERVER_SIDE_CURSORS", "prepare_threshold"])
def test_nothing_is_prepared_against_the_settings(monkeypatch, where):
    settings = connection.settings_dict
    if where == "prepare_threshold":
        monkeypatch.setitem(settings, "OPTIONS", {**settings["OPTIONS"], where: None})
    else:
        monkeypatch.setitem(settings, where, True)
    enqueue_some(2 * PREPARE_FROM)
    assert prepared(INSERT) == [] and Job.objects.count() == 2 * PREPARE_FROM


def test_all_who_look_on_see_it():
    seen = []

    def look(execute, sql, params, many, context):
        seen.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(look), CaptureQueriesContext(connection) as captured:
        enqueue_some()
    inserts = [query["sql"] for query in captured if query["sql"].startswith("INSERT")]
    assert len(inserts) == len([sql for sql in seen if sql.startswith("INSERT")]) == PREPARE_FROM + 3
    assert "'50% ''mail'' 1'" in inserts[1], "with its values"
