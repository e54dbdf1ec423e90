"""The tables can be made and unmade, on each database."""

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection
from django.test import override_settings

from django_jobqueue.models import Job

from .tasks import noop


def tables():
    return {name for name in connection.introspection.table_names() if name.startswith("django_jobqueue_")}


def made():
    """Everything that the database has of ours: columns, indexes and constraints, storage, the sequence."""
    found = {}
    with connection.cursor() as cursor:
        for table in tables():
            columns = connection.introspection.get_table_description(cursor, table)
            constraints = connection.introspection.get_constraints(cursor, table)
            # not the display size: mysqlclient tells how long the values of the rows are
            described_columns = {(column[:2], column[3:8]) for column in columns}
            found[table] = described_columns, sorted(described(*item) for item in constraints.items())
        if connection.vendor == "postgresql":
            cursor.execute("SELECT relname, relkind, reloptions FROM pg_class WHERE relname LIKE 'django_jobqueue_%'")
            found["storage"] = sorted((name, kind, sorted(options or [])) for name, kind, options in cursor.fetchall())
            cursor.execute("SELECT indexdef FROM pg_indexes WHERE indexname LIKE 'jobqueue_%'")
            found["indexes"] = sorted(cursor.fetchall())
        elif connection.vendor == "sqlite":
            cursor.execute("SELECT name, sql FROM sqlite_master WHERE name LIKE 'jobqueue_%'")
            found["indexes"] = sorted(cursor.fetchall())
    return found


def described(name, constraint):
    if connection.vendor == "sqlite" and constraint["primary_key"]:
        constraint["columns"].sort()  # Django reads them in the table's order
    return name if name.startswith("jobqueue_") else "", str(sorted(constraint.items()))


def drop_tables():
    with connection.schema_editor() as editor:
        for model in apps.get_app_config("django_jobqueue").get_models():
            editor.delete_model(model)
        if connection.vendor == "postgresql":
            editor.execute("DROP SEQUENCE django_jobqueue_place")


def test_migrations_go_back_and_forth_and_make_what_the_models_make_without_them(queue_db):
    before = made()
    assert before.keys() >= {
        "django_jobqueue_job",
        "django_jobqueue_attempt",
        "django_jobqueue_worker",
        "django_jobqueue_queue",
    }
    try:
        call_command("migrate", "django_jobqueue", "zero", verbosity=0)
        assert tables() == set()
        try:
            with override_settings(MIGRATION_MODULES={"django_jobqueue": None}):
                call_command("migrate", run_syncdb=True, verbosity=0)
            assert made() == before
            assert noop.enqueue().id
            with override_settings(MIGRATION_MODULES={"django_jobqueue": None}):
                call_command("migrate", run_syncdb=True, verbosity=0)  # once more, and nothing changes
            assert made() == before
        finally:
            drop_tables()
    finally:
        call_command("migrate", "django_jobqueue", verbosity=0)
    assert made() == before


def test_every_migration_has_its_sql(queue_db):
    assert call_command("sqlmigrate", "django_jobqueue", "0001", no_color=True)
    assert call_command("sqlmigrate", "django_jobqueue", "0001", backwards=True, no_color=True)


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
