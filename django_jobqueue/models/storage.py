"""What the tables need in a database beside themselves, where no migration of ours makes it.

Tables are also made without migrations: by ``pytest --nomigrations``, ``TEST["MIGRATE"] = False``, or
``MIGRATION_MODULES = {"django_jobqueue": None}`` and ``migrate --run-syncdb``; and a project may have migrations of its
own written for this app. All of them send Django's signals before and after ``migrate``.
"""

from __future__ import annotations

from typing import Any

from django.db import connections, router
from django.db.migrations.loader import MigrationLoader

from .fields import SEQUENCE

MIGRATIONS = "django_jobqueue.migrations"

#: Not cached per session: numbers drawn ahead of time would put new jobs in front of old ones.
CREATE_SEQUENCE = f"CREATE SEQUENCE IF NOT EXISTS {SEQUENCE} AS bigint CACHE 1"

#: How PostgreSQL keeps the tables, by their names; the migration gives the reasons.
PARAMETERS = {
    "django_jobqueue_job": (
        "fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, "
        "autovacuum_vacuum_cost_delay = 0, autovacuum_vacuum_insert_scale_factor = 0.05, "
        "autovacuum_analyze_scale_factor = 0.02, autovacuum_analyze_threshold = 1000"
    ),
    "django_jobqueue_attempt": "autovacuum_vacuum_insert_scale_factor = 0.05",
    "django_jobqueue_uniquekey": "fillfactor = 70",
}


def make_sequence(using: str, **kwargs: Any) -> None:
    """Before the tables: the default of a column refers to it."""
    if _is_for_us(using):
        _execute(using, CREATE_SEQUENCE)


def set_parameters(using: str, **kwargs: Any) -> None:
    """After the tables."""
    if _is_for_us(using):
        there = connections[using].introspection.table_names()
        for table in PARAMETERS.keys() & set(there):
            _execute(using, f"ALTER TABLE {table} SET ({PARAMETERS[table]})")


def _is_for_us(using: str) -> bool:
    """Is it PostgreSQL, may our tables be there, and are they made without our migrations?"""
    if connections[using].vendor != "postgresql" or is_migrated():
        return False
    return router.allow_migrate(using, "django_jobqueue", model_name="job")


def is_migrated() -> bool:
    """Do our own migrations make the tables?"""
    module, _ = MigrationLoader.migrations_module("django_jobqueue")
    return module == MIGRATIONS


def _execute(using: str, sql: str) -> None:
    with connections[using].cursor() as cursor:
        cursor.execute(sql)
