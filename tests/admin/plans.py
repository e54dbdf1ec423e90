"""How the database means to run our statements: what it would read, not how long it took."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.db import connection

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = "job attempt limit permit dependency batch schedule uniquekey".split()
TABLES = tuple(f"django_jobqueue_{name}" for name in NAMES)
#: Beside ten thousand jobs these are too small for an index to pay; tests/dialects/test_plans.py fills them.
SMALL = ("django_jobqueue_dependency", "django_jobqueue_batch")


@dataclass
class Plans:
    #: How many statements read jobs or attempts.
    reading: int = 0
    #: Those that read a table, or a whole index of one, to its end.
    scans: list[str] = field(default_factory=list)


@contextmanager
def watched() -> Iterator[Plans]:
    """Explain each SELECT of the block that reads one of the TABLES. Call ``analyse`` when the rows are there."""
    plans = Plans()

    def explain(execute, sql, params, many, context):
        if sql.lstrip().upper().startswith(("SELECT", "WITH")) and any(table in sql for table in TABLES):
            plans.reading += 1
            found = EXPLAIN[connection.vendor](context["cursor"].cursor, sql, params).split("; ")
            if scans := [scan for scan in found if scan and not any(table in scan for table in SMALL)]:
                plans.scans.append(f"{'; '.join(scans)}\n    {sql}\n    {params}")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        yield plans


def analyse() -> None:
    """Let the server's planner know what is in the tables; it would find out by itself, later.

    SQLite would not, so that it must find its way without. On MySQL this would commit a test's transaction.
    """
    if connection.vendor == "sqlite" or (connection.vendor == "mysql" and connection.in_atomic_block):
        return
    command = {"postgresql": "ANALYZE", "mysql": "ANALYZE TABLE"}[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(f"{command} {', '.join(TABLES)}")


def prepared(beginning: str = "") -> list[str]:
    """The statements that begin so whose plans PostgreSQL keeps for this connection."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT statement FROM pg_prepared_statements")
        return [statement for (statement,) in cursor.fetchall() if statement.startswith(beginning)]


def _postgresql(cursor, sql: str, params) -> str:
    cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
    [[plan]] = cursor.fetchall()
    plan = json.loads(plan) if isinstance(plan, str) else plan
    return "; ".join(_unbounded(plan[0]["Plan"], limited=False))


def _unbounded(node: dict, limited: bool) -> Iterator[str]:
    """The nodes that read all of a table. A partial index is no table: it holds what was asked for."""
    kind, table = node["Node Type"], node.get("Relation Name")
    if table in TABLES:
        if kind == "Seq Scan":
            yield f"sequential scan of {table}"
        elif "Index Name" in node and node["Index Name"].endswith("_pkey") and "Index Cond" not in node and not limited:
            yield f"whole primary key of {table}"
        elif limited and "Filter" in node and "Index Cond" not in node and node["Index Name"].endswith("_pkey"):
            yield f"primary key of {table} until enough rows pass {node['Filter']}"
    if kind in ("Sort", "Aggregate", "Hash"):
        limited = False  # these read all of their input before the first row comes out
    limited = limited or kind == "Limit"
    for child in node.get("Plans", ()):
        yield from _unbounded(child, limited)


def _sqlite(cursor, sql: str, params) -> str:
    steps = [row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {sql}", *([params] if params else []))]
    scans = [step for step in steps if step.startswith(tuple(f"SCAN {table}" for table in TABLES))]
    # A scan in the order of the rows stops at the LIMIT, unless the rows are sorted or filtered first.
    ordered = " LIMIT " in sql and " WHERE " not in sql and not any("TEMP B-TREE FOR ORDER" in step for step in steps)
    return "; ".join(scan for scan in scans if "USING" not in scan and not ordered)


def _mysql(cursor, sql: str, params) -> str:
    cursor.execute(f"EXPLAIN {sql}", params)
    return "; ".join(f"{row[2]}: {row[3]}" for row in cursor.fetchall() if row[2] in TABLES and row[3] == "ALL")


EXPLAIN = {"postgresql": _postgresql, "sqlite": _sqlite, "mysql": _mysql}
