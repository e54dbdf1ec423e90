"""PostgreSQL: one statement to claim a batch, one to finish it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter

from ...models import Job, UniqueKey
from ...models.fields import TELLABLE
from ..base import CLAIMED, Dialect
from ..records import ANY, Ending, Filter, Lane, Success, as_document
from ..tables import ATTEMPT, JOB, QUEUE, UNIQUE_KEY
from .arrays import array, quoted
from .enqueue import PostgreSQLEnqueue
from .limits import PostgreSQLLimits

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
CLAIM = f"""
WITH {{picked}}
UPDATE {JOB} AS job
SET status = 'RUNNING', attempts = attempts + 1, tries = tries + 1, worker_id = %s, fence = %s,
    started_at = clock_timestamp()
FROM picked WHERE job.ctid = picked.tid
RETURNING {", ".join(TELLABLE.format("job.run_after") if name == "run_after" else f"job.{name}" for name in CLAIMED)}
"""
# Most often there is one lane, and an idle worker is told of one: to read it alone takes a fifth less time.
FROM_LANE = f"""
picked AS MATERIALIZED (
    SELECT ctid AS tid FROM {JOB}
    WHERE status = 'READY' AND place IS NOT NULL AND place {{reach}} %s AND queue_name = %s AND priority = %s
      AND (SELECT q.paused_at FROM {QUEUE} AS q WHERE q.name = %s) IS NULL {{only}}
    ORDER BY place LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
)
"""
FROM_LANES = f"""
lane AS MATERIALIZED (
    SELECT * FROM unnest(%s::text[], %s::smallint[], %s::bigint[]) AS lane(queue_name, priority, floor)
    WHERE (SELECT q.paused_at FROM {QUEUE} AS q WHERE q.name = lane.queue_name) IS NULL
), picked AS MATERIALIZED (
    SELECT head.tid FROM lane CROSS JOIN LATERAL (
        SELECT ctid AS tid FROM {JOB}
        WHERE status = 'READY' AND place IS NOT NULL AND place {{reach}} lane.floor
          AND queue_name = lane.queue_name AND priority = lane.priority {{only}}
        ORDER BY place LIMIT %s FOR NO KEY UPDATE SKIP LOCKED
    ) AS head LIMIT %s
)
"""


@lru_cache(maxsize=16)
def claim_statement(picked: str, isolated: bool, only: str) -> str:
    return CLAIM.format(picked=picked.format(reach="<" if isolated else ">=", only=only))


# The fence alone tells whose the row is: it is drawn at random for each claim and cleared by whatever ends the attempt.
# A condition on the status would invite the planner to the index of running jobs, which is full of dead entries.
FINISH = f"""
WITH ended AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(%s::jsonb) AS ended(
        id bigint, fence bigint, worker_id bigint, waited float8, took float8, status text, final boolean, place text,
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
        fence = NULL
    FROM ended WHERE job.id = ended.id AND job.fence = ended.fence
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
        AS ended(id, fence, worker_id, waited, took, result)
), written AS (
    UPDATE {JOB} AS job SET
        status = 'SUCCESSFUL',
        started_at = job.started_at + ended.waited * interval '1 microsecond',
        finished_at = clock_timestamp(),
        result = ended.result::jsonb,
        worker_id = NULL,
        fence = NULL
    FROM ended WHERE job.id = ended.id AND job.fence = ended.fence
    RETURNING job.id, job.attempts AS number, ended.worker_id, job.started_at,
        job.started_at + (ended.took - ended.waited) * interval '1 microsecond' AS finished_at
), attempt AS (
    INSERT INTO {ATTEMPT}
        (job_id, number, worker_id, started_at, finished_at, outcome, message, exception_class_path, traceback)
    SELECT id, number, worker_id, started_at, finished_at, 'succeeded', '', '', '' FROM written
)
SELECT id FROM written
"""


class PostgreSQL(PostgreSQLEnqueue, PostgreSQLLimits, Dialect):
    seconds_until = f"EXTRACT(EPOCH FROM {TELLABLE} - CLOCK_TIMESTAMP())"

    def lanes(self) -> list[Lane]:
        return [Lane(*row) for row in self._rows(LANES)]

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
        if not lanes:
            return []
        floors = list(floors) if floors and not isolated else [0] * len(lanes)
        if len(lanes) == 1:
            ((name, priority),) = lanes
            picked, params = FROM_LANE, [*floors, name, priority, name, *only.params, limit]
        else:
            names, priorities = map(list, zip(*lanes, strict=True))
            picked, params = FROM_LANES, [names, priorities, floors, *only.params, limit, limit]
        sql = claim_statement(picked, isolated, only.sql)
        params += [worker_id, fence]
        jobs = [
            self._claimed(row, worker_id, fence) for row in self.again_after_collision(lambda: self._rows(sql, params))
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
        ids, fences, workers, _, _, waited, took, results = zip(*ordered, strict=True)
        arrays = [
            *(array(map(str, numbers)) for numbers in (ids, fences, workers)),
            *(array([str(int(seconds * 1_000_000)) for seconds in times]) for times in (waited, took)),
            array(map(quoted, results)),
        ]
        return {pk for (pk,) in self.again_after_collision(lambda: self._rows(SUCCEED, arrays))}

    def lock_keys(self, keys: Sequence[str]) -> list[UniqueKey]:
        """One key is locked without a new version of its row: under an old snapshot all versions would have to be read
        each time. Many at once are locked in one order, which takes the portable statement.
        """
        if len(keys) > 1:
            return super().lock_keys(keys)
        return list(UniqueKey.objects.using(self.using).raw(LOCK_KEY, [*keys, *keys]))
