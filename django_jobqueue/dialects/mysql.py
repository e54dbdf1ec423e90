"""MySQL and MariaDB: the portable statements, and collisions that are worth another try."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from math import ceil
from typing import Any, ClassVar

from django.db import DatabaseError, DataError, transaction
from django.db.models import QuerySet

from ..models import Job, UniqueKey
from .base import ENQUEUED, ZEROS, Dialect, data_of
from .records import Success
from .session import M, Patience
from .tables import FOR_A_SLOT, JOB, UNIQUE_KEY

#: A packet bigger than max_allowed_packet.
TOO_BIG = 1153
#: What a column cannot hold, by the server's numbers: drivers raise other classes for the same number. 1366 is a
#: DataError in PyMySQL and an OperationalError, as an outage would be, in mysqlclient.
UNFIT = frozenset(
    {
        TOO_BIG,
        1264,  # out of range
        1265,  # cut off
        1267,  # an illegal mix of collations
        1292,  # no such date or number
        1301,  # a value of a function larger than max_allowed_packet
        1366,  # a string that the column's character set does not have
        1406,  # too long
        1411,  # no such date
        1644,  # SIGNAL: a trigger of the project
        3140,  # MySQL: no valid JSON
        3144,  # MySQL: JSON of another character set
        3157,  # MySQL: JSON nested too deep
        3819,  # MySQL: a CHECK that fails
        3854,  # MySQL: a string that the connection's character set does not have
        3988,  # the same
        4025,  # MariaDB: a CHECK that fails
        4037,  # MariaDB: JSON that ends too soon
        4038,  # MariaDB: no valid JSON
        4040,  # MariaDB: JSON nested too deep
    }
)
#: Characters of results in one statement, and one of more is written alone: escaped three times, as a JSON text within
#: a JSON document within a literal, they grow eightfold and still fit into the smallest packet that is usual.
RESULTS_AT_ONCE = 500_000
#: Characters that fit into a packet however they are escaped.
SURELY_FITS = 100_000


#: Find jobs so, whatever the server thinks best: while it reads a small table through it locks all rows, and claims
#: pass locked rows over.
BY_ID, BY_LINE = "FORCE INDEX (PRIMARY)", "FORCE INDEX (jobqueue_in_line)"

#: All rows of a batch in one statement: an UPDATE for each would be a round trip for each. The batch comes first, and
#: the jobs are found by it.
SUCCEED_JOBS = f"""
UPDATE JSON_TABLE(%s, '$[*]' COLUMNS (
    id BIGINT PATH '$[0]', fence BIGINT PATH '$[1]', started_at DATETIME(6) PATH '$[2]',
    finished_at DATETIME(6) PATH '$[3]', result LONGTEXT PATH '$[4]'
)) AS ended STRAIGHT_JOIN {JOB} AS job {BY_ID} ON job.id = ended.id AND job.fence = ended.fence
SET job.status = 'SUCCESSFUL', job.started_at = ended.started_at, job.finished_at = ended.finished_at,
    job.result = ended.result, job.worker_id = NULL, job.fence = NULL
"""


NEXT_KEY = f"""
SELECT concurrency_key FROM {JOB} WHERE {FOR_A_SLOT} AND concurrency_key > %s ORDER BY concurrency_key LIMIT 1
"""


INSERT = f"INSERT INTO {JOB} ({', '.join(['place', *ZEROS, *ENQUEUED])}) VALUES "
#: Of a job that is in line, whose place comes from the column's default, and of one that is not.
ROW, ROW_OF_SCHEDULED = (
    f"({', '.join([place, *['0'] * len(ZEROS), *['%s'] * len(ENQUEUED)])})" for place in ("DEFAULT", "NULL")
)
#: So many jobs, and so many characters of arguments, are inserted by one statement.
ROWS_AT_ONCE, ARGUMENTS_AT_ONCE = 1000, 500_000


class MySQL(Dialect):
    name = "mysql"
    by_id: ClassVar[str] = BY_ID
    by_line: ClassVar[str] = BY_LINE
    #: 1213 deadlock, 1205 lock wait timeout, 1020 record changed since last read.
    collisions: ClassVar[frozenset[int]] = frozenset({1213, 1205, 1020})

    def is_refusal(self, error: Exception) -> bool:
        return super().is_refusal(error) or bool(
            isinstance(error, DatabaseError) and error.args[:1] and error.args[0] in UNFIT
        )

    def insert(self, jobs: list[Job]) -> None:
        portions = list(_portions(jobs))
        with transaction.atomic(using=self.using) if len(portions) > 1 else nullcontext():
            ids = [number for some in portions for number in self._insert_portion(some)]
        self._inserted(jobs, ids)

    def _insert_portion(self, jobs: Sequence[Job]) -> Iterable[int]:
        if len(jobs) == 1:  # what is large comes alone
            text = "".join(filter(None, data_of(jobs[0])))
            self.check_fits(f"Job of {jobs[0].task_path}: a call", text)
        rows = ", ".join(ROW if job.place is not None else ROW_OF_SCHEDULED for job in jobs)
        values = [value for job in jobs for value in self._values(job)]
        returns = self.connection.features.can_return_rows_from_bulk_insert
        with self.connection.cursor() as cursor:
            cursor.execute(f"{INSERT}{rows}{' RETURNING id' if returns else ''}", values)
            if returns:
                return [number for (number,) in cursor.fetchall()]
            first: Any = cursor.lastrowid  # MySQL: the others follow at equal distances, whatever else is inserted
            step = 1
            if len(jobs) > 1:
                cursor.execute("SELECT @@auto_increment_increment")
                ((step,),) = cursor.fetchall()
            return range(first, first + step * len(jobs), step)

    def lock_keys(self, keys: Sequence[str]) -> list[UniqueKey]:
        """Not by INSERT IGNORE: it would share the lock of a row that is there, and two who then want it for themselves
        deadlock.
        """
        rows = ", ".join(["(%s, 0, FALSE)"] * len(keys))
        sql = f"INSERT INTO {UNIQUE_KEY} (`key`, job_id, until_started) VALUES {rows} "
        with self.connection.cursor() as cursor:
            cursor.execute(f"{sql} ON DUPLICATE KEY UPDATE `key` = `key`", keys)
        return list(UniqueKey.objects.using(self.using).filter(pk__in=keys).order_by("pk").select_for_update())

    def newest(self, rows: QuerySet[M]) -> QuerySet[M]:
        """At REPEATABLE READ, the server's default and not Django's, only a read that locks sees what is new."""
        driver: Any = self.connection
        return rows if driver.isolation_level == "read committed" else rows.select_for_update()

    def waiting_keys(self, behind: str, limit: int) -> list[str]:
        """A leap for each: within one statement the server would walk to where the last leap has ended, each time."""
        names: list[str] = []
        while len(names) < limit and (found := self._rows(NEXT_KEY, [names[-1] if names else behind])):
            names.append(found[0][0])
        return names

    def succeed(self, successes: Sequence[Success]) -> set[int]:
        if any(success.result is not None and len(success.result) > RESULTS_AT_ONCE for success in successes):
            return set(self.finish([success.ending() for success in sorted(successes)]))
        return super().succeed(successes)

    def _mark_successful(self, cursor: Any, successes: Sequence[Success], times: Sequence[tuple[str, str]]) -> int:
        written, length = 0, 0
        document: list[tuple[Any, ...]] = []
        for success, moments in zip(successes, times, strict=True):
            document.append((success.id, success.fence, *moments, success.result))
            length += len(success.result or "")
            if length > RESULTS_AT_ONCE:
                written += self._mark(cursor, document)
                document, length = [], 0
        return written + (self._mark(cursor, document) if document else 0)

    def check_fits(self, what: str, text: str) -> None:
        """The server hangs up on who sends it more than it takes, and that looks like an outage."""
        if len(text) < SURELY_FITS:
            return
        ((limit,),) = self._rows("SELECT @@max_allowed_packet")
        size = len(json.dumps(text))  # a string of its own within the statement: quotes and backslashes are escaped
        if size + 1000 > limit:
            raise DataError(f"{what} of {size:,} bytes is more than the server takes: max_allowed_packet is {limit:,}.")

    def _mark(self, cursor: Any, document: Sequence[tuple[Any, ...]]) -> int:
        cursor.execute(SUCCEED_JOBS, [json.dumps(document)])
        return int(cursor.rowcount)

    def _defaults(self) -> dict[str, Any]:
        return {"connect_timeout": max(2, round(self.patience))}

    def _with_limits(self, params: dict[str, Any], patience: Patience) -> dict[str, Any]:
        seconds = ceil(patience.seconds)
        return {"read_timeout": seconds, "write_timeout": seconds, **params}

    def _watch_over(self, connection: Any, raw: Any, patience: Patience) -> None:
        """The driver sees to it; but what it raises does not say that the time was too short."""

        def learn(execute: Any, *args: Any) -> Any:
            began, seconds = time.monotonic(), patience.seconds
            try:
                return execute(*args)
            except DatabaseError:
                if time.monotonic() - began >= seconds:
                    patience.run_out()
                raise

        connection.execute_wrappers[:] = [learn]

    def _set_up(self, raw: Any) -> None:
        if getattr(self.connection, "mysql_is_mariadb", False):  # MySQL has nothing of the kind
            with self.connection.cursor() as cursor:
                cursor.execute("SET SESSION idle_transaction_timeout = %s", [self.idle_in_transaction])


def _portions(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """The jobs in their order, no more at once than a packet can hold."""
    some: list[Job] = []
    length = 0
    for job in jobs:
        size = len(job.args) + len(job.kwargs)  # text, where it is long
        if some and (len(some) == ROWS_AT_ONCE or length + size > ARGUMENTS_AT_ONCE):
            yield some
            some, length = [], 0
        some.append(job)
        length += size
    if some:
        yield some
