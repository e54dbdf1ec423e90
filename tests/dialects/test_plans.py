"""Every statement that a worker repeats finds its index, with 200,000 jobs in the table, and an old snapshot costs it
nothing.
"""

from __future__ import annotations

import json
from contextlib import closing
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction
from django.db.models import CharField, F, Value
from django.db.models.functions import Cast, Concat, Now
from django.utils import timezone

from django_jobqueue import chain, enqueue_many, group
from django_jobqueue.dialects import Ending, Fields, Lane, Release, Success, Terms, get_dialect
from django_jobqueue.dialects.base import Dialect
from django_jobqueue.dialects.postgresql.limits import LOCK_ALL
from django_jobqueue.keys import Slots
from django_jobqueue.lifecycle import (
    Pruner,
    QueueSelector,
    Retried,
    admit,
    cancel_batch,
    control,
    find_strays,
    fire,
    follow_up,
    pause,
    pause_schedule,
    portions,
    reap,
    register,
    renew,
    resume,
    resume_schedule,
    retime_schedule,
    retry_all,
    retry_batch,
    return_held,
    run_schedule_now,
    unique,
    upcoming,
)
from django_jobqueue.lifecycle.changes import CANCEL, RETRY, to_priority, to_queue, to_time
from django_jobqueue.lifecycle.claim import held_by, isolated_waiting
from django_jobqueue.lifecycle.deletion import _locked_keys as locked_keys
from django_jobqueue.lifecycle.lease import cancel_requests
from django_jobqueue.lifecycle.pauses import held_back
from django_jobqueue.lifecycle.reap import is_anything_to_reap
from django_jobqueue.models import Attempt, Batch, Dependency, Job, Limit, Pause, Permit, Schedule, UniqueKey
from django_jobqueue.worker.lanes import Lanes

from ..admin.plans import EXPLAIN, TABLES, analyse
from ..tasks import echo, noop

DEFAULT, FENCE, WORKER = Lane("default", 0), 2**62 + 1, 7

FILL = f"""
INSERT INTO {Job._meta.db_table} (enqueued_at, finished_at, status, place, run_after, queue_name, priority,
    max_attempts, attempts, tries, losses, backend, task_path, args, kwargs)
WITH digit(n) AS (
    SELECT 0 UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4
    UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9
)
SELECT CURRENT_TIMESTAMP, {{finished}}, '{{status}}', {{place}}, {{run_after}}, 'default', 0,
    1, 0, 0, 0, 'default', 'tests.tasks.noop', '[]', '{{{{}}}}'
FROM digit a, digit b, digit c, digit d, digit e
WHERE a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n < {{number}}
"""


def fill(number: int, status: str, *, place="NULL", run_after="NULL", finished="NULL") -> None:
    with connection.cursor() as cursor:
        cursor.execute(FILL.format(number=number, status=status, place=place, run_after=run_after, finished=finished))


@pytest.fixture
def full_table(transactional_db):
    """Emptied afterwards: what a rollback would leave in table and indexes leads the planner astray in other tests."""
    fill_table()


def fill_table() -> None:
    place = "a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 10000 * e.n + 1"
    fill(100_000, "SUCCESSFUL", place=place, finished="CURRENT_TIMESTAMP")
    fill(80_000, "READY", place=place)
    fill(20_000, "READY", run_after="'2038-01-01 00:00:00'")
    listed = "1" if connection.vendor == "mysql" else "TRUE"
    with connection.cursor() as cursor:  # what was waited for once
        cursor.execute(
            f"INSERT INTO {Dependency._meta.db_table} (on_id, job_id, rule, listed, status) "
            f"SELECT id - 1, id, 'cancel', {listed}, 'SUCCESSFUL' FROM {Job._meta.db_table} "
            "WHERE status = 'SUCCESSFUL' ORDER BY id LIMIT 20000"
        )
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT setval('django_jobqueue_place', 1000000)")  # behind those
    analyse()


@pytest.fixture
def explained(monkeypatch):
    """What is wrong with the plans of the statements that were run: a list to look at."""
    found, seen = [], []

    def explain(cursor, sql, params):
        if any(table in sql for table in TABLES) and sql.lstrip().upper().startswith(
            ("SELECT", "WITH", "UPDATE", "DELETE")
        ):
            seen.append(sql)
            if fault := EXPLAIN[connection.vendor](cursor, sql, params):
                found.append(f"{fault}\n{sql}")

    def through_django(execute, sql, params, many, context):
        if not many:
            explain(context["cursor"].cursor, sql, params)
        return execute(sql, params, many, context)

    rows = type(get_dialect("default"))._rows

    def beside_django(self, sql, params=()):
        if connection.vendor == "postgresql":  # Django's cursor and its wrappers are not used there
            with connection.cursor() as cursor:
                explain(cursor.cursor, sql, list(params))
        return rows(self, sql, params)

    if connection.vendor == "postgresql":
        at_once = type(get_dialect("default"))._send_at_once

        def explain_first(self, names, sql, params):
            with connection.cursor() as cursor:
                explain(cursor.cursor, LOCK_ALL, [names, len(names)])
                explain(cursor.cursor, sql, params)
            return at_once(self, names, sql, params)

        monkeypatch.setattr(type(get_dialect("default")), "_send_at_once", explain_first)
    monkeypatch.setattr(type(get_dialect("default")), "_rows", beside_django)
    with connection.execute_wrapper(through_django):
        yield found
    assert len(seen) > 5


def test_g14_every_statement_of_a_worker_finds_its_index(full_table, explained):
    dialect = get_dialect("default")
    worker = register("default", queues=[], slots=1, lease=30)
    jobs = dialect.claim([DEFAULT], 100, worker.pk, FENCE)
    jobs += dialect.claim([DEFAULT], 100, worker.pk, FENCE, floors=[jobs[-1].place])
    assert len(jobs) == 200
    mail = Lane("mail", 5)
    Job.objects.filter(pk__in=[job.pk for job in jobs[:20]]).update(status="READY", queue_name="mail", priority=5)
    assert len(dialect.claim([mail, DEFAULT], 30, worker.pk, FENCE, floors=[0, jobs[-1].place])) == 30
    dialect.claim([DEFAULT], 1, worker.pk, FENCE, isolated=True)
    dialect.claim([DEFAULT, mail], 1, worker.pk, FENCE, isolated=True)
    held_by(worker.pk, "default")
    Job.objects.filter(pk=jobs[0].pk).update(cancel_requested_at=Now())
    assert cancel_requests(worker.pk, "default") == [jobs[0].pk]
    dialect.succeed([Success(job.pk, FENCE, worker.pk, 1, job.started_at, 0, 0, None) for job in jobs[:100]])
    again = Fields(status="READY", final=False, place="none", delay=5.0)
    dialect.finish([Ending(job.pk, FENCE, worker.pk, 0, 0, again, "retrying") for job in jobs[100:150]])
    dialect.release([Release(job.pk, FENCE) for job in jobs[150:]])
    assert dialect.lanes() == [DEFAULT]
    assert dialect.peek()[0] is True
    isolated_waiting([DEFAULT], "default")
    Job.objects.filter(pk__in=[job.pk for job in jobs[100:110]]).update(run_after=Now() - timedelta(seconds=1))
    assert dialect.promote(100) == 10
    renew(worker.pk, "default", lease=30)
    assert not is_anything_to_reap("default")
    reap("default")
    assert explained == []


@pytest.mark.skipif(connection.vendor != "postgresql", reason="nothing is prepared there")
def test_g14_the_plans_that_a_worker_keeps_are_made_once_and_find_their_indexes(queue_db, monkeypatch):
    """Made while there was hardly anything, they must do for a full table too."""
    dialect = get_dialect("default")
    monkeypatch.setattr(dialect, "direct", True)
    rules = {"tests.tasks.noop": Slots(2)}
    with dialect.session():
        for _ in range(8):
            fill(3, "READY", place="nextval('django_jobqueue_place')")
            fill(3, "WAITING", place="nextval('django_jobqueue_place')")
            Job.objects.filter(status="WAITING").update(concurrency_key="crew")
            dialect.admit(["crew"], rules, [], {})
            jobs = dialect.claim([DEFAULT], 10, WORKER, FENCE)
            dialect.succeed([Success(job.pk, FENCE, WORKER, 1, job.started_at, 0, 0, None) for job in jobs[1:]])
            again = Fields(status="READY", final=False, place="none", delay=5.0)
            dialect.finish([Ending(jobs[0].pk, FENCE, WORKER, 0, 0, again, "retrying")])
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT name, cardinality(parameter_types), custom_plans, statement FROM pg_prepared_statements"
            )
            kept = [row for row in cursor.fetchall() if any(table in row[3] for table in TABLES)]
            assert len(kept) >= 4, "claim, succeed, finish, admit"
            for name, number, custom, statement in kept:
                assert custom == 0, statement
                cursor.execute(f"EXPLAIN EXECUTE {name}({', '.join(['NULL'] * number)})")
                plan = "\n".join(line for (line,) in cursor.fetchall())
                assert f"Seq Scan on {Job._meta.db_table}" not in plan, plan


def test_g14_those_who_wait_are_found_by_an_index(full_table, explained, monkeypatch):
    """Beside many that wait for something else, and many that have ended and were told of."""
    monkeypatch.setattr(
        "django_jobqueue.lifecycle.follow.CHUNK", 20
    )  # as a part of the table what 500 are of a big one
    first = noop.enqueue()
    others = Dependency.objects.order_by("job_id").values_list("job_id", flat=True)[:500]
    Job.objects.filter(pk__in=list(others)).update(status="WAITING", place=None, waiting_for=1)
    Dependency.objects.filter(job__in=list(others)).update(status=None)
    Batch.objects.bulk_create([Batch(created_at=timezone.now()) for _ in range(5000)])
    enqueued = chain(noop.si(), group(noop.si(), noop.si()), noop.si()).enqueue()
    for result in enqueued[:2]:
        Job.objects.filter(pk=result.id).update(status="SUCCESSFUL", finished_at=Now())
    analyse()
    explained.clear()  # what the planner did while the tables were empty
    noop.using(after=first).enqueue()
    dialect = get_dialect("default")
    assert dialect.peek().ended
    follow_up("default")
    assert not dialect.peek().ended
    assert find_strays("default") > 0
    cancel_batch(enqueued.batch_id)
    retry_batch(enqueued.batch_id)
    assert explained == []


@pytest.fixture
def old_jobs(transactional_db):
    """In front of a full table: of each status, and some that say how long they or their results are kept."""
    long_ago = timezone.now() - timedelta(days=30)
    kinds = [
        {"status": "SUCCESSFUL"},
        {"status": "FAILED"},
        {"status": "CANCELLED"},
        {"status": "SUCCESSFUL", "prune_at": long_ago},
        {"status": "SUCCESSFUL", "prune_at": timezone.now() + timedelta(days=30)},
        {"status": "SUCCESSFUL", "result_until": long_ago, "prune_at": timezone.now() + timedelta(days=30)},
    ]
    Job.objects.bulk_create(
        [
            Job(
                task_path=noop.module_path,
                enqueued_at=long_ago,
                finished_at=long_ago,
                place=number,
                **kinds[number % 6],
            )
            for number in range(3000)
        ],
        batch_size=500,
    )
    fill_table()
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {Attempt._meta.db_table} (job_id, number, started_at, finished_at, outcome, message, "
            "exception_class_path, traceback) SELECT id, 1, enqueued_at, enqueued_at, 'succeeded', '', '', '' "
            f"FROM {Job._meta.db_table}"
        )
    Limit.objects.bulk_create(Limit(key=f"rate {number}", used_at=timezone.now()) for number in range(5000))
    analyse()


def test_g14_every_statement_of_a_prune_finds_its_index(old_jobs, explained):
    pruner = Pruner("default", {"SUCCESSFUL": 7 * 86_400.0, "FAILED": 86_400.0, "CANCELLED": None})
    assert sum(pruner.turn(batches=2) for _ in range(3)) == 1500
    assert explained == []


@pytest.fixture
def many_limits(full_table):
    """Of many tenants; those of one have been in use for a while, and some have not been used for days."""
    now = timezone.now()
    keys = [f"{kind} tenant-{number}" for number in range(5000) for kind in ("rate/60s", "rate/3600s")]
    used = [now if number % 100 else now - timedelta(days=3) for number in range(len(keys))]
    limits = [Limit(key=key, started=2, used_at=at) for key, at in zip(keys, used, strict=True)]
    limits[1].started = 5000
    Limit.objects.bulk_create(limits, batch_size=500)
    permits = [Permit(key=key, number=number, job_id=1, fence=1, taken_at=now) for key in keys for number in (0, 1)]
    more = [Permit(key=keys[1], number=number, job_id=1, fence=1, taken_at=now) for number in range(2, 5000)]
    Permit.objects.bulk_create([*permits, *more], batch_size=500)
    analyse()
    return keys


@pytest.mark.parametrize("direct", [False, True], ids=["apart", "at once"])
def test_g14_every_statement_of_a_rate_limit_finds_its_index(many_limits, explained, monkeypatch, direct):
    dialect = get_dialect("default")
    monkeypatch.setattr(dialect, "direct", direct)
    terms = Terms(6000, 3600.0, 5500)
    assert [dialect.draw(many_limits[1], 1, 1, terms).number for _ in range(2)] == [1, 1]
    assert dialect.draw(many_limits[0], 1, 1, Terms(2, 60.0, 2)).wait > 0
    assert explained == []


@pytest.fixture
def many_waiting(full_table):
    """For the slots of one key, for those of thousands, and for other jobs; and as many have ended under these keys."""
    fill(60_000, "WAITING", place="1")
    waiting = Job.objects.filter(status="WAITING")
    first = waiting.order_by("pk").values_list("pk", flat=True)[0]
    parts = {"crew": waiting.filter(pk__lt=first + 30_000), "tenant-": waiting.filter(pk__gte=first + 30_000)}
    finished = Job.objects.filter(status="SUCCESSFUL")
    last = finished.order_by("-pk").values_list("pk", flat=True)[0]
    parts["crew"].update(concurrency_key="crew", options={"concurrency": 3})
    finished.filter(pk__gt=last - 50_000).update(concurrency_key="crew")
    number = Cast(F("pk") % 3000, CharField())
    parts["tenant-"].update(concurrency_key=Concat(Value("tenant-"), number), options={"concurrency": 1})
    parts["crew"].filter(pk__gte=first + 20_000).update(waiting_for=1)
    names = ["crew", *(f"tenant-{number}" for number in range(3000))]
    Limit.objects.bulk_create([Limit(key=f"concurrency {name}", used_at=timezone.now()) for name in names])
    scheduled = Job.objects.scheduled()
    scheduled.filter(pk__in=list(scheduled.values_list("pk", flat=True)[:500])).update(concurrency_key="crew")
    analyse()


def test_g14_every_statement_of_an_admission_finds_its_index(many_waiting, explained):
    """However many wait, and have ended, under the key or others."""
    dialect = get_dialect("default")
    assert dialect.peek().limited
    some = dialect.waiting_keys("", 50)
    assert len(some) == 50 and dialect.waiting_keys("tenant-", 50)[0].startswith("tenant-")
    assert admit(some[:10], "default") == {DEFAULT}  # of so few rows of keys, more are not looked up by an index
    assert Job.objects.having_slots().filter(concurrency_key="crew", place__isnull=False).count() == 3
    assert not admit(["crew"], "default")
    pause(key="crew")
    assert not admit(["crew"], "default")
    assert explained == []


@pytest.fixture
def many_schedules(full_table):
    now = timezone.now()
    Schedule.objects.bulk_create(
        [
            Schedule(
                name=f"schedule {number}",
                spec="* * * * *",
                task_path="tests.tasks.noop",
                overlap="skip",
                last_job_id=number + 1,
                next_run_at=now + timedelta(seconds=number - 1),
                look_at=now + timedelta(seconds=number - 1),
            )
            for number in range(5000)
        ],
        batch_size=500,
    )
    analyse()


def test_g14_every_statement_of_a_schedule_finds_its_index(many_schedules, explained):
    first = upcoming("default", 10)[0]
    assert first.seconds < 0
    fire(first.pk, "default")
    run_schedule_now(first.pk)
    pause_schedule(first.pk)
    resume_schedule(first.pk)
    assert upcoming("default", 10, [first.pk])[0].pk != first.pk
    retime_schedule(first.pk)
    assert explained == []


@pytest.fixture
def many_keys(full_table):
    """Of jobs long gone, and of those that wait."""
    UniqueKey.objects.bulk_create(
        [UniqueKey(key=f"{number:040}", job_id=number) for number in range(1, 20_001)], batch_size=500
    )
    analyse()


def test_g14_every_statement_of_a_unique_key_finds_its_index(many_keys, explained):
    once = echo.using(unique=True, on_conflict="debounce", run_after=timedelta(hours=1))
    first = once.enqueue(0)
    assert once.enqueue(0).id == first.id
    some = enqueue_many([once.s(number % 20) for number in range(40)])
    failed = {int(made.id) for made in some}
    Job.objects.filter(pk__in=failed).update(status="FAILED", finished_at=Now())
    once.enqueue(0)
    assert retry_all(failed) == Retried(retried=19, held=1)
    some_jobs = [*range(1, 100), *failed]
    with transaction.atomic():
        assert unique._locked([f"{number:040}" for number in range(1, 600)], "default")
        keys, busy = locked_keys(some_jobs, "default")
        assert len(keys) == 19 and not busy, "one of the keys has gone to the job that came after"
    assert explained == []


def test_g14_every_statement_of_control_finds_its_index(full_table, explained):
    """And of a pause. Whatever the filter: a statement reads no more than a batch."""
    fill(3000, "FAILED", finished="CURRENT_TIMESTAMP")
    fill(3000, "WAITING")
    analyse()
    mine = Job.objects.filter(task_path=noop.module_path)
    for change in (RETRY, CANCEL, to_queue("other"), to_priority(3), to_time(timezone.now() + timedelta(days=400))):
        assert sum(control.apply(change, mine, limit=1500)) == 1500
        assert control.count(change, mine, limit=1500) >= 500
        assert control.examples(change, mine, limit=3)
    pause(key="tenant-7")
    soonest = Job.objects.scheduled().order_by("run_after").values_list("pk", flat=True)[:100]
    Job.objects.filter(pk__in=list(soonest)).update(run_after=Pause.objects.get().held_until)
    resume(key="tenant-7")
    assert return_held("default") == 0
    pause(task="tests.tasks.other")
    lanes = Lanes(QueueSelector(), "default")
    lanes.look()
    assert lanes.paused and len(get_dialect("default").claim(lanes.order, 50, WORKER, FENCE, only=lanes.only)) == 50
    held_back(QueueSelector(), "default")
    assert explained == []


@pytest.mark.parametrize("kind", ["ready", "scheduled"])
def test_g14_a_page_of_a_line_is_read_in_the_order_of_its_index(queue_db, kind):
    """A sort would read all that is left of the line, for each page. Nobody has told the planner of these rows."""
    fill(5000, "READY", **({"place": "a.n + 10 * b.n + 100 * c.n + 1000 * d.n + 1"} if kind == "ready" else {}))
    Job.objects.filter(place=None).update(run_after=Now() + timedelta(hours=1))
    plans = []

    def explain(execute, sql, params, many, context):
        if sql.startswith("SELECT") and "LIMIT 1001" in sql:
            context["cursor"].cursor.execute(f"EXPLAIN {'QUERY PLAN' * (connection.vendor == 'sqlite')} {sql}", params)
            plans.append(str(context["cursor"].cursor.fetchall()))
        return execute(sql, params, many, context)

    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT setval('django_jobqueue_place', 1000000)")
    with connection.execute_wrapper(explain):
        assert sum(len(list(batch)) for batch in portions.portions(Job.objects.all(), "default", [kind])) == 5000
    assert plans
    assert not [plan for plan in plans if any(word in plan for word in ("Sort", "TEMP B-TREE", "filesort"))]


# -- an old snapshot ------------------------------------------------------------------------------


def work_off(dialect: Dialect, number: int, *, with_floor: bool) -> int:
    """Claim and finish so many jobs; the floor at the end."""
    floor = 0
    for _ in range(number // 500):
        jobs = dialect.claim([DEFAULT], 500, WORKER, FENCE, floors=[floor])
        floor = max(job.place for job in jobs) if with_floor else 0
        dialect.succeed([Success(job.pk, FENCE, WORKER, 1, job.started_at, 0, 0, None) for job in jobs])
    return floor


def buffers(dialect, floor: int, monkeypatch) -> int:
    """The pages that one claim of 5 jobs touches."""
    plans = []
    rows = dialect._rows

    def explained(sql, params=()):
        plans.append(rows(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", params))
        return []

    monkeypatch.setattr(dialect, "_rows", explained)
    dialect.claim([DEFAULT], 5, WORKER, FENCE, floors=[floor])
    monkeypatch.setattr(dialect, "_rows", rows)
    [[plan]] = plans[0]
    top = (json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"]
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"]


@pytest.mark.skipif(connection.vendor != "postgresql", reason="only PostgreSQL keeps what an old snapshot might see")
def test_g14_a_claim_under_an_old_snapshot_reads_no_more_than_without(queue_db, monkeypatch):
    dialect = get_dialect("default")
    fill(30_000, "READY", place="nextval('django_jobqueue_place')")
    analyse()
    clean = buffers(dialect, 0, monkeypatch)
    with closing(connections.create_connection("default")) as other, other.cursor() as old:
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        old.execute(f"SELECT count(*) FROM {Job._meta.db_table}")
        floor = work_off(dialect, 25_000, with_floor=True)
        with_floor, without = buffers(dialect, floor, monkeypatch), buffers(dialect, 0, monkeypatch)
        old.execute("ROLLBACK")
    assert Attempt.objects.count() == 25_000
    assert with_floor < 2 * clean + 50
    assert without > 5 * with_floor, "else this test says nothing"
