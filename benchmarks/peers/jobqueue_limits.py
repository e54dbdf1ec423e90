"""No-ops and jobs that work, under limits that never bite; and one that does."""

import common

from django_jobqueue import task

#: So many keys, and slots of each.
KEYS, SLOTS = 1000, 4
WORK = 0.0002  # seconds of CPU time

# More slots than a worker holds jobs at once; one job after another of another key; a database that always says yes.
WIDE = {"concurrency": 2000, "concurrency_key": "wide"}
KEYED = {"concurrency": SLOTS, "concurrency_key": lambda n: f"key-{n % KEYS}"}
RATED = {"rate_limit": "999999/s"}


@task(**WIDE)
def wide(n):
    return None


@task(**KEYED)
def keys(n):
    return None


@task(**RATED)
def rate(n):
    return None


@task
def work(n):
    common.burn(WORK)


@task(**WIDE)
def work_wide(n):
    common.burn(WORK)


@task(**KEYED)
def work_keys(n):
    common.burn(WORK)


@task(**RATED)
def work_rate(n):
    common.burn(WORK)


@task(concurrency=1, concurrency_key="full")
def single(n):
    """For jobs that wait."""


TASKS = {task.func.__name__: task for task in (wide, keys, rate, work, work_wide, work_keys, work_rate)}
