"""Emptying the database after a test whose rows were committed, which is after most of them.

Django's ``flush`` truncates every table and then makes all content types and permissions anew. On a server that takes
0.2 to 0.4 seconds, and most tests have written three rows. This deletes the rows that there are, and leaves those two
tables alone.
"""

from __future__ import annotations

from typing import Any

from django.core.management.color import no_style
from django.db import DatabaseError, connections, transaction
from django.test import TransactionTestCase

#: Made by the migrations, and changed by no test.
KEPT = {"django_migrations", "django_content_type", "auth_permission"}
#: So many rows are truncated, not deleted: that is quicker then, and leaves no dead ones for the plans of other tests.
MANY = 1000


#: The tables of each database by its alias and name, once they have been asked for.
known: dict[tuple[str, str], list[str]] = {}


def empty(using: str) -> None:
    connection = connections[using]
    here = using, str(connection.settings_dict["NAME"])
    try:
        _empty(using, known[here])
    except (KeyError, DatabaseError):  # a test may have made tables, or taken some away
        found = connection.introspection.django_table_names(only_existing=True, include_views=False)
        known[here] = [table for table in found if table not in KEPT]
        _empty(using, known[here])


def _empty(using: str, tables: list[str]) -> None:
    if not tables:
        return
    connection = connections[using]
    quoted = {table: connection.ops.quote_name(table) for table in tables}
    counts = ", ".join(
        f"(SELECT count(*) FROM (SELECT 1 FROM {name} LIMIT {MANY}) AS found)" for name in quoted.values()
    )
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {counts}")
        found = dict(zip(tables, cursor.fetchone(), strict=True))
    if max(found.values()) == MANY or is_bloated(connection):
        connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables))
    elif any(found.values()):
        with transaction.atomic(using=using), connection.constraint_checks_disabled(), connection.cursor() as cursor:
            for table, number in found.items():
                if number:
                    cursor.execute(f"DELETE FROM {quoted[table]}")


def is_bloated(connection: Any) -> bool:
    """Have thousands of tests left as many dead rows? PostgreSQL's own cleaning may not keep up with them."""
    if connection.vendor != "postgresql":
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_relation_size('django_jobqueue_job') > 1000000")
        return bool(cursor.fetchone()[0])


def instead_of_flush() -> None:
    """Let the tests use it."""

    def _fixture_teardown(self: Any) -> None:
        for using in self._databases_names(include_mirrors=False):
            empty(using)

    TransactionTestCase._fixture_teardown = _fixture_teardown  # type: ignore[attr-defined]
