"""How statements reach PostgreSQL: parameters beside them, prepared where that can be, many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from django.db import DatabaseError

from ..session import Patience, Session, T, limit

#: A statement that was prepared in another session of the server, or a name for it that is taken in this one.
NOT_PREPARED = ("26000", "42P05")
#: With this threshold psycopg prepares only what asks for it.
ON_REQUEST = 2**31 - 1


class PostgreSQLSession(Session):
    name = "postgresql"

    def is_collision(self, error: DatabaseError) -> bool:
        # deadlock, serialization failure
        return sqlstate(error) in ("40P01", "40001", *NOT_PREPARED)

    def is_locked_out(self, error: DatabaseError) -> bool:
        return super().is_locked_out(error) or sqlstate(error) == "55P03"  # lock_timeout

    def is_refusal(self, error: Exception) -> bool:
        # class 54: larger than PostgreSQL can hold, such as a jsonb of 300 MB
        return super().is_refusal(error) or sqlstate(error).startswith("54")

    def transact_by_index(self, do: Callable[[], T]) -> T:
        """To look up a thousand ids seems dearer than to read a table of a few hundred thousand rows; and a line that
        was short when it was last counted is sorted rather than read in its order.
        """
        if self.connection.in_atomic_block:
            return self.transact(do)  # not ours to set anything for

        def neither_scans_nor_sorts() -> T:
            with self.connection.cursor() as cursor:
                cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off")
            return do()

        return self.transact(neither_scans_nor_sorts)

    def _rows(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        """Parameters go beside the statement: Django's cursor would quote them into it, and the server parse them."""
        connection: Any = self.connection
        connection.close_if_health_check_failed()
        connection.ensure_connection()
        connection.validate_no_broken_transaction()
        try:
            with connection.wrap_database_errors, connection.Database.Cursor(connection.connection) as cursor:
                cursor.execute(sql, params, prepare=self.is_own() or None)
                rows: list[Any] = cursor.fetchall()
                return rows
        except DatabaseError as error:
            self._beware_of_pooler(error)
            raise

    def _cursor(self, connection: Any, prepare: bool | None) -> Any:
        """Django's cursor over this open connection, but it sends parameters beside the statement. Where queries are
        logged it is the usual one, for the log is to have the values. ``prepare=None``: as the project's settings say.
        """
        if connection.queries_logged:
            return connection.cursor()
        connection.validate_thread_sharing()
        raw = connection.connection
        if prepare is None and raw.prepare_threshold == ON_REQUEST:  # which is ours
            prepare = False
        with connection.wrap_database_errors:
            return connection.make_cursor(beside(connection.Database.Cursor)(raw, prepare))

    def _beware_of_pooler(self, error: DatabaseError) -> None:
        """Does the error tell that there is one in between after all?"""
        if sqlstate(error) in NOT_PREPARED:
            self.direct = False
            self.connection.close()

    # -- a worker's own connections --------------------------------------------------------------

    def _defaults(self) -> dict[str, Any]:
        return {
            "connect_timeout": max(2, round(self.patience)),
            "keepalives": 1,
            "keepalives_idle": max(1, round(self.patience)),
            "keepalives_interval": max(1, round(self.patience / 3)),
            "keepalives_count": 3,
            "tcp_user_timeout": round(self.patience * 1000),
        }

    def _watch_over(self, connection: Any, raw: Any, patience: Patience) -> None:
        limit(raw, patience)

    def _is_pooled(self) -> bool:
        return not self.direct

    def _may_set_up(self) -> bool:
        settings = self.connection.settings_dict
        return not (settings.get("DISABLE_SERVER_SIDE_CURSORS") or settings["OPTIONS"].get("pool"))

    def _set_up(self, raw: Any) -> None:
        """Statements are prepared, and planned once: to plan a claim takes the server longer than to run it, and it
        would go on planning whatever it believes to run faster with the very values.

        A plan that is kept must not be one for a table that was empty when it was made: so none reads the table, nor
        sorts what an index has in order. What is forbidden counts as so dear that the server would compile the rest.
        """
        raw.execute(
            "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_sort = off; SET jit = off; "
            f"SET idle_in_transaction_session_timeout = '{self.idle_in_transaction}s'"
        )
        raw.prepare_threshold = ON_REQUEST


@cache
def beside(cursor: Any) -> Any:
    """The driver's cursor, which knows whether to prepare its statements."""

    class Beside(cursor):  # type: ignore[misc]
        def __init__(self, connection: Any, prepare: bool | None) -> None:
            super().__init__(connection)
            self.prepare = prepare

        def execute(self, query: str, params: Any = None) -> Any:
            return super().execute(query, params, prepare=self.prepare)

    return Beside


def sqlstate(error: Exception) -> str:
    return getattr(error.__cause__, "sqlstate", None) or ""
