"""Numbers about jobs, queues and workers, for the admin and ``manage.py jobqueue status``. Read-only, and never a scan.

A count stops at ``CAP``, and each reads an index that holds only the rows it counts. The order that each asks for is
the order of its index: without it PostgreSQL may take a sequential scan for the shorter way to the first few rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.core.exceptions import EmptyResultSet
from django.db import connections
from django.db.models import BigIntegerField, Func, Q, QuerySet, Value
from django.db.models.functions import Now

from .models import Job, Pause, Queue, Worker
from .models.worker import ALIVE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from django.db.models.sql.compiler import SQLCompiler

#: Nobody decides anything by the difference between ten thousand jobs in line and a million; reading a million is slow.
CAP = 10_000
#: SQLite refuses a statement of more than 500 selects.
COUNTS_PER_STATEMENT = 200
#: So many concurrency keys are shown.
KEYS = 10
#: How long a lost worker is worth a mention.
RECENTLY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Count:
    """A number of rows: exact, or the least that it is (``capped``), or a guess (``estimated``)."""

    number: int
    capped: bool = False
    estimated: bool = False

    def __str__(self) -> str:
        return f"{'~' if self.estimated else ''}{self.number:,}{'+' if self.capped else ''}"


@dataclass(frozen=True, slots=True)
class QueueNumbers:
    name: str
    paused_at: datetime | None
    ready: Count
    scheduled: Count
    running: Count
    #: How long the job that has waited longest in line has done so; None: there is none.
    oldest_seconds: float | None
    #: Has a worker met the queue? Jobs in line in one that none has met may wait for ever.
    met: bool = True

    @property
    def paused(self) -> bool:
        return self.paused_at is not None


@dataclass(frozen=True, slots=True)
class WorkerNumbers:
    #: Running or stopping, with a good lease.
    alive: int
    #: Their lease is over, and nobody has given their jobs back yet.
    silent: int
    #: Found to be lost within ``RECENTLY``.
    lost: int
    #: The slots of those that are alive.
    slots: int


@dataclass(frozen=True, slots=True)
class Paused:
    """A task or a key that is paused."""

    kind: str
    name: str
    paused_at: datetime


@dataclass(frozen=True, slots=True)
class KeyNumbers:
    """A concurrency key for whose slots jobs wait."""

    name: str
    waiting: Count
    #: In line or running.
    slots: Count


@dataclass(frozen=True, slots=True)
class Overview:
    queues: tuple[QueueNumbers, ...]
    workers: WorkerNumbers
    #: By the words ready, scheduled, running, waiting, failed, cancelled, successful; None: cannot be had cheaply.
    totals: dict[str, Count | None]
    pauses: tuple[Paused, ...] = ()
    #: Some of the concurrency keys for whose slots jobs wait.
    keys: tuple[KeyNumbers, ...] = ()


def overview(using: str = "default") -> Overview:
    """Everything at once."""
    return Overview(queues(using), workers(using), totals(using), pauses(using), keys(using))


def totals(using: str = "default", cap: int = CAP) -> dict[str, Count | None]:
    """How many jobs there are of each kind."""
    jobs = Job.objects.using(using)
    kinds: dict[str, QuerySet[Job]] = {
        "ready": jobs.in_line().order_by("queue_name", "priority", "place"),
        "scheduled": jobs.scheduled().order_by("run_after"),
        "running": jobs.running().order_by("worker_id"),
        "waiting": jobs.filter(status=Job.Status.WAITING).order_by("id"),
        "failed": jobs.failed().order_by("id"),
        "cancelled": jobs.filter(status=Job.Status.CANCELLED).order_by("id"),
    }
    numbers = capped_counts(list(kinds.values()), using, cap)
    return {**dict(zip(kinds, numbers, strict=True)), "successful": _successful(using)}


def queues(using: str = "default", cap: int = CAP) -> tuple[QueueNumbers, ...]:
    """The queues that workers have met, and those in which a job is in line, by name."""
    paused = dict(Queue.objects.using(using).values_list("name", "paused_at"))
    oldest = _oldest(using)
    names = sorted(paused.keys() | oldest.keys())
    jobs = Job.objects.using(using)
    ready = capped_counts(
        [jobs.in_line().filter(queue_name=name).order_by("priority", "place") for name in names], using, cap
    )
    running = _count_by("queue_name", jobs.running().order_by("worker_id"), using, cap)
    scheduled = _count_by("queue_name", jobs.scheduled().order_by("run_after"), using, cap)
    return tuple(
        QueueNumbers(
            name, paused.get(name), in_line, scheduled.of(name), running.of(name), oldest.get(name), name in paused
        )
        for name, in_line in zip(names, ready, strict=True)
    )


def pauses(using: str = "default") -> tuple[Paused, ...]:
    """The paused tasks, and the paused keys."""
    rows = Pause.objects.using(using).in_force().order_by("-kind", "name")
    return tuple(Paused(*row) for row in rows.values_list("kind", "name", "paused_at"))


def keys(using: str = "default", limit: int = KEYS, cap: int = CAP) -> tuple[KeyNumbers, ...]:
    """The first concurrency keys, by name, for whose slots jobs wait."""
    jobs = Job.objects.using(using)
    in_order = jobs.waiting_for_slots().order_by("concurrency_key").values_list("concurrency_key", flat=True)
    names: list[str] = []
    name = in_order.first()
    while name is not None and len(names) < limit:
        names.append(name)
        name = in_order.filter(concurrency_key__gt=name).first()
    waiting = [jobs.waiting_for_slots().filter(concurrency_key=name).order_by("-priority", "id") for name in names]
    slots = [jobs.having_slots().filter(concurrency_key=name).order_by("status", "place") for name in names]
    numbers = capped_counts([*waiting, *slots], using, cap)
    return tuple(map(KeyNumbers, names, numbers, numbers[len(names) :]))


def workers(using: str = "default") -> WorkerNumbers:
    recently_lost = Q(status=Worker.Status.LOST, stopped_at__gte=Now() - RECENTLY)
    rows = Worker.objects.using(using).filter(Q(status__in=ALIVE) | recently_lost).annotate(now=Now())
    counts, slots = Counter[str](), 0
    for status, lease_until, now, its_slots in rows.values_list("status", "lease_until", "now", "slots"):
        state = "lost" if status == Worker.Status.LOST else "silent" if lease_until < now else "alive"
        counts[state] += 1
        slots += its_slots if state == "alive" else 0
    return WorkerNumbers(alive=counts["alive"], silent=counts["silent"], lost=counts["lost"], slots=slots)


def capped_counts(querysets: Sequence[QuerySet[Any]], using: str = "default", cap: int = CAP) -> list[Count]:
    """How many rows each queryset has, up to ``cap``, with one statement for all of them."""
    counts = [Count(0)] * len(querysets)
    for start in range(0, len(querysets), COUNTS_PER_STATEMENT):
        for position, number in _count_rows(querysets[start : start + COUNTS_PER_STATEMENT], using, cap):
            counts[start + position] = Count(min(number, cap), capped=number > cap)
    return counts


def _count_rows(querysets: Sequence[QuerySet[Any]], using: str, cap: int) -> list[tuple[int, int]]:
    parts: list[str] = []
    params: list[Any] = []
    for position, rows in enumerate(querysets):
        try:
            sql, values = _compile(rows.values_list(Value(1))[: cap + 1], using)
        except EmptyResultSet:  # a condition that no row can meet
            continue
        parts.append(f"SELECT {position}, COUNT(*) FROM ({sql}) counted")  # noqa: S608 - SQL that the ORM has written
        params += values
    return _fetch(" UNION ALL ".join(parts), params, using) if parts else []


@dataclass(frozen=True, slots=True)
class CountBy:
    """Counts by some value, and whether the counting stopped early."""

    numbers: dict[Any, int]
    capped: bool

    def of(self, value: Any) -> Count:
        return Count(self.numbers.get(value, 0), capped=self.capped)


def _count_by(field: str, rows: QuerySet[Job], using: str, cap: int) -> CountBy:
    """How many of the first ``cap`` rows have each value of the field."""
    sql, params = _compile(rows.values_list(field)[: cap + 1], using)
    grouped = f"SELECT {field}, COUNT(*) FROM ({sql}) counted GROUP BY {field}"  # noqa: S608 - as above
    numbers = dict(_fetch(grouped, params, using))
    return CountBy(numbers, capped=sum(numbers.values()) > cap)


# A lane is a queue and a priority. The recursion jumps from each to the next in the index of the jobs in line, and
# reads one entry per lane; DISTINCT would read them all. MariaDB takes another index for MIN(...) without ORDER BY.
HEADS = """
WITH RECURSIVE queues (name) AS (
    SELECT * FROM (SELECT queue_name FROM {in_line} {first}) AS first_queue
    UNION ALL
    SELECT (SELECT queue_name FROM {in_line} AND queue_name > queues.name {first})
    FROM queues WHERE queues.name IS NOT NULL
), lanes (name, priority) AS (
    SELECT queues.name, (SELECT priority FROM {in_line} AND queue_name = queues.name {first})
    FROM queues WHERE queues.name IS NOT NULL
    UNION ALL
    SELECT lanes.name,
        (SELECT priority FROM {in_line} AND queue_name = lanes.name AND priority > lanes.priority {first})
    FROM lanes WHERE lanes.priority IS NOT NULL
)
SELECT (SELECT id FROM {in_line} AND queue_name = lanes.name AND priority = lanes.priority {first})
FROM lanes WHERE lanes.priority IS NOT NULL
"""
IN_LINE = "{job} WHERE status = 'READY' AND place IS NOT NULL"
FIRST = "ORDER BY queue_name, priority, place LIMIT 1"


def _oldest(using: str) -> dict[str, float]:
    """Per queue, how many seconds the first job in line has waited, whichever of its priorities that is in."""
    oldest: dict[str, float] = {}
    for queue_name, enqueued_at, run_after, now in _heads(using):
        waiting_since = run_after if run_after and enqueued_at < run_after <= now else enqueued_at
        age = max(0.0, (now - waiting_since).total_seconds())
        oldest[queue_name] = max(age, oldest.get(queue_name, 0.0))
    return oldest


def _heads(using: str) -> Iterator[tuple[str, datetime, datetime | None, datetime]]:
    table = connections[using].ops.quote_name(Job._meta.db_table)
    statement = HEADS.format(in_line=IN_LINE.format(job=table), first=FIRST)
    ids = [row[0] for row in _fetch(statement, [], using)]
    rows = Job.objects.using(using).filter(pk__in=ids).annotate(now=Now())
    yield from rows.values_list("queue_name", "enqueued_at", "run_after", "now")


class TableEstimate(Func):
    """How many rows the database believes are in the table and in none of its partial indexes; NULL: no idea.

    PostgreSQL counts each index's entries whenever it vacuums or analyses the table. The others count nothing.
    """

    output_field = BigIntegerField()
    template = "NULL"

    def as_postgresql(self, compiler: SQLCompiler, connection: Any, **context: Any) -> Any:
        table = connection.ops.quote_name(Job._meta.db_table)
        return (
            "(SELECT c.reltuples - (SELECT COALESCE(SUM(GREATEST(i.reltuples, 0)), 0) FROM pg_index x"
            " JOIN pg_class i ON i.oid = x.indexrelid WHERE x.indrelid = c.oid AND x.indpred IS NOT NULL)"
            " FROM pg_class c WHERE c.oid = %s::regclass AND c.reltuples >= 0)",
            [table],
        )


def _successful(using: str) -> Count | None:
    compiler = Job.objects.using(using).query.get_compiler(using)
    sql, params = compiler.compile(TableEstimate())
    [[number]] = _fetch(f"SELECT {sql}", params, using)
    return None if number is None else Count(max(0, int(number)), estimated=True)


def _compile(rows: QuerySet[Any], using: str) -> tuple[str, Sequence[Any]]:
    sql, params = rows.query.get_compiler(using).as_sql()
    return sql, params


def _fetch(sql: str, params: Sequence[Any], using: str) -> list[Any]:
    with connections[using].cursor() as cursor:
        cursor.execute(sql, params or None)
        return list(cursor.fetchall())


@dataclass(frozen=True, slots=True)
class BatchNumbers:
    """How far a batch is: its jobs by status."""

    waiting: int = 0
    ready: int = 0
    running: int = 0
    successful: int = 0
    failed: int = 0
    cancelled: int = 0
    #: There are more jobs than were counted.
    capped: bool = False

    @property
    def done(self) -> int:
        return self.successful + self.failed + self.cancelled

    @property
    def total(self) -> int:
        return self.done + self.waiting + self.ready + self.running


def batches(ids: Sequence[int], using: str = "default", cap: int = CAP) -> dict[int, BatchNumbers]:
    """How far these batches are; each status is counted up to ``cap``."""
    jobs = Job.objects.using(using)
    pairs = [(pk, status) for pk in ids for status in Job.Status.values]
    counts = capped_counts(
        [jobs.filter(batch=pk, status=status).order_by("batch_id", "status") for pk, status in pairs], using, cap
    )
    found: dict[int, dict[str, Any]] = {pk: {} for pk in ids}
    for (pk, status), count in zip(pairs, counts, strict=True):
        found[pk][status.lower()] = count.number
        found[pk]["capped"] = found[pk].get("capped", False) or count.capped
    return {pk: BatchNumbers(**numbers) for pk, numbers in found.items()}
