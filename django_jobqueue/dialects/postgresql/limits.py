"""PostgreSQL: what is decided under the lock of a key is one statement, and sent along with the lock."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from django.db import DatabaseError

from ...keys import Slots, name_of
from ...models.limit import USED
from ..admission import most_of_each
from ..draw import LONGEST, STEPS, not_too_long
from ..limits import Limits, slot_names
from ..records import Admitted, Drawn, Lane, Terms
from ..tables import FOR_A_SLOT, JOB, LIMIT, PAUSE, PERMIT
from .session import PostgreSQLSession, sqlstate

DIVISION_BY_ZERO = "22012"
#: What the database's integer holds.
MOST = 2**31 - 1

LOCK_LIMITS = f"""
SELECT key, COALESCE(used_at > clock_timestamp() - interval '{USED.total_seconds()} seconds', FALSE) AS is_noted
FROM {LIMIT} WHERE key = ANY(%s::text[]) ORDER BY key FOR UPDATE
"""
# Fails if one of them is not there: what is sent along with this must not go on without its lock.
LOCK_ALL = f"""
WITH locked AS MATERIALIZED ({LOCK_LIMITS})
SELECT 1 / (count(*) = %s)::int, array_agg(key) FILTER (WHERE NOT is_noted) FROM locked
"""

# Rows may have been written before their options were bounded, or by hand.
GIVEN = "LEAST(({}->>'concurrency')::numeric, 2147483647)::int"
KNOWN = "CASE WHEN task_path = ANY(%s::text[]) THEN FALSE ELSE TRUE END"  # see ``of_other_tasks``
# What ``Admission`` does, in one statement: each further one of a thread is a wait for the interpreter. The first job
# of a key says how many are worth a look: as many as the key has free slots for jobs like it, and one more. Who has
# been changed since by somebody else is not at its address any more: then the key is looked at again. What is in a CASE
# is asked of the row alone, not of an index; and with a status that is no constant only the index of the keys fits, not
# that of all that are in line, which may look better while there are few.
ADMIT = f"""
WITH rule AS MATERIALIZED (
    SELECT * FROM unnest(%s::text[], %s::int[], %s::boolean[], %s::boolean[])
        AS rule(task_path, concurrency, in_order, fair)
), lane AS MATERIALIZED (
    SELECT * FROM unnest(%s::text[], %s::smallint[], %s::bigint[]) AS lane(queue_name, priority, floor)
), wanted AS MATERIALIZED (
    SELECT name, (
        SELECT sum(number)::int FROM unnest('{{READY,RUNNING}}'::text[]) AS holding(status) CROSS JOIN LATERAL (
            SELECT count(*) AS number FROM {JOB}
            WHERE concurrency_key = name AND finished_at IS NULL AND status = holding.status AND place IS NOT NULL
        ) AS held
    ) AS slots
    FROM unnest(%s::text[]) AS wanted(name)
    WHERE name NOT IN (SELECT pause.name FROM {PAUSE} AS pause WHERE kind = 'key' AND resumed_at IS NULL)
), judged AS MATERIALIZED (
    SELECT wanted.name, number, fit.* FROM wanted CROSS JOIN LATERAL (
        SELECT task_path, options FROM {JOB} WHERE {FOR_A_SLOT} AND concurrency_key = name AND {KNOWN}
        ORDER BY priority DESC, id LIMIT 1
    ) AS first LEFT JOIN rule USING (task_path) CROSS JOIN LATERAL (
        SELECT GREATEST(0, LEAST(%s, CASE
            WHEN COALESCE((first.options->>'in_order')::boolean, rule.in_order) THEN 1
            WHEN first.options ? 'concurrency' THEN {GIVEN.format("first.options")}
            ELSE rule.concurrency
        END - slots)) AS number
    ) AS free CROSS JOIN LATERAL (
        SELECT one.*, bool_and(CASE
            WHEN is_strange THEN FALSE
            WHEN in_order THEN slots + before + (
                SELECT number FROM unnest('{{READY}}'::text[]) AS coming(status) CROSS JOIN LATERAL (
                    SELECT count(*) AS number FROM {JOB} WHERE concurrency_key = name
                        AND finished_at IS NULL AND status = coming.status AND place IS NULL AND attempts > 0
                ) AS held
            ) < 1
            ELSE concurrency IS NULL OR slots + before < concurrency
        END) OVER (ORDER BY priority DESC, id) AS fits
        FROM (
            SELECT tid, id, head.priority, queue_name, task_path, rule.task_path IS NULL AS is_strange,
                COALESCE((options->>'fair')::boolean, rule.fair) AS fair,
                COALESCE((options->>'in_order')::boolean, rule.in_order) AS in_order,
                CASE
                    WHEN options ? 'concurrency' THEN {GIVEN.format("options")} ELSE rule.concurrency
                END AS concurrency,
                row_number() OVER (ORDER BY head.priority DESC, id)::int - 1 AS before
            FROM (
                SELECT ctid AS tid, id, priority, queue_name, task_path, options FROM {JOB}
                WHERE {FOR_A_SLOT} AND concurrency_key = name AND {KNOWN} ORDER BY priority DESC, id LIMIT number + 1
            ) AS head LEFT JOIN rule USING (task_path)
        ) AS one
    ) AS fit
), chosen AS MATERIALIZED (
    SELECT id, tid, name, floor, CASE WHEN fair THEN nextval('django_jobqueue_place') END AS place
    FROM (SELECT * FROM judged WHERE fits AND before < number ORDER BY before, name) AS fitting
    LEFT JOIN lane USING (queue_name, priority)
), admitted AS (
    UPDATE {JOB} AS job SET status = 'READY', place = CASE
        WHEN job.place < 0 THEN job.place
        WHEN chosen.place IS NOT NULL THEN chosen.place
        ELSE GREATEST(job.place, chosen.floor)
    END
    FROM chosen WHERE job.ctid = chosen.tid AND CASE
        WHEN job.status = 'WAITING' AND job.waiting_for = 0 AND job.concurrency_key = chosen.name THEN TRUE
        ELSE FALSE END
    RETURNING job.id, job.queue_name, job.priority
)
SELECT 'lane', queue_name, priority FROM admitted GROUP BY queue_name, priority
UNION ALL SELECT 'more', name, 0 FROM judged WHERE is_strange OR (fits AND before = number)
UNION ALL SELECT 'more', name, 0 FROM chosen WHERE id NOT IN (SELECT id FROM admitted)
UNION ALL SELECT 'strange', task_path, 0 FROM judged WHERE is_strange
"""


# What ``Draw`` does, in one statement as well. Nothing is written, and nothing comes back, if the key is paused.
DRAW = f"""
WITH gate AS MATERIALIZED (
    SELECT started, line_until, clock_timestamp() AS now FROM {LIMIT} WHERE key = %s AND NOT EXISTS (
        SELECT FROM {PAUSE} AS pause WHERE kind = 'key' AND resumed_at IS NULL AND pause.name = %s
    )
), tried AS MATERIALIZED (
    SELECT wanted.number, (
        SELECT max(CASE WHEN reach > 0 THEN COALESCE(EXTRACT(EPOCH FROM (
            SELECT taken_at FROM {PERMIT} AS permit
            WHERE permit.key = %s AND permit.number >= reach - 1 ORDER BY permit.number LIMIT 1
        ) - now)::float8 + seconds, 0) ELSE 0 END)
        FROM (
            SELECT started + wanted.number - most AS reach, seconds
            FROM unnest(%s::bigint[], %s::float8[]) AS span(most, seconds)
        ) AS span
    ) AS free_in
    FROM gate CROSS JOIN unnest(%s::int[]) AS wanted(number)
), drawn AS MATERIALIZED (
    SELECT COALESCE(max(number) FILTER (WHERE free_in <= 0), 0) AS number,
        GREATEST(
            min(free_in) FILTER (WHERE number = 1), (SELECT EXTRACT(EPOCH FROM line_until - now)::float8 FROM gate)
        ) + %s * (%s + %s * random()) AS wait
    FROM tried
), permitted AS (
    INSERT INTO {PERMIT} (key, number, job_id, fence, taken_at)
    SELECT %s, started + number - 1, %s, %s::bigint, now + CASE WHEN number > 1 THEN %s ELSE 0 END * interval '1 second'
    FROM gate CROSS JOIN drawn WHERE number > 0
), forgotten AS (
    DELETE FROM {PERMIT} AS permit USING gate, drawn
    WHERE permit.key = %s AND drawn.number > 0 AND permit.number < started + drawn.number - %s
)
UPDATE {LIMIT} AS held SET
    started = gate.started + drawn.number,
    line_until = CASE
        WHEN drawn.number = 0 AND wait <= %s THEN now + wait * interval '1 second' ELSE held.line_until
    END
FROM gate CROSS JOIN drawn WHERE held.key = %s
RETURNING drawn.number, wait
"""


class PostgreSQLLimits(PostgreSQLSession, Limits):
    keys_at_once = 1000  # each transaction waits for the disk, and this thread for the interpreter

    def lock_limits(self, names: Sequence[str]) -> dict[str, bool]:
        return dict(self._rows(LOCK_LIMITS, [list(names)]))

    def read_what_is_committed(self) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def admit(
        self, keys: Sequence[str], rules: Mapping[str, Slots], unknown: Collection[str], floors: Mapping[Lane, int]
    ) -> Admitted:
        names, params = slot_names(keys), _of_admission(keys, rules, unknown, floors)
        rows = self._under_lock(names, ADMIT, params)
        if rows is None:
            rows = self.under_lock(names, lambda: self._rows(ADMIT, params))
        return _admitted(rows)

    def draw(self, key: str, job_id: int, fence: int | None, terms: Terms) -> Drawn:
        asked_at = time.monotonic()
        rows = self._under_lock([key], DRAW, _of_draw(key, job_id, fence, terms))
        if not rows:
            return super().draw(key, job_id, fence, terms)
        ((number, wait),) = rows
        return Drawn(number, asked_at) if number else Drawn(0, wait=not_too_long(wait))

    def _under_lock(self, names: Sequence[str], sql: str, params: Sequence[Any]) -> list[Any] | None:
        """What the statement brings back, in a transaction that has these limits to itself. None: it cannot be done
        so, and nothing has been done. For some there may be no rows yet to lock.

        All is sent at once, where no pooler is known to stand in between: for each answer a thread has to wait for the
        interpreter too, beside threads that run jobs; and whoever wants the lock waits for that as well.
        """
        connection: Any = self.connection
        if self._is_pooled() or not connection.Database.Pipeline.is_supported():
            return None
        if connection.in_atomic_block or not connection.get_autocommit():
            return None
        return self.again_after_collision(lambda: self._send_at_once(names, sql, params))

    def _send_at_once(self, names: Sequence[str], sql: str, params: Sequence[Any]) -> list[Any] | None:
        connection: Any = self.connection
        connection.close_if_health_check_failed()
        connection.ensure_connection()
        raw, prepare = connection.connection, self.is_own() or None
        lock, decide = connection.Database.Cursor(raw), connection.Database.Cursor(raw)
        try:
            with connection.wrap_database_errors, raw.pipeline():
                raw.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
                lock.execute(LOCK_ALL, [list(names), len(names)], prepare=prepare)
                decide.execute(sql, params, prepare=prepare)
                raw.execute("COMMIT")
        except DatabaseError as error:
            if not raw.closed:
                raw.rollback()
            if sqlstate(error) == DIVISION_BY_ZERO:
                return None
            self._beware_of_pooler(error)
            raise
        except BaseException:  # a job may be interrupted anywhere: what has been sent by then must not stay open
            connection.close()
            raise
        if old := lock.fetchone()[1]:
            self.note_used(old)
        rows: list[Any] = decide.fetchall()
        return rows


def _of_admission(
    keys: Sequence[str], rules: Mapping[str, Slots], unknown: Collection[str], floors: Mapping[Lane, int]
) -> list[Any]:
    """The parameters of ``ADMIT``."""
    bounded = [
        slots if slots.concurrency is None else slots._replace(concurrency=min(slots.concurrency, MOST))
        for slots in rules.values()
    ]
    said = [[*rules], *map(list, zip(*bounded, strict=True))] if rules else [[]] * 4
    lanes = [*map(list, zip(*((*lane, floor) for lane, floor in floors.items()), strict=True))] or [[]] * 3
    return [*said, *lanes, list(keys), list(unknown), most_of_each(keys), list(unknown)]


def _admitted(rows: Iterable[tuple[str, str, int]]) -> Admitted:
    found: dict[str, set[Any]] = {"lane": set(), "more": set(), "strange": set()}
    for what, name, priority in rows:
        found[what].add(Lane(name, priority) if what == "lane" else name)
    return Admitted(found["lane"], found["more"], found["strange"])


def _of_draw(key: str, job_id: int, fence: int | None, terms: Terms) -> list[Any]:
    """The parameters of ``DRAW``."""
    starts, period, burst, number, hold = terms
    least, most = STEPS
    return [
        *(key, name_of(key), key),
        *([burst, starts], [period * burst / starts, period], [*{number, 1}]),
        *(period / starts, least, most - least),
        *(key, job_id, fence, hold),
        *(key, starts, LONGEST, key),
    ]
