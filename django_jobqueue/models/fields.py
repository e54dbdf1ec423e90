"""Fields of our own: the place in line, which the database draws; times that Python can tell; keys by their bytes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import BigIntegerField, CharField, DateTimeField, Func
from django.db.models.lookups import IContains
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


class Tellable(Func):
    """What a ``Moment`` is read as, apart from the column: rows can then be had in the order of the column's index."""

    output_field = DateTimeField()
    template = "%(expressions)s"

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        sql, params = compiler.compile(self.source_expressions[0])
        return TELLABLE.format(sql), [*params] * 3


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


def _exact_collation(connection: Any) -> str | None:
    """One that also tells trailing spaces apart; None where the database compares so by itself."""
    if not hasattr(type(connection), "mysql_is_mariadb"):
        return None
    if connection.mysql_is_mariadb:
        return "utf8mb4_nopad_bin"
    return "utf8mb4_0900_bin" if connection.mysql_version >= (8, 0, 17) else "utf8mb4_bin"


if TYPE_CHECKING:
    KeyField = CharField  # of whatever types the stubs give one
else:

    class KeyField(CharField):
        """A name or a key. Two are the same only if all their characters are.

        The usual collations of MySQL and MariaDB take `Ada`, `ada`, `Adá` and `ada ` for the same key. Python does not,
        and neither do SQLite and PostgreSQL.
        """

        def db_parameters(self, connection: Any) -> Any:
            parameters = super().db_parameters(connection)
            if not self.db_collation and (collation := _exact_collation(connection)):
                # in the character set of that collation too, which has all characters, whatever the database's own has
                parameters["collation"] = collation
            return parameters

    @KeyField.register_lookup
    class KeyIContains(IContains):
        """A search is the one comparison of keys that does not care for upper and lower case."""

        def as_mysql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> Any:
            sql, params = self.process_lhs(compiler, connection)
            pattern, values = self.process_rhs(compiler, connection)
            return f"LOWER({sql}) LIKE LOWER({pattern})", [*params, *values]
