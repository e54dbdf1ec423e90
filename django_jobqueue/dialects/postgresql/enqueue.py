"""How jobs get into PostgreSQL: by an INSERT that the server keeps planned, and by COPY when there are many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import lru_cache
from itertools import groupby, islice
from typing import Any
from weakref import WeakKeyDictionary

from django.db import DatabaseError, transaction

from ...models import Job
from ...models.fields import SEQUENCE
from ..base import COLUMNS_OF_TASK, DATA, ENQUEUED, ZEROS, Dialect, as_json, data_of, forget_places, of_task
from ..channel import CHANNEL, encode
from ..records import Lane
from ..tables import JOB
from .arrays import array, quoted
from .session import NOT_PREPARED, ON_REQUEST, PostgreSQLSession, sqlstate

# The place comes from the column's default; a scheduled job must have none, so its column is named.
INSERT, INSERT_LATER = (
    f"INSERT INTO {JOB} ({', '.join([*there, *ZEROS, *ENQUEUED])}) "
    f"VALUES ({', '.join(['NULL'] * len(there) + ['0'] * len(ZEROS) + ['%s'] * len(ENQUEUED))}) "
    "RETURNING id, place, pg_backend_pid()"
    for there in ([], ["place"])
)
#: The word "jobqueue", read as a number.
TELLING = 0x6A6F627175657565
# Of all transactions that notify somebody only one commits at a time, and the others wait for its disk. So only one job
# is told of by its own INSERT at a time: who does not get this lock at once says it after the commit instead.
INSERT_TELLING = (
    f"{INSERT}, CASE WHEN pg_try_advisory_xact_lock({TELLING}) THEN pg_notify('{CHANNEL}', %s) IS NOT NULL END"
)
#: Classes of errors that may come from that: PostgreSQL's queue of notifications is full, or there is no such thing.
NOT_TOLD = ("54", "0A", "42")

#: So many jobs are inserted over a connection before the statement is prepared: that takes a round trip of its own.
PREPARE_FROM = 5
#: Instead of their number, where nothing must be prepared.
NEVER = -math.inf
#: How many jobs have been inserted over each of the driver's connections, in transactions of their own.
_uses: WeakKeyDictionary[Any, float] = WeakKeyDictionary()

#: From two jobs on they are one statement too; it is the same for any number of them, so that its plan can be kept.
TYPES_OF_TASK = "timestamptz timestamptz smallint smallint text text text text bigint int boolean text".split()
INSERT_MANY = f"""
INSERT INTO {JOB} (place, {", ".join([*ZEROS, *ENQUEUED])})
SELECT CASE WHEN call.place THEN nextval('{SEQUENCE}') END, {", ".join(["0"] * len(ZEROS))},
    {", ".join([*(f"call.{name}" for name in COLUMNS_OF_TASK), *(f"call.{name}::jsonb" for name in DATA)])}
FROM unnest(%s::boolean[], {", ".join([*(f"%s::{kind}[]" for kind in TYPES_OF_TASK), *["%s::text[]"] * len(DATA)])})
    AS call(place, {", ".join(ENQUEUED)})
RETURNING id, place, pg_backend_pid()
"""
#: Below this that is as quick as COPY and its preparations.
COPY_FROM = 100
#: So many rows are sent at a time: the server reads them while the next ones are written down.
AT_ONCE = 100
COPIED = ["id", *ZEROS, *ENQUEUED]

# The sequence is looked up once, not for each number; OFFSET 0 keeps the planner from moving the look-up.
RESERVE = """
SELECT string_agg(nextval(ids.name)::text, ',')
FROM (SELECT pg_get_serial_sequence(%s, 'id')::regclass AS name OFFSET 0) AS ids, generate_series(1, %s)
"""


class PostgreSQLEnqueue(PostgreSQLSession, Dialect):
    def insert(self, jobs: list[Job]) -> None:
        if len(jobs) == 1:
            self._insert(jobs[0])
        elif len(jobs) < COPY_FROM:
            # in a transaction of the caller's a refusal costs these jobs, and not the transaction
            with nullcontext() if self.connection.get_autocommit() else transaction.atomic(using=self.using):
                self._insert_many(jobs)
        else:
            self._copy_all(jobs)

    def insert_telling(self, job: Job, lane: Lane, takes_turn: Callable[[str], bool]) -> bool:
        return self._insert(job, lambda: payload_of(lane) if takes_turn(self.using) else None)

    def _insert(self, job: Job, news: Callable[[], str | None] = lambda: None) -> bool:
        """Insert the job; does its commit tell the workers? ``news`` is asked what, if they can be told in that way."""
        connection: Any = self.connection
        connection.close_if_health_check_failed()
        connection.ensure_connection()
        sql, params = INSERT if job.place is not None else INSERT_LATER, [*of_task(job), *data_of(job)]
        prepare = payload = None
        if not connection.in_atomic_block and connection.autocommit:
            prepare, payload = self._may_prepare(connection) or None, news()
        try:
            if payload is None:
                row = self._row(connection, sql, params, prepare)
            else:
                row = self._row(connection, INSERT_TELLING, [*params, payload], prepare)
        except DatabaseError as error:
            # The transaction was this statement's own, so it can be sent again without what has failed.
            if prepare and sqlstate(error) in NOT_PREPARED:  # somebody has discarded what the session had
                _uses[connection.connection] = NEVER
            elif payload is None or sqlstate(error)[:2] not in NOT_TOLD:
                raise
            row = self._row(connection, sql, params, False)
        number, job.place, session, *told = row
        job.is_inserted(number, self.using)
        if session != connection.connection.info.backend_pid:  # a pooler names a session of its own making
            _uses[connection.connection] = NEVER
        return any(told)

    def _insert_many(self, jobs: Sequence[Job]) -> None:
        connection: Any = self.connection
        connection.ensure_connection()
        params, prepare = _arrays(jobs), None
        if not connection.in_atomic_block and connection.autocommit:
            prepare = self._may_prepare(connection) or None
        try:
            rows = self._returned(connection, INSERT_MANY, params, prepare)
        except DatabaseError as error:
            if not prepare or sqlstate(error) not in NOT_PREPARED:
                raise
            _uses[connection.connection] = NEVER
            rows = self._returned(connection, INSERT_MANY, params, False)
        for job, (number, place, _) in zip(jobs, rows, strict=True):
            job.place = place
            job.is_inserted(number, self.using)
        if rows[0][-1] != connection.connection.info.backend_pid:
            _uses[connection.connection] = NEVER

    def _row(self, connection: Any, sql: str, params: Sequence[Any], prepare: bool | None) -> Sequence[Any]:
        [row] = self._returned(connection, sql, params, prepare)
        return row

    def _returned(self, connection: Any, sql: str, params: Sequence[Any], prepare: bool | None) -> list[Sequence[Any]]:
        with self._cursor(connection, prepare) as cursor:
            cursor.execute(sql, params)
            rows: list[Sequence[Any]] = cursor.fetchall()
            return rows

    def _may_prepare(self, connection: Any) -> bool:
        """May the server keep the plan of the next INSERT, which is a transaction of its own?

        Not in a transaction of the caller's: there nothing must fail that would not fail otherwise.
        """
        raw = connection.connection
        if (before := _uses.get(raw)) is None:
            before = 0 if self._leaves_plans_to_us() else NEVER
        _uses[raw] = before + 1
        if before < PREPARE_FROM:
            return False
        if raw.prepare_threshold is None:
            raw.prepare_threshold = ON_REQUEST
        return True

    def _leaves_plans_to_us(self) -> bool:
        """Do the settings? Django's own default is no wish of the project's."""
        return self._may_set_up() and self.connection.settings_dict["OPTIONS"].get("prepare_threshold", 0) is not None

    def _copy_all(self, jobs: list[Job]) -> None:
        kinds = [(scheduled, list(some)) for scheduled, some in groupby(jobs, key=lambda job: job.place is None)]
        alone = len(kinds) == 1 and self.connection.get_autocommit()  # the COPY is its own transaction
        with (
            nullcontext() if alone else transaction.atomic(using=self.using),
            self.connection.cursor() as cursor,
        ):
            cursor.execute(RESERVE, [JOB, len(jobs)])
            ids = cursor.fetchone()[0].split(",")
            for scheduled, some in kinds:
                self._copy(cursor, some, ids[: len(some)], [*COPIED, *["place"] * scheduled])
                del ids[: len(some)]
        forget_places(jobs)

    def _copy(self, cursor: Any, jobs: list[Job], ids: list[str], columns: list[str]) -> None:
        """Rows as text: psycopg's ``write_row`` adapts a row value by value, each time anew."""
        lines = self._lines(jobs, ids, "\t\\N\n" if columns[-1] == "place" else "\n")
        with (
            self.connection.wrap_database_errors,
            cursor.copy(f"COPY {JOB} ({', '.join(columns)}) FROM STDIN") as target,
        ):
            while some := "".join(islice(lines, AT_ONCE)):
                target.write(some)
        for job, number in zip(jobs, ids, strict=True):
            job.is_inserted(int(number), self.using)

    def _lines(self, jobs: list[Job], ids: list[str], end: str) -> Iterator[str]:
        known: dict[tuple[Any, ...], str] = {}
        for job, number in zip(jobs, ids, strict=True):
            task = of_task(job)
            if (text := known.get(task)) is None:
                known[task] = text = "0\t0\t0\t" + "\t".join(map(_copied, task))
            args, kwargs, options = job.args, job.kwargs, job.options
            args = _copied(args if type(args) is str else as_json(args))
            kwargs = "{}" if kwargs == "{}" else _copied(as_json(kwargs))
            options = r"\N" if options is None else _copied(as_json(options))
            yield f"{number}\t{text}\t{args}\t{kwargs}\t{options}{end}"


def _arrays(jobs: Sequence[Job]) -> list[str]:
    """The parameters of ``INSERT_MANY``."""
    known: dict[tuple[Any, ...], list[str]] = {}
    rows = []
    for job in jobs:
        task = of_task(job)
        if (texts := known.get(task)) is None:
            known[task] = texts = [quoted(None if value is None else str(value)) for value in task]
        data = map(quoted, data_of(job))
        rows.append(["f" if job.place is None else "t", *texts, *data])
    return [array(column) for column in zip(*rows, strict=True)]


@lru_cache(maxsize=1000)
def payload_of(lane: Lane) -> str:
    return encode([lane])


def _copied(value: Any) -> str:
    """The value in COPY's text format."""
    if value is None:
        return r"\N"
    text = str(value)
    if "\\" in text or "\t" in text or "\n" in text or "\r" in text:
        text = text.replace("\\", r"\\").replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")
    return text
