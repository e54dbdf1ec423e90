"""SlowJobs: a warning with the duration."""

from __future__ import annotations

import asyncio
import time

import pytest

from django_jobqueue import task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.middleware.slow_jobs import SlowJobs

from ..lifecycle.steps import enqueue
from ..worker.workers import drain


@pytest.fixture(autouse=True)
def layers(settings):
    settings.JOBQUEUE_MIDDLEWARE = ["django_jobqueue.middleware.slow_jobs.SlowJobs"]
    settings.JOBQUEUE_DEFAULTS = {"slow_after": 0.05}


@task
def rests(seconds=0.1):
    time.sleep(seconds)


@task
async def arests(seconds=0.1):
    await asyncio.sleep(seconds)


@task
def rests_and_fails():
    time.sleep(0.1)
    raise ValueError("no")


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.endswith("slow_jobs")]


@pytest.mark.parametrize("func", [rests, arests, rests_and_fails])
def test_a_slow_attempt_is_told_with_its_duration(queue_db, caplog, func):
    job = enqueue(func)
    drain()
    [warning] = warnings(caplog)
    assert warning.startswith(f"{job} is slow: attempt 1 took 0.1") and warning.endswith(" s, more than 0.05 s.")


@pytest.mark.parametrize("func", [rests, arests])
def test_a_quick_one_is_not_worth_a_line(queue_db, caplog, func):
    enqueue(func, 0)
    enqueue(func.using(slow_after=60))
    enqueue(func.using(slow_after=None))
    drain()
    assert warnings(caplog) == []


@pytest.mark.once
def test_the_default():
    assert SlowJobs.options == {"slow_after": 30.0}


@pytest.mark.once
@pytest.mark.parametrize("value", [0, -1, "soon", True, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(value):
    with pytest.raises(InvalidTask, match="positive number of seconds"):
        rests.using(slow_after=value)
