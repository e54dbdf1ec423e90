"""The place in line: a number that the database draws."""

from __future__ import annotations

from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BigIntegerField, Func
from django.db.models.sql.compiler import SQLCompiler
from django.utils.deconstruct import deconstructible

SEQUENCE = "django_jobqueue_place"


@deconstructible(path="django_jobqueue.models.fields.NextPlace")
class NextPlace(Func):
    """The next place in line, drawn by the database, never by a client.

    PostgreSQL has a sequence for it. The others use the database's clock, in microseconds (which SQLite's tells only
    in thousands): good enough for an order, and two jobs of one moment are told apart by their ids. MySQL and MariaDB
    have no sequence in common, SQLite has none.
    """

    output_field = BigIntegerField()
    template = "%(function)s()"

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        return f"nextval('{SEQUENCE}')", []

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)", []

    def as_mysql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        return "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)", []
