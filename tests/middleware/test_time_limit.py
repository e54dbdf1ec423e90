"""Dramatiq's TimeLimit needs no layer here: the option ``timeout`` is of the core, where the reaction to it is, too."""

from __future__ import annotations

import asyncio
import time

import pytest

from django_jobqueue import task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.interrupts import JobTimeout
from django_jobqueue.models import Attempt

from ..lifecycle.steps import enqueue, fresh
from ..worker.workers import drain

BACKEND = "django_jobqueue.backend.JobQueueBackend"


@pytest.fixture(autouse=True)
def used(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = []  # none is needed


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)


@task
def free(seconds):
    spin(seconds)


@task
async def afree(seconds):
    await asyncio.sleep(seconds)


@task(timeout=0.3)
def limited(seconds):
    spin(seconds)


@task(timeout=0.3)
async def alimited(seconds):
    await asyncio.sleep(seconds)


@task(timeout=0.3)
def catches():
    try:
        spin(30)
    except JobTimeout:
        return "partial"


def ends(made, seconds) -> str:
    job = enqueue(made, seconds)
    drain(3)
    return Attempt.objects.get(job=job).outcome


@pytest.mark.parametrize("made", [limited, alimited], ids=["sync", "async"])
def test_the_limit_of_a_task(made):
    assert ends(made, 30) == "timed_out"
    assert ends(made, 0) == "succeeded"


@pytest.mark.parametrize("made", [limited, alimited], ids=["sync", "async"])
def test_a_job_may_have_a_limit_of_its_own(made):
    assert ends(made.using(timeout=30), 0.6) == "succeeded"
    assert ends(made.using(timeout=0.1), 0.25) == "timed_out"


@pytest.mark.parametrize("made", [free, afree], ids=["sync", "async"])
def test_the_limit_of_all_that_do_not_say(settings, made):
    assert ends(made, 0.4) == "succeeded"
    settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": {"TIMEOUT": 0.2}}}
    assert ends(made, 30) == "timed_out"
    assert ends(made.using(timeout=30), 0.5) == "succeeded"


def test_the_interrupt_can_be_caught():
    job = enqueue(catches)
    drain(3)
    assert fresh(job).result == "partial"


@pytest.mark.parametrize("value", [0, -1, True, "1", float("nan"), float("inf")])
def test_limits_that_cannot_be_are_refused(value):
    with pytest.raises((InvalidTask, ValueError), match="timeout"):
        free.using(timeout=value)
    with pytest.raises(InvalidTask, match="timeout"):
        task(timeout=value)(lambda: None)
