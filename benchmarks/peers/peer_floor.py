"""The floor: the least that any queue on PostgreSQL has to do, in plain psycopg, without a framework.

One connection claims batches of 500 with SKIP LOCKED, decodes the arguments, calls a no-op, and records the end of
the job and an attempt. It finishes a batch and claims the next in one transaction. A queue can be faster: it may let
the server work while Python does.
"""

import json
import signal
import time
from datetime import UTC, datetime

import psycopg
from common import URL, burn, chunks, stamp_now

PACKAGE = "psycopg"
DATABASES = ("postgresql",)
KIND = "one thread"
CONFIG = "batches of 500, one transaction each, one connection; looks every 10 ms when nothing waits"
WAITING = "select count(*) from job where status = 0"
# It has no index for running jobs, which are the last that were claimed: four processes have no more than these.
UNFINISHED = """select exists(select 1 from job where status = 0)
    or exists(select 1 from (select status from job order by id desc limit 2000) as latest where status < 2)"""
FINISHED = "select count(*) from job join attempt on id = job_id where status = 2"
POINT = "select id from job order by id limit 1 offset {number}"
PASSED = "select exists(select 1 from job where id = {id} and status = 2)"
TASKS = {"noop": lambda n: None, "stamp": stamp_now, "burn": lambda n: burn()}

BATCH = 500

SCHEMA = """
create table job (
    id bigint generated always as identity primary key,
    queue text not null default 'default', priority smallint not null default 0, status smallint not null default 0,
    task text not null, args jsonb not null, attempts smallint not null default 0,
    enqueued_at timestamptz not null default now(), started_at timestamptz, finished_at timestamptz
);
create index on job (queue, priority, id) where status = 0;
create table attempt (
    job_id bigint, number smallint, started_at timestamptz not null, finished_at timestamptz not null,
    outcome smallint not null, error text, primary key (job_id, number)
);
"""
INSERT = "insert into job (task, args) values (%s, %s)"
COPY = "copy job (task, args) from stdin"
CLAIM = """
with pick as materialized (
    select id from job where status = 0 and queue = 'default' and priority = 0
    order by id limit %s for no key update skip locked
)
update job set status = 1, attempts = attempts + 1, started_at = now()
from pick where job.id = pick.id
returning job.id, job.task, job.args::text, job.attempts
"""
FINISH = """
with ended as (
    select * from jsonb_to_recordset(%s)
    as ended(id bigint, number smallint, started_at timestamptz, finished_at timestamptz)
), updated as (
    update job set status = 2, finished_at = ended.finished_at
    from ended where job.id = ended.id and job.attempts = ended.number
    returning job.id
)
insert into attempt select id, number, started_at, finished_at, 0 from ended join updated using (id)
"""

connection = None


def connect():
    global connection
    connection = psycopg.connect(URL, autocommit=True)


def disconnect():
    connection.close()


def setup():
    with psycopg.connect(URL) as connection:
        connection.execute(SCHEMA)


def one(name, value):
    connection.execute(INSERT, [name, json.dumps([value])])


def bulk(name, values):
    for some in chunks(values):
        with connection.cursor().copy(COPY) as copy:
            for value in some:
                copy.write_row((name, json.dumps([value])))


def run(rows):
    """Do the jobs; what to record, as JSON."""
    ended = []
    for pk, task, args, number in rows:
        start = datetime.now(UTC)
        TASKS[task](*json.loads(args))
        times = {"started_at": start.isoformat(), "finished_at": datetime.now(UTC).isoformat()}
        ended.append({"id": pk, "number": number, **times})
    return json.dumps(ended)


def worker():
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    connect()
    rows = []
    while rows or not stopping:
        if not rows:
            rows = connection.execute(CLAIM, [BATCH]).fetchall()
        if not rows:
            time.sleep(0.01)
            continue
        ended = run(rows)
        with connection.pipeline():  # what is sent between two synchronizations is one transaction
            connection.execute(FINISH, [ended])
            claimed = connection.execute(CLAIM, [BATCH])
        rows = claimed.fetchall()
