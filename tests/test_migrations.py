"""The tables can be made and unmade, on each database."""

import pytest
from django.core.management import call_command
from django.db import connection

from django_jobqueue.models import Job


def tables():
    return {name for name in connection.introspection.table_names() if name.startswith("django_jobqueue_")}


def test_migrations_go_back_and_forth(queue_db):
    before = tables()
    assert before >= {
        "django_jobqueue_job",
        "django_jobqueue_attempt",
        "django_jobqueue_worker",
        "django_jobqueue_queue",
    }
    try:
        call_command("migrate", "django_jobqueue", "zero", verbosity=0)
        assert tables() == set()
    finally:
        call_command("migrate", "django_jobqueue", verbosity=0)
    assert tables() == before


def test_every_migration_has_its_sql(queue_db):
    assert call_command("sqlmigrate", "django_jobqueue", "0001", no_color=True)
    call_command("sqlmigrate", "django_jobqueue", "0002", no_color=True)


@pytest.mark.skipif(connection.vendor != "postgresql", reason="storage parameters are PostgreSQL's")
def test_postgresql_cleans_up_the_hot_table_early(db):
    with connection.cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE oid = 'django_jobqueue_job'::regclass")
        ((options,),) = cursor.fetchall()
    assert {"fillfactor=85", "autovacuum_vacuum_scale_factor=0.02", "autovacuum_vacuum_cost_delay=0"} <= set(options)


def test_the_database_gives_each_job_a_later_place(db):
    now = "2026-01-01T00:00:00Z"
    jobs = [Job.objects.create(task_path="tests.tasks.noop", enqueued_at=now) for _ in range(3)]
    places = [Job.objects.values_list("place", flat=True).get(pk=job.pk) for job in jobs]
    assert all(place > 0 for place in places)
    assert places == sorted(places)
