"""dramatiq-pg: NOTIFY carries the messages; a claim and an acknowledgement for each."""

import os
import sys

PREFETCH = 10000
os.environ["dramatiq_queue_prefetch"] = str(PREFETCH)  # noqa: SIM112 - its name; read by the import below

import common  # noqa: E402
import dramatiq  # noqa: E402
from dramatiq_pg import PostgresBroker  # noqa: E402
from dramatiq_pg.schema import generate_init_sql  # noqa: E402

PACKAGE = "dramatiq-pg"
DATABASES = ("postgresql",)
KIND = "thread"
SHARE = 0.1
CONFIG = "dramatiq --processes 1 --threads 4, dramatiq_queue_prefetch=10000, results off"
WAITING = "select count(*) from dramatiq.queue where state = 'queued'"
UNFINISHED = """select exists(select 1 from dramatiq.queue where state = 'queued')
    or exists(select 1 from dramatiq.queue where state = 'consumed')"""
FINISHED = "select count(*) from dramatiq.queue where state = 'done'"

dramatiq.set_broker(PostgresBroker(url=common.URL, results=False))


@dramatiq.actor
def noop(n):
    return None


@dramatiq.actor
def stamp(n):
    common.stamp_now(n)


@dramatiq.actor
def burn(n):
    common.burn()


if common.ORM:
    common.django_setup()
    from shop import work


@dramatiq.actor
def orm(n):
    work.orm(n)


TASKS = {"noop": noop, "stamp": stamp, "burn": burn, "orm": orm}


def setup():
    import psycopg

    with psycopg.connect(common.URL) as connection:
        connection.execute(generate_init_sql())
    if common.ORM:
        common.migrate()


def one(name, value):
    TASKS[name].send(value)


def worker():
    from dramatiq.cli import main, make_argument_parser

    args = ["peer_dramatiq_pg", "--processes=1", "--threads=4"]
    sys.exit(main(make_argument_parser().parse_args(args)))
