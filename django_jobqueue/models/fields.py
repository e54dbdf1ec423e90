"""The place in line, a number that the database draws, and times that Python can tell."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BigIntegerField, DateTimeField, Func
from django.db.models.sql.compiler import SQLCompiler
from django.utils.deconstruct import deconstructible

SEQUENCE = "django_jobqueue_place"
#: PostgreSQL holds times that Python cannot tell, and the driver raises for a row that has one.
LAST = datetime(9999, 12, 30, tzinfo=UTC)
TELLABLE = (
    "CASE WHEN {0} >= '9999-12-30 00:00+00' THEN '9999-12-30 00:00+00' "
    "WHEN {0} < '0001-01-03 00:00+00' THEN '0001-01-03 00:00+00' ELSE {0} END"
)


if TYPE_CHECKING:
    Moment = DateTimeField  # the checker's plugin knows the columns of those
else:

    class Moment(DateTimeField):
        """A time that people have given.

        One that Python cannot tell is read as one that it can: such a row must not stop what reads many.
        """

        def select_format(self, compiler, sql, params):
            if compiler.connection.vendor == "postgresql" and not params:
                sql = TELLABLE.format(sql)
            return super().select_format(compiler, sql, params)

        def deconstruct(self):
            name, _, args, kwargs = super().deconstruct()
            return name, "django.db.models.DateTimeField", args, kwargs


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
