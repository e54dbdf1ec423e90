"""Fills our tables with a past and a future, many rows a statement: copies of jobs that were enqueued."""

from datetime import timedelta

from django.db import connection
from django.utils import timezone

from django_jobqueue.lifecycle import admit, pause
from django_jobqueue.models import Attempt, Dependency, Job

SERIES = {
    "postgresql": "generate_series(1, {count}) as series(n)",
    "mysql": "(select seq as n from seq_1_to_{count}) as series",
    "sqlite": """(with recursive counted(n) as (values (1) union all select n + 1 from counted where n < {count})
        select n from counted) as series""",
}
SCHEDULED_FOR = timedelta(days=1)
CLOSED = "closed"


def fill(task, finished, waiting, scheduled):
    """Make so many jobs of each kind; the finished ones have an attempt each."""
    if finished:
        _copy(_example(task), finished, with_place=True, **_past())
        table, attempts = Job._meta.db_table, Attempt._meta.db_table
        _execute(f"""insert into {attempts}
            (job_id, number, worker_id, started_at, finished_at, outcome, message, exception_class_path, traceback)
            select id, 1, 1, started_at, finished_at, 'succeeded', '', '', '' from {table} where status = 'SUCCESSFUL'
        """)
    if waiting:
        _copy(_example(task), waiting, with_place=True)
    if scheduled:
        _copy(_example(task), scheduled, place=None, run_after=timezone.now() + SCHEDULED_FOR)


def wait_for_slots(task, count):
    """Jobs of a key whose one slot is taken: by a job in line in a queue that is paused, so it stays so."""
    pause(CLOSED)
    holder = _example(task.using(queue_name=CLOSED))
    admit([holder.concurrency_key], "default")
    holder.refresh_from_db()
    assert holder.status == Job.Status.READY, holder.status
    _copy(_example(task), count, with_place=True)


def wait_for_a_job(task, count):
    """Jobs that wait for one that is scheduled for tomorrow."""
    first = task.using(run_after=SCHEDULED_FOR).enqueue(0)
    waiting = _example(task.using(after=first))
    rule = Dependency.objects.get(job=waiting).rule
    _copy(waiting, count, with_place=True)
    _execute(f"""insert into {Dependency._meta.db_table} (on_id, job_id, rule, listed)
        select {first.id}, id, '{rule}', false from {Job._meta.db_table} where waiting_for = 1""")
    Dependency.objects.filter(job=waiting).delete()


def _past():
    now = timezone.now()
    return {"status": Job.Status.SUCCESSFUL, "attempts": 1, "tries": 1, "started_at": now, "finished_at": now}


def _example(task):
    return Job.objects.get(pk=task.enqueue(0).id)


def _copy(job, count, with_place=False, **values):
    """Many jobs like this one instead of it, each with a place of its own behind the one before."""
    Job.objects.filter(pk=job.pk).update(**values)
    columns = [field.column for field in Job._meta.concrete_fields if field.column not in ("id", "place")]
    place = "null"
    if with_place:
        place = "nextval('django_jobqueue_place')" if connection.vendor == "postgresql" else "place + n"
    table, series = Job._meta.db_table, SERIES[connection.vendor].format(count=count)
    _execute(f"""insert into {table} (place, {", ".join(columns)})
        select {place}, {", ".join(columns)} from {table} cross join {series} where id = {job.pk} order by n""")
    Job.objects.filter(pk=job.pk).delete()


def _execute(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
