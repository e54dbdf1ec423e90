"""SQLite: one writer at a time, so that nothing needs a row lock."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from django.db import DatabaseError, transaction
from django.db.models import F
from django.db.models.functions import Now
from django.db.models.lookups import GreaterThan

from ..models import Job, Limit
from ..models.limit import USED
from .base import CLAIMED, ENQUEUED, NOT_PAUSED, ZEROS, Dialect
from .records import ANY, Filter, Lane
from .tables import JOB

#: Ids of our own choosing, beyond all that were ever given: this also takes the one lock there is to write.
RESERVE = "UPDATE sqlite_sequence SET seq = seq + %s WHERE name = %s RETURNING seq"
#: The table's line, which SQLite adds with the first row.
BEGIN_NUMBERS = "INSERT INTO sqlite_sequence (name, seq) VALUES (%s, %s)"
INSERT = (
    f"INSERT INTO {JOB} ({', '.join([*ZEROS, 'id', *ENQUEUED])}) "
    f"VALUES (0, 0, 0, {', '.join(['%s'] * (len(ENQUEUED) + 1))})"
)
#: One job gets its id from SQLite.
INSERT_ONE, INSERT_ONE_SCHEDULED = (
    f"INSERT INTO {JOB} ({', '.join([*place, *ZEROS, *ENQUEUED])}) "
    f"VALUES ({', '.join(['NULL'] * len(place) + ['0'] * len(ZEROS) + ['%s'] * len(ENQUEUED))}) RETURNING id"
    for place in ([], ["place"])
)
INSERT_SCHEDULED = INSERT.replace("(attempts", "(place, attempts").replace("(0", "(NULL, 0")


class SQLite(Dialect):
    """A claim is one statement, so that it never holds a read snapshot that it would have to upgrade to a write."""

    name = "sqlite"
    seconds_until = "(JULIANDAY({}) - JULIANDAY('NOW')) * 86400"
    has_dependents = "has_dependents IN (1)"
    now = "STRFTIME('%%Y-%%m-%%d %%H:%%M:%%f', 'NOW')"

    def is_collision(self, error: DatabaseError) -> bool:
        # What is left after the connection's own timeout has waited for the lock.
        return "database is locked" in str(error) or "database table is locked" in str(error)

    def insert(self, jobs: list[Job]) -> None:
        if len(jobs) == 1:
            [job] = jobs
            row = self._rows(INSERT_ONE_SCHEDULED if job.place is None else INSERT_ONE, self._values(job))
            self._inserted(jobs, row[0])
            return
        with transaction.atomic(using=self.using), self.connection.cursor() as cursor:
            cursor.execute(RESERVE, [len(jobs), JOB])
            if row := cursor.fetchone():
                (last,) = row
            else:  # nothing has ever been enqueued here
                last = len(jobs)
                cursor.execute(BEGIN_NUMBERS, [JOB, last])
            ids = range(last - len(jobs) + 1, last + 1)
            rows = zip(jobs, ids, strict=True)
            for scheduled, some in groupby(rows, key=lambda row: row[0].place is None):
                values = [[number, *self._values(job)] for job, number in some]
                cursor.executemany(INSERT_SCHEDULED if scheduled else INSERT, values)
        self._inserted(jobs, ids)

    def lock_limits(self, names: Sequence[str]) -> dict[str, bool]:
        rows = Limit.objects.using(self.using).filter(pk__in=names)
        rows.update(started=F("started"))  # the one lock of all, before anything is read
        return dict(rows.annotate(is_noted=GreaterThan(F("used_at"), Now() - USED)).values_list("pk", "is_noted"))

    def claim(
        self,
        lanes: Sequence[Lane],
        limit: int,
        worker_id: int,
        fence: int,
        *,
        floors: Sequence[int] = (),
        isolated: bool = False,
        only: Filter = ANY,
    ) -> list[Job]:
        jobs: list[Job] = []
        for lane, floor in zip(lanes, floors or [0] * len(lanes), strict=True):
            if len(jobs) < limit:
                jobs += self._take(lane, limit - len(jobs), worker_id, fence, floor, isolated, only)
        return jobs

    def _take(
        self, lane: Lane, limit: int, worker_id: int, fence: int, floor: int, isolated: bool, only: Filter
    ) -> list[Job]:
        sql = f"""
            UPDATE {JOB}
            SET status = 'RUNNING', attempts = attempts + 1, tries = tries + 1, worker_id = %s, fence = %s,
                started_at = {self.now}
            WHERE id IN (
                SELECT id FROM {JOB}
                WHERE status = 'READY' AND place IS NOT NULL AND place {"<" if isolated else ">="} %s
                  AND queue_name = %s AND priority = %s {NOT_PAUSED} {only.sql}
                ORDER BY place, id LIMIT %s
            )
            RETURNING {", ".join(CLAIMED)}
        """
        params = [worker_id, fence, 0 if isolated else floor, *lane, lane.queue_name, *only.params, limit]
        rows = self.again_after_collision(lambda: self._rows(sql, params))
        jobs = [self._claimed([*map(self._zoned, row)], worker_id, fence) for row in rows]
        # RETURNING promises no order
        return sorted(jobs, key=lambda job: (job.place or 0, job.id))
