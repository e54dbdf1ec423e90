"""Schema: are the tables there, as this release has them?"""

from __future__ import annotations

from django.apps import apps
from django.db import connections
from django.db.migrations.loader import MigrationLoader


def problem_of_tables(using: str) -> str:
    """What is wrong with the tables of jobs in this database, in one sentence with the remedy; empty: nothing.

    The columns are asked for, and not the migrations: tables may also be made without those.
    """
    connection = connections[using]
    models = list(apps.get_app_config("django_jobqueue").get_models())
    there = set(connection.introspection.table_names())
    module, _ = MigrationLoader.migrations_module("django_jobqueue")
    remedy = f"run manage.py migrate {'' if module else '--run-syncdb '}--database {using}."
    if there.isdisjoint(model._meta.db_table for model in models):
        return f"Database {using!r} has no tables for jobs: {remedy}"
    for model in models:
        table = model._meta.db_table
        if table not in there:
            return f"Database {using!r} has the tables of another release, without {table}: {remedy}"
        with connection.cursor() as cursor:
            columns = {column.name for column in connection.introspection.get_table_description(cursor, table)}
        for field in model._meta.local_concrete_fields:
            if field.column is not None and field.column not in columns:
                return f"Database {using!r} has the tables of another release, without {table}.{field.column}: {remedy}"
    return ""
