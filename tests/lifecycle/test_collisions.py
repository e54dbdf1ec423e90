"""A statement that collides with another connection is tried again where the transaction is ours, and only there."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.utils import timezone

from django_jobqueue import chain, enqueue_beside, enqueue_many, group, lifecycle, task
from django_jobqueue.lifecycle.synchronise import synchronise
from django_jobqueue.middleware.base import Middleware
from django_jobqueue.models import Batch, Job, Pause, Queue, Schedule

from ..tasks import add, noop

pytestmark = pytest.mark.django_db(transaction=True)

QUOTE = connection.ops.quote_name


class Onlooker(Middleware):
    def process_enqueue(self, jobs, call_next):
        for job in jobs:
            job.priority += 1
        return call_next(jobs)


@task(unique=True)
def unique(a):
    pass


@pytest.fixture
def collide(queue_db):
    """Let the database itself refuse the next statements on a table, as it does after a deadlock: ``collide(2)``. What
    comes back counts all statements since.
    """
    made = []

    def start(number: int, model=Job, event: str = "INSERT"):
        table = QUOTE(model._meta.db_table)
        counter = {"sqlite": _sqlite, "postgresql": _postgresql, "mysql": _mysql}[connection.vendor](
            number, table, event
        )
        made.append(table)
        return counter

    yield start

    with connection.cursor() as cursor:
        for table in made:
            cursor.execute(
                f"DROP TRIGGER IF EXISTS collision{f' ON {table}' if connection.vendor == 'postgresql' else ''}"
            )


def _sqlite(number, table, event):
    calls = []
    connection.ensure_connection()
    connection.connection.create_function("collides", 0, lambda: calls.append(1) or len(calls) <= number)
    _execute(
        f"CREATE TRIGGER collision BEFORE {event} ON {table} BEGIN "
        "SELECT RAISE(ABORT, 'database is locked') WHERE collides(); END"
    )
    return lambda: len(calls)


def _postgresql(number, table, event):
    _execute("DROP SEQUENCE IF EXISTS collisions", "CREATE SEQUENCE collisions")
    _execute(
        "CREATE OR REPLACE FUNCTION collide() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF nextval('collisions') <= {number} THEN RAISE 'could not serialize' USING ERRCODE = '40001'; END IF; "
        "RETURN NEW; END $$",
        f"CREATE TRIGGER collision BEFORE {event} ON {table} FOR EACH STATEMENT EXECUTE FUNCTION collide()",
    )

    def count():
        with connection.cursor() as cursor:
            cursor.execute("SELECT last_value FROM collisions")
            return cursor.fetchone()[0]

    return count


def _mysql(number, table, event):
    _execute("SET @collisions = 0")
    _execute(
        f"CREATE TRIGGER collision BEFORE {event} ON {table} FOR EACH ROW BEGIN "
        f"SET @collisions = @collisions + 1; IF @collisions <= {number} THEN "
        "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, MESSAGE_TEXT = 'Deadlock found'; END IF; END"
    )

    def count():
        with connection.cursor() as cursor:
            cursor.execute("SELECT @collisions")
            return int(cursor.fetchone()[0])

    return count


def _on(table):
    return f" ON {table}" if connection.vendor == "postgresql" else ""


def _execute(*statements):
    with connection.cursor() as cursor:
        for sql in statements:
            cursor.execute(sql)


ENQUEUES = {
    "one": (lambda: noop.enqueue(), 1),
    "later": (lambda: noop.using(run_after=timedelta(hours=1)).enqueue(), 1),
    "two": (lambda: enqueue_many([add.s(1, 2), add.using(run_after=timedelta(hours=1)).s(3, 4)]), 2),
    "many": (lambda: enqueue_many([add.s(number, 2) for number in range(150)]), 150),
    "chain": (lambda: chain(noop.s(), group(noop.si(), noop.si())).enqueue(), 3),
    "unique": (lambda: unique.enqueue(1), 1),
    "unique and others": (lambda: enqueue_many([unique.s(1), unique.s(1), noop.s()]), 2),
}


@pytest.mark.parametrize("layers", [[], ["tests.lifecycle.test_collisions.Onlooker"]], ids=["", "layers"])
@pytest.mark.parametrize(("enqueue", "number"), ENQUEUES.values(), ids=ENQUEUES)
def test_a10_an_enqueue_is_tried_again(collide, settings, enqueue, number, layers):
    settings.JOBQUEUE_MIDDLEWARE = layers
    noop.enqueue()
    count = collide(2)
    enqueue()
    assert count() > 2
    jobs = Job.objects.order_by("pk")[1:]
    assert len(jobs) == number
    assert {job.priority for job in jobs} == {len(layers)}, "a layer sees jobs as they were"
    assert all(job.place is None for job in jobs if job.run_after or job.status == "WAITING")
    assert [job.waiting_for for job in jobs if job.status == "WAITING"] in ([], [1, 1])
    assert Batch.objects.count() <= 1


@pytest.mark.parametrize(("enqueue", "number"), ENQUEUES.values(), ids=ENQUEUES)
def test_a10_in_the_callers_transaction_nothing_is_tried_again(collide, enqueue, number):
    noop.enqueue()
    count = collide(1)
    with pytest.raises(DatabaseError), transaction.atomic():
        enqueue()
    assert count() == 1
    assert Job.objects.count() == 1
    transaction.set_autocommit(False)
    try:
        noop.enqueue()
        connection.commit()
    finally:
        transaction.set_autocommit(True)
    assert Job.objects.count() == 2


def test_a10_a_transaction_by_hand_is_the_callers_too(collide):
    count = collide(1)
    transaction.set_autocommit(False)
    try:
        with pytest.raises(DatabaseError):
            noop.enqueue()
        connection.rollback()
    finally:
        transaction.set_autocommit(True)
    assert count() == 1 and not Job.objects.exists()


def test_a10_what_collides_for_ever_is_an_error(collide, monkeypatch):
    monkeypatch.setattr("django_jobqueue.dialects.session.COLLISION_RETRIES", 2)
    count = collide(1000)
    with pytest.raises(DatabaseError):
        noop.enqueue()
    assert count() == 3


def test_a10_after_and_beside(collide):
    first = noop.enqueue()
    count = collide(2)
    noop.using(after=first).enqueue()
    enqueue_beside([noop.s()], first)
    assert count() == 4 and Job.objects.count() == 3


VERBS = {
    "move": lambda job: lifecycle.move([job], "mail"),
    "priority": lambda job: lifecycle.set_priority([job], 7),
    "reschedule": lambda job: lifecycle.reschedule([job], timezone.now() + timedelta(days=1)),
    "cancel": lambda job: lifecycle.cancel(Job.objects.all()).cancelled,
}


@pytest.mark.parametrize("do", VERBS.values(), ids=VERBS)
def test_a10_verbs_are_tried_again(collide, do):
    job = noop.enqueue()
    count = collide(2, event="UPDATE")
    assert do(int(job.id)) == 1
    assert count() >= 3


def test_a10_pauses_and_schedules_are_tried_again(collide):
    count = collide(2, Queue)
    assert lifecycle.pause("mail") and count() == 3
    _drop(Queue)
    count = collide(2, Queue, "UPDATE")
    assert lifecycle.resume("mail") and count() == 3
    _drop(Queue)
    count = collide(2, Pause)
    assert lifecycle.pause(task=noop) and count() == 3
    _drop(Pause)
    row = Schedule.objects.create(name="s", task_path=noop.module_path, spec="* * * * *", args=[])
    count = collide(2, Schedule, "UPDATE")
    assert lifecycle.pause_schedule(row.pk) and count() == 3
    synchronise("default")


def _drop(model):
    _execute(f"DROP TRIGGER collision{_on(QUOTE(model._meta.db_table))}")


@pytest.mark.skipif(connection.vendor != "postgresql", reason="the others lock instead")
def test_a10_nothing_fails_under_load_at_serializable(monkeypatch):
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    options = {**connections.settings["default"]["OPTIONS"], "isolation_level": IsolationLevel.SERIALIZABLE}
    monkeypatch.setitem(connections.settings["default"], "OPTIONS", options)
    errors = []

    def work(number):
        try:
            for round in range(8):
                noop.enqueue()
                chain(noop.s(), noop.si()).enqueue()
                enqueue_many([noop.s(), noop.s()])
                unique.enqueue(round)
                lifecycle.cancel(list(Job.objects.filter(status="READY").values_list("pk", flat=True)[:2]))
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=[number]) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert errors == []
    assert Job.objects.count() >= 5 * 8 * 5
