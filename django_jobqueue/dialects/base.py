"""Dialect: everything in portable SQL. Each database overrides what it does better."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

from django.conf import settings
from django.core.exceptions import EmptyResultSet, FullResultSet
from django.db import transaction
from django.db.models import Case, F, Q, QuerySet, Value, When
from django.db.models.base import ModelState
from django.db.models.functions import Now

from ..models import Job, UniqueKey
from ..models.fields import NextPlace
from ..models.job import READY_OR_IN_WAITING, defaults
from .limits import Limits
from .records import ANY, Ending, Filter, Lane, Peek, Release, Success
from .session import Row
from .tables import ATTEMPT, DEPENDENCY, FOR_A_SLOT, JOB, PAUSE, QUEUE, UNIQUE_KEY

#: What a claim brings back. JSON stays text: it is decoded where a job is run, so that one bad row spoils no batch.
CLAIMED = (
    "id place enqueued_at run_after started_at cancel_requested_at priority max_attempts attempts tries losses "
    "queue_name backend task_path args kwargs options has_dependents concurrency_key"
).split()
#: What an enqueue writes. All but the last three are alike for the calls of one task, or of one of its keys.
COLUMNS_OF_TASK = (
    "enqueued_at run_after priority max_attempts status queue_name backend task_path batch_id waiting_for "
    "has_dependents concurrency_key"
).split()
DATA = ["args", "kwargs", "options"]
ENQUEUED = [*COLUMNS_OF_TASK, *DATA]
of_task = attrgetter(*COLUMNS_OF_TASK)
#: And what is 0 for every new job.
ZEROS = ["attempts", "tries", "losses"]

FINISH_JOB = (
    f"UPDATE {JOB} SET status=%s, place=%s, tries=%s, losses=%s, queue_name=%s, priority=%s, started_at=%s, "
    "finished_at=%s, run_after=%s, result=%s, prune_at=%s, result_until=%s, worker_id=NULL, fence=NULL WHERE id=%s"
)
# The order leads PostgreSQL to the partial index: without it the planner may begin with the table, where all that has
# finished lies in front.
PEEK = f"""
SELECT (SELECT 1 FROM {JOB} WHERE status = 'READY' AND place IS NOT NULL ORDER BY queue_name, priority, place LIMIT 1),
    (SELECT {{seconds}} FROM {JOB} WHERE status = 'READY' AND place IS NULL ORDER BY run_after LIMIT 1),
    (SELECT 1 FROM {JOB} WHERE {{has_dependents}} AND finished_at IS NOT NULL ORDER BY id LIMIT 1),
    (SELECT 1 FROM {PAUSE} WHERE kind = 'task' AND resumed_at IS NULL LIMIT 1),
    (SELECT 1 FROM {JOB} WHERE {FOR_A_SLOT} ORDER BY concurrency_key, priority DESC, id LIMIT 1)
"""
#: The queue may have been paused since the lanes were looked for.
NOT_PAUSED = f"AND NOT EXISTS (SELECT 1 FROM {QUEUE} WHERE name = %s AND paused_at IS NOT NULL)"
NOTE_END = f"UPDATE {DEPENDENCY} SET status = %s WHERE on_id = %s AND job_id = %s"
SUCCEED_JOB = (
    f"UPDATE {JOB} SET status='SUCCESSFUL', started_at=%s, finished_at=%s, result=%s, worker_id=NULL, fence=NULL "
    "WHERE id=%s AND fence=%s"
)
#: One for each job, from the end of its attempts back.
LATEST_ATTEMPT = f"""
SELECT * FROM (
    SELECT job_id, number FROM {ATTEMPT} WHERE job_id = %s ORDER BY number DESC LIMIT 1 OFFSET %s
) AS latest{{number}}
"""
ADD_ATTEMPT = (
    f"INSERT INTO {ATTEMPT} (job_id, number, worker_id, started_at, finished_at, outcome, message, "
    "exception_class_path, traceback, log) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
)


class _Fenced(Exception):
    """A row is not ours any more."""


class Held(NamedTuple):
    """What ``finish`` reads of a job before it writes."""

    id: int
    fence: int | None
    attempts: int
    tries: int
    losses: int
    started_at: datetime
    run_after: datetime | None
    cancel_requested_at: datetime | None
    place: int | None
    queue_name: str
    priority: int


class Dialect(Limits):
    """The statements that move jobs, for one database alias. Complete for any database with SKIP LOCKED."""

    #: The time by the database's clock, in SQL.
    now: ClassVar[str] = "CURRENT_TIMESTAMP(6)"
    #: How many seconds from now a time is, in SQL.
    seconds_until: ClassVar[str] = "TIMESTAMPDIFF(MICROSECOND, CURRENT_TIMESTAMP(6), {}) / 1000000"
    #: "Does any job wait for this one?", as the conditions of partial indexes have it.
    has_dependents: ClassVar[str] = "has_dependents IN (TRUE)"
    #: Behind the table's name: rows are found by their ids, so that no others are locked on the way.
    by_id: ClassVar[str] = ""
    #: The same, where they are found by their line.
    by_line: ClassVar[str] = ""

    # -- enqueue ---------------------------------------------------------------------------------

    def insert(self, jobs: list[Job]) -> None:
        """Insert in the caller's transaction, all or none, and give each job its id."""
        for job in jobs:
            job.decode()
        if len(jobs) == 1:
            jobs[0].save(using=self.using, force_insert=True)
            return
        with transaction.atomic(using=self.using):
            for job in jobs:
                job.save(using=self.using, force_insert=True)

    def check_fits(self, what: str, text: str) -> None:
        """Raise ``DataError`` if the server would hang up on who sends it this JSON text, rather than refuse it."""

    def _values(self, job: Job) -> list[Any]:
        """What is written to the columns ``ENQUEUED``."""
        enqueued_at, run_after, *others = of_task(job)
        adapt = self.connection.ops.adapt_datetimefield_value
        return [adapt(enqueued_at), adapt(run_after), *others, *data_of(job)]

    def _inserted(self, jobs: Sequence[Job], ids: Iterable[int]) -> None:
        """The jobs have got these ids."""
        for job, number in zip(jobs, ids, strict=True):
            job.is_inserted(number, self.using)
        forget_places(jobs)

    def insert_telling(self, job: Job, lane: Lane, takes_turn: Callable[[str], bool]) -> bool:
        """``insert`` for one job of this lane; does its commit wake the workers, or are they still to be told?

        ``takes_turn``, with the database's alias, says whether it may.
        """
        self.insert([job])
        return False

    def lock_keys(self, keys: Sequence[str]) -> list[UniqueKey]:
        """The rows of the unique keys, locked in the order given; a new one is no job's yet.

        Another transaction that has locked one of them, or made it, is waited for.
        """
        rows = ", ".join(["(%s, 0, FALSE)"] * len(keys))
        # An update of nothing is what locks a row that is there, and tells what it is now, in one statement.
        sql = (
            f"INSERT INTO {UNIQUE_KEY} (key, job_id, until_started) VALUES {rows} "
            f"ON CONFLICT (key) DO UPDATE SET job_id = {UNIQUE_KEY}.job_id RETURNING key, job_id, until_started, until"
        )
        return list(UniqueKey.objects.using(self.using).raw(sql, keys))

    # -- claim -----------------------------------------------------------------------------------

    def peek(self) -> Peek:
        """All that an idle worker asks."""
        sql = PEEK.format(seconds=self.seconds_until.format("run_after"), has_dependents=self.has_dependents)
        ((in_line, due_in, ended, paused, limited),) = self._rows(sql)
        due_in = None if due_in is None else float(due_in)
        return Peek(bool(in_line), due_in, bool(paused), bool(ended), bool(limited))

    def lanes(self) -> list[Lane]:
        """The lanes that have jobs in line, found by leaping from one to the next in the index."""
        found: list[Lane] = []
        ordered = Job.objects.using(self.using).in_line().order_by("queue_name", "priority")
        in_line = ordered.values_list("queue_name", "priority")
        lane = in_line.first()
        while lane:
            found.append(Lane(*lane))
            # two questions: with an OR between them the index would be read from its beginning
            queue_name, priority = lane
            lane = in_line.filter(queue_name=queue_name, priority__gt=priority).first()
            lane = lane or in_line.filter(queue_name__gt=queue_name).first()
        return found

    def next_place(self) -> int:
        """A place in line that is behind all that were drawn before."""
        sql, params = Job.objects.using(self.using).query.get_compiler(self.using).compile(NextPlace())
        ((place,),) = self._rows(f"SELECT {sql}", params)
        return int(place)

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
        """Take up to ``limit`` jobs from the lanes in their order; each is running and ours when this returns.

        ``floors`` are the places from which to look on, one for each lane: what is below is taken to be done with.
        ``isolated`` takes from the jobs that must run alone instead, ``only`` leaves out what does not meet it.
        """
        heads = list(zip(lanes, floors or [0] * len(lanes), strict=True))

        def take() -> list[Row]:
            rows: list[Row] = []
            for lane, floor in heads:
                if len(rows) < limit:
                    rows += self._lock(lane, limit - len(rows), floor, isolated, only)
            if rows:
                self._mark_running(rows, worker_id, fence)
            return rows

        return [self._taken(row, worker_id, fence) for row in self.transact(take)]

    def _lock(self, lane: Lane, limit: int, floor: int, isolated: bool, only: Filter) -> list[Row]:
        line = (
            f"SELECT {', '.join(CLAIMED)}, {self.now} FROM {JOB} {self.by_line} WHERE status = 'READY' "
            f"AND place IS NOT NULL AND queue_name = %s AND priority = %s AND place {'<' if isolated else '>='} %s "
            f"{NOT_PAUSED} {only.sql} ORDER BY place, id LIMIT %s FOR UPDATE SKIP LOCKED"
        )
        return self._rows(line, [*lane, 0 if isolated else floor, lane.queue_name, *only.params, limit])

    def compiled(self, jobs: QuerySet[Job]) -> Filter | None:
        """The conditions of the queryset, for ``claim``; None if no job can meet them.

        Raise ``ValueError`` for a queryset that has more than conditions on the job's own columns.
        """
        query = jobs.query
        compiler = query.get_compiler(self.using)
        try:
            compiler.pre_sql_setup()
            sql, params = compiler.compile(query.where) if query.where else ("", ())
        except EmptyResultSet:
            return None
        except FullResultSet:
            return ANY
        if query.is_sliced or query.combinator or query.distinct or [*query.alias_refcount] != [JOB]:
            raise ValueError("What a worker claims can only be narrowed by conditions on the columns of the job.")
        return Filter(f"AND ({sql})", tuple(params)) if sql else ANY

    def latest_attempts(self, ids: Sequence[int], most: int) -> dict[int, int]:
        """The number of each job's attempt with which the latest of them begin, so many; 0 if it has fewer."""
        sql = " UNION ALL ".join(LATEST_ATTEMPT.format(number=number) for number in range(len(ids)))
        rows = self._rows(sql, [value for pk in ids for value in (pk, most - 1)])
        return dict.fromkeys(ids, 0) | {pk: number for pk, number in rows}  # noqa: C416

    def _mark_running(self, rows: Sequence[Row], worker_id: int, fence: int) -> None:
        ids = ", ".join(str(row[0]) for row in rows)
        with self.connection.cursor() as cursor:
            cursor.execute(
                f"UPDATE {JOB} {self.by_id} SET status = 'RUNNING', attempts = attempts + 1, tries = tries + 1, "
                f"worker_id = %s, fence = %s, started_at = %s WHERE id IN ({ids})",
                [worker_id, fence, rows[0][-1]],
            )

    def _taken(self, row: Row, worker_id: int, fence: int) -> Job:
        """The job of a row that ``_lock`` has read, as it is after the claim."""
        *values, now = map(self._zoned, row)
        job = self._claimed(values, worker_id, fence)
        job.attempts, job.tries, job.started_at = job.attempts + 1, job.tries + 1, now
        return job

    def _claimed(self, row: Row, worker_id: int, fence: int) -> Job:
        """The job of a row of ``CLAIMED``, as it is after the claim."""
        columns = zip(CLAIMED, row, strict=True)
        return Job.of(
            columns, self.using, status="RUNNING", worker_id=worker_id, fence=fence, finished_at=None, result=None
        )

    def _zoned(self, value: Any) -> Any:
        """What a model's field would do: these databases store times in UTC and do not say so."""
        if isinstance(value, datetime) and settings.USE_TZ:
            return value.replace(tzinfo=UTC)
        return value

    def promote(self, limit: int) -> int:
        """Put the scheduled jobs that are due in line; how many."""

        def move() -> int:
            due = Job.objects.using(self.using).due()
            if self.connection.features.has_select_for_update_skip_locked:
                due = due.select_for_update(skip_locked=True)
            ids = list(due.order_by("run_after").values_list("pk", flat=True)[:limit])
            ready = Job.objects.using(self.using).filter(pk__in=ids, status=Job.Status.READY)
            return ready.update(place=NextPlace(), status=READY_OR_IN_WAITING) if ids else 0

        return self.transact(move)

    # -- finish ----------------------------------------------------------------------------------

    def finish(self, endings: Sequence[Ending]) -> dict[int, str]:
        """Write the ends of attempts, the jobs' rows and the attempts' together; ``{id: status}`` of those written.

        What is missing from the answer was fenced off: its fence is no longer the row's, the attempt was lost.
        """
        return self.transact(lambda: self._finish(endings))

    def succeed(self, successes: Sequence[Success]) -> set[int]:
        """``finish`` for attempts that went well; the ids of those written."""
        ordered = sorted(successes)
        try:
            self.transact(lambda: self._succeed(ordered))
        except _Fenced:
            return set(self.finish([success.ending() for success in ordered]))
        return {success.id for success in ordered}

    def _succeed(self, successes: Sequence[Success]) -> None:
        """Write all of them without a look at the rows first. Raise ``_Fenced`` if one of them is not ours any more."""
        times = [(self._stored(success.began), self._stored(success.ended)) for success in successes]
        with self.connection.cursor() as cursor:
            if self._mark_successful(cursor, successes, times) != len(successes):
                raise _Fenced
            cursor.executemany(
                ADD_ATTEMPT,
                [
                    (success.id, success.attempts, success.worker_id, began, ended, "succeeded", "", "", "", None)
                    for success, (began, ended) in zip(successes, times, strict=True)
                ],
            )

    def _mark_successful(self, cursor: Any, successes: Sequence[Success], times: Sequence[tuple[str, str]]) -> int:
        """Update the jobs' rows; how many were still ours."""
        cursor.executemany(
            SUCCEED_JOB,
            [
                (began, ended, success.result, success.id, success.fence)
                for success, (began, ended) in zip(successes, times, strict=True)
            ],
        )
        return int(cursor.rowcount)

    def _stored(self, moment: datetime) -> str:
        """The time as it is stored: Django's own way takes longer than all else that is done for the row."""
        return moment.replace(tzinfo=None).isoformat(" ")

    def _finish(self, endings: Sequence[Ending]) -> dict[int, str]:
        rows = Job.objects.using(self.using).filter(pk__in=[ending.id for ending in endings]).order_by("pk")
        if self.connection.features.has_select_for_update:
            rows = rows.select_for_update()
        held = {row[0]: Held(*row) for row in rows.values_list(*Held._fields)}
        ours = [ending for ending in endings if ending.id in held and held[ending.id].fence == ending.fence]
        if not ours:
            return {}
        jobs, attempts = zip(*(self._rows_of(ending, held[ending.id]) for ending in ours), strict=True)
        with self.connection.cursor() as cursor:
            cursor.executemany(FINISH_JOB, jobs)
            cursor.executemany(ADD_ATTEMPT, attempts)
        if moved := [ending.id for ending in ours if ending.fields.place == "next"]:
            ready = Job.objects.using(self.using).filter(pk__in=moved, status=Job.Status.READY)
            ready.update(place=NextPlace())
        return {row[-1]: row[0] for row in jobs}

    def _rows_of(self, ending: Ending, held: Held) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The parameters of ``FINISH_JOB`` and of ``ADD_ATTEMPT`` for one ending."""
        fields, when = ending.fields, self.connection.ops.adapt_datetimefield_value
        cancelled = held.cancel_requested_at is not None and not fields.final
        over = cancelled or fields.final
        began = held.started_at + timedelta(seconds=ending.waited)
        ended = held.started_at + timedelta(seconds=ending.took)
        place, run_after = held.place, held.run_after
        if fields.place == "none":
            place, run_after = None, _moment(fields.run_after) or ended + timedelta(seconds=fields.delay)
        elif fields.place == "isolate":
            place = -abs(held.place or 1)
        result = None if fields.result is None else json.dumps(fields.result)
        self.check_fits("A result", result or "")
        job = (
            "CANCELLED" if cancelled else fields.status,
            place,
            held.tries - (not fields.counted),
            held.losses + fields.lost,
            fields.queue_name or held.queue_name,
            held.priority if fields.priority is None else fields.priority,
            when(began),
            when(ended if over else None),
            when(run_after),
            result,
            when(_after(ended, fields.keep) if over else None),
            when(_after(ended, fields.result_ttl) if over else None),
            ending.id,
        )
        attempt = (
            ending.id,
            held.attempts,
            ending.worker_id,
            when(began),
            when(ended),
            "cancelled" if cancelled else str(ending.outcome),
            ending.message,
            ending.exception_class_path,
            ending.traceback,
            ending.log,
        )
        return job, attempt

    def note_ends(self, ends: Sequence[tuple[str, int, int]]) -> None:
        """Write down who has heard of what: the status of the one that has ended, its number, and the listener's."""
        with self.connection.cursor() as cursor:
            cursor.executemany(NOTE_END, ends)

    def release(self, releases: Sequence[Release]) -> int:
        """Give claimed jobs back that were not started: no attempt is counted or recorded; how many were ours."""
        ids: dict[tuple[int, float, float | None], list[int]] = {}
        for release in releases:
            ids.setdefault((release.fence, release.delay, release.keep), []).append(release.id)
        return self.transact(lambda: sum(self._release(*how, some) for how, some in ids.items()))

    def _release(self, fence: int, delay: float, keep: float | None, ids: list[int]) -> int:
        changes: dict[str, Any] = {"place": None, "run_after": Now() + timedelta(seconds=delay)} if delay else {}
        asked = Q(cancel_requested_at__isnull=False)
        if keep is not None:
            changes["prune_at"] = Case(When(asked, then=Now() + timedelta(seconds=keep)), default=None)
        return (
            Job.objects.using(self.using)
            .filter(pk__in=ids, fence=fence)
            .update(
                status=Case(When(asked, then=Value(Job.Status.CANCELLED)), default=Value(Job.Status.READY)),
                finished_at=Case(When(asked, then=Now()), default=None),
                attempts=F("attempts") - 1,
                tries=F("tries") - 1,
                worker=None,
                fence=None,
                started_at=None,
                **changes,
            )
        )


def _after(moment: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else moment + timedelta(seconds=seconds)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def as_json(value: Any) -> str | None:
    """The JSON text of a column's value, which may be text already."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def data_of(job: Job) -> tuple[str | None, ...]:
    """The columns of ``DATA`` as text."""
    return as_json(job.args), as_json(job.kwargs), as_json(job.options)


def forget_insert(jobs: Sequence[Job]) -> None:
    """The jobs were inserted in a transaction that was rolled back, or not at all: they are to be inserted again."""
    default = defaults()["place"]
    for job in jobs:
        columns = job.__dict__
        columns["id"], columns["_state"] = None, ModelState()
        if columns.get("place", default) is not None:
            columns["place"] = default


def forget_places(jobs: Sequence[Job]) -> None:
    """The database has given places that this process has not read: they are loaded on first use."""
    for job in jobs:
        if job.place is not None:
            del job.__dict__["place"]
