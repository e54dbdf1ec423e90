"""PostgreSQL: one statement to claim a batch, one to finish it, COPY to enqueue it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import lru_cache
from itertools import groupby, islice
from operator import attrgetter
from typing import Any

from django.db import connections, transaction

from ...models import Job, UniqueKey
from ..base import (
    CLAIMED,
    COLUMNS_OF_TASK,
    DATA,
    ENQUEUED,
    ZEROS,
    Dialect,
    as_json,
    data_of,
    forget_places,
    of_task,
)
from ..records import ANY, Ending, Filter, Lane, Success, as_document
from ..tables import ATTEMPT, JOB, QUEUE, UNIQUE_KEY
from .limits import PostgreSQLLimits

#: Below this a multi-row INSERT is as quick as COPY and its preparations.
COPY_FROM = 50
#: So many rows are sent at a time: the server reads them while the next ones are written down.
AT_ONCE = 100
COPIED = ["id", *ZEROS, *ENQUEUED]

# What is alike for all jobs of a task, which is most of the row: to write these values into each statement anew would
# take psycopg a fifteenth of an enqueue.
ALIKE = ["priority", "max_attempts", "status", "queue_name", "backend", "task_path", "waiting_for", "followed"]
EACH = [name for name in COLUMNS_OF_TASK if name not in ALIKE]
alike_of, each_of = attrgetter(*ALIKE), attrgetter(*EACH)
# The sequence is looked up once, not for each number; OFFSET 0 keeps the planner from moving the look-up.
RESERVE = """
SELECT string_agg(nextval(ids.name)::text, ',')
FROM (SELECT pg_get_serial_sequence(%s, 'id')::regclass AS name OFFSET 0) AS ids, generate_series(1, %s)
"""

# If another transaction makes the row after this statement has looked for it, the update of nothing is what locks it.
LOCK_KEY = f"""
WITH there AS (SELECT * FROM {UNIQUE_KEY} WHERE key = %s FOR UPDATE), made AS (
    INSERT INTO {UNIQUE_KEY} (key, job_id, until_started) SELECT %s, 0, FALSE WHERE NOT EXISTS (SELECT FROM there)
    ON CONFLICT (key) DO UPDATE SET job_id = {UNIQUE_KEY}.job_id RETURNING *
)
SELECT * FROM there UNION ALL SELECT * FROM made
"""

LANES = f"""
WITH RECURSIVE lane AS (
    (SELECT queue_name, priority FROM {JOB}
     WHERE status = 'READY' AND place IS NOT NULL ORDER BY queue_name, priority LIMIT 1)
    UNION ALL
    SELECT next.queue_name, next.priority FROM lane CROSS JOIN LATERAL (
        SELECT queue_name, priority FROM {JOB}
        WHERE status = 'READY' AND place IS NOT NULL AND (queue_name, priority) > (lane.queue_name, lane.priority)
        ORDER BY queue_name, priority LIMIT 1
    ) AS next
)
SELECT queue_name, priority FROM lane
"""

# Each lane is read in the order of the index and no further than the limit: no sort, and no lock on a row that is not
# taken. MATERIALIZED keeps the planner from running the locking part more than once. The rows are locked, so that
# their addresses hold until the update, which need not look them up by their ids. A queue that has been paused since
# the lanes were looked for is left alone.
CLAIM = """
WITH lane AS MATERIALIZED (
    SELECT * FROM unnest(%s::text[], %s::smallint[], %s::bigint[]) AS lane(queue_name, priority, floor)
    WHERE (SELECT q.paused_at FROM {queue} AS q WHERE q.name = lane.queue_name) IS NULL
), picked AS MATERIALIZED (
    SELECT head.tid FROM lane CROSS JOIN LATERAL (
        SELECT ctid AS tid FROM {job}
        WHERE status = 'READY' AND place IS NOT NULL AND place {reach}
          AND queue_name = lane.queue_name AND priority = lane.priority {only}
        ORDER BY place LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
    ) AS head LIMIT %s
)
UPDATE {job} AS job
SET status = 'RUNNING', attempts = attempts + 1, tries = tries + 1, worker_id = %s, token = %s,
    started_at = clock_timestamp()
FROM picked WHERE job.ctid = picked.tid
RETURNING {columns}
"""
COLUMNS = ", ".join(f"job.{name}" for name in CLAIMED)


@lru_cache(maxsize=16)
def claim_statement(isolated: bool = False, only: str = "") -> str:
    reach = "< lane.floor" if isolated else ">= lane.floor"
    return CLAIM.format(job=JOB, queue=QUEUE, reach=reach, columns=COLUMNS, only=only)


@lru_cache(maxsize=1000)
def insert_statement(using: str, scheduled: bool, alike: tuple[Any, ...]) -> str:
    """For jobs with these values, in the order of ``ALIKE``. The place comes from the column's default; a scheduled job
    must have none, so its column is named.
    """
    ops: Any = connections[using].ops
    known = ops.compose_sql(", ".join(["%s"] * len(alike)), alike).replace("%", "%%")
    columns = ["place"] * scheduled + ZEROS + ALIKE + EACH + DATA
    values = ["NULL"] * scheduled + ["0"] * len(ZEROS) + [known] + ["%s"] * len(EACH + DATA)
    return f"INSERT INTO {JOB} ({', '.join(columns)}) VALUES ({', '.join(values)}) RETURNING id, place"


# The fence is the token alone: it is drawn at random for each claim and cleared by whatever ends the attempt. A
# condition on the status would invite the planner to the index of running jobs, which is full of dead entries.
FINISH = f"""
WITH ended AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS ended(
        id bigint, token bigint, worker_id bigint, waited float8, took float8, status text, final boolean, place text,
        delay float8, run_after timestamptz, queue_name text, priority smallint, counted boolean, lost boolean,
        result jsonb, keep float8, result_ttl float8, outcome text, message text, exception_class_path text,
        traceback text, log text)
), written AS (
    UPDATE {JOB} AS job SET
        status = CASE WHEN ended.final OR job.cancel_requested_at IS NULL THEN ended.status ELSE 'CANCELLED' END,
        place = CASE ended.place WHEN 'none' THEN NULL WHEN 'next' THEN nextval('django_jobqueue_place')
                                 WHEN 'isolate' THEN -abs(coalesce(job.place, 1)) ELSE job.place END,
        run_after = CASE ended.place WHEN 'none'
            THEN coalesce(ended.run_after, clock_timestamp() + ended.delay * interval '1 second')
            ELSE job.run_after END,
        started_at = job.started_at + ended.waited * interval '1 second',
        finished_at = CASE WHEN ended.final OR job.cancel_requested_at IS NOT NULL THEN clock_timestamp() END,
        tries = job.tries - (NOT ended.counted)::int,
        losses = job.losses + ended.lost::int,
        queue_name = coalesce(ended.queue_name, job.queue_name),
        priority = coalesce(ended.priority, job.priority),
        result = ended.result,
        prune_at = CASE WHEN ended.final OR job.cancel_requested_at IS NOT NULL
            THEN clock_timestamp() + ended.keep * interval '1 second' END,
        result_until = CASE WHEN ended.final OR job.cancel_requested_at IS NOT NULL
            THEN clock_timestamp() + ended.result_ttl * interval '1 second' END,
        worker_id = NULL,
        token = NULL
    FROM ended WHERE job.id = ended.id AND job.token = ended.token
    RETURNING job.id, job.attempts AS number, job.started_at, job.status,
        job.started_at + (ended.took - ended.waited) * interval '1 second' AS finished_at,
        job.status = 'CANCELLED' AND NOT ended.final AS cancelled
), attempt AS (
    INSERT INTO {ATTEMPT}
        (job_id, number, worker_id, started_at, finished_at, outcome, message, exception_class_path, traceback, log)
    SELECT written.id, written.number, ended.worker_id, written.started_at, written.finished_at,
        CASE WHEN written.cancelled THEN 'cancelled' ELSE ended.outcome END,
        ended.message, ended.exception_class_path, ended.traceback, ended.log
    FROM written JOIN ended USING (id)
)
SELECT id, status FROM written
"""


# The same for those that went well, with less to send, to read and to decide.
SUCCEED = f"""
WITH ended AS MATERIALIZED (
    SELECT * FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[], %s::text[])
        AS ended(id, token, worker_id, waited, took, result)
), written AS (
    UPDATE {JOB} AS job SET
        status = 'SUCCESSFUL',
        started_at = job.started_at + ended.waited * interval '1 microsecond',
        finished_at = clock_timestamp(),
        result = ended.result::jsonb,
        worker_id = NULL,
        token = NULL
    FROM ended WHERE job.id = ended.id AND job.token = ended.token
    RETURNING job.id, job.attempts AS number, ended.worker_id, job.started_at,
        job.started_at + (ended.took - ended.waited) * interval '1 microsecond' AS finished_at
), attempt AS (
    INSERT INTO {ATTEMPT}
        (job_id, number, worker_id, started_at, finished_at, outcome, message, exception_class_path, traceback)
    SELECT id, number, worker_id, started_at, finished_at, 'succeeded', '', '', '' FROM written
)
SELECT id FROM written
"""


class PostgreSQL(PostgreSQLLimits, Dialect):
    seconds_until = "EXTRACT(EPOCH FROM {} - CLOCK_TIMESTAMP())"

    def lanes(self) -> list[Lane]:
        return [Lane(*row) for row in self._rows(LANES)]

    def claim(
        self,
        lanes: Sequence[Lane],
        limit: int,
        worker_id: int,
        token: int,
        *,
        floors: Sequence[int] = (),
        isolated: bool = False,
        only: Filter = ANY,
    ) -> list[Job]:
        if not lanes:
            return []
        names, priorities = map(list, zip(*lanes, strict=True))
        floors = list(floors) if floors and not isolated else [0] * len(lanes)
        sql = claim_statement(isolated, only.sql)
        params = [names, priorities, floors, *only.params, limit, limit, worker_id, token]
        jobs = [
            self._claimed(row, worker_id, token) for row in self.again_after_collision(lambda: self._rows(sql, params))
        ]
        if len(lanes) > 1:
            order = {lane: place for place, lane in enumerate(lanes)}
            jobs.sort(key=lambda job: (order.get(Lane(job.queue_name, job.priority), 0), job.place or 0))
        else:
            jobs.sort(key=attrgetter("place"))
        return jobs

    def finish(self, endings: Sequence[Ending]) -> dict[int, str]:
        return dict(self.again_after_collision(lambda: self._rows(FINISH, [as_document(endings)])))

    def succeed(self, successes: Sequence[Success]) -> set[int]:
        ordered = sorted(successes)  # by id, so that two writers never deadlock
        ids, tokens, workers, _, _, waited, took, results = zip(*ordered, strict=True)
        arrays = [
            *(_array(map(str, numbers)) for numbers in (ids, tokens, workers)),
            *(_array([str(int(seconds * 1_000_000)) for seconds in times]) for times in (waited, took)),
            _array(map(_quoted, results)),
        ]
        return {pk for (pk,) in self.again_after_collision(lambda: self._rows(SUCCEED, arrays))}

    def insert(self, jobs: list[Job]) -> None:
        if len(jobs) < COPY_FROM:
            with transaction.atomic(using=self.using) if len(jobs) > 1 else nullcontext():
                for job in jobs:
                    self._insert(job)
                    job._state.adding, job._state.db = False, self.using
        else:
            self._copy_all(jobs)

    def lock_keys(self, keys: Sequence[str]) -> list[UniqueKey]:
        """One key is locked without a new version of its row: under an old snapshot all versions would have to be read
        each time. Many at once are locked in one order, which takes the portable statement.
        """
        if len(keys) > 1:
            return super().lock_keys(keys)
        return list(UniqueKey.objects.using(self.using).raw(LOCK_KEY, [*keys, *keys]))

    def _insert(self, job: Job) -> None:
        sql = insert_statement(self.using, job.place is None, alike_of(job))
        with self.connection.cursor() as cursor:
            cursor.execute(sql, [*each_of(job), *data_of(job)])
            job.id, job.place = cursor.fetchone()

    def _copy_all(self, jobs: list[Job]) -> None:
        kinds = [(scheduled, list(some)) for scheduled, some in groupby(jobs, key=lambda job: job.place is None)]
        alone = len(kinds) == 1 and self.connection.get_autocommit()  # the COPY is its own transaction
        with nullcontext() if alone else transaction.atomic(using=self.using), self.connection.cursor() as cursor:
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
            job.id = int(number)
            job._state.adding, job._state.db = False, self.using

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


# psycopg adapts a list item by item, which takes longer than all else that is done for a job that went well.


def _array(items: Iterable[str]) -> str:
    return "{" + ",".join(items) + "}"


def _quoted(text: str | None) -> str:
    return "NULL" if text is None else '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'


def _copied(value: Any) -> str:
    """The value in COPY's text format."""
    if value is None:
        return r"\N"
    text = str(value)
    if "\\" in text or "\t" in text or "\n" in text or "\r" in text:
        text = text.replace("\\", r"\\").replace("\t", r"\t").replace("\n", r"\n").replace("\r", r"\r")
    return text
