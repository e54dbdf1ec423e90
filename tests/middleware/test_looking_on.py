"""All that look on, at once: none is in another's way."""

from __future__ import annotations

import asyncio
import logging

import pytest
from django.core.management import call_command

from django_jobqueue import task
from django_jobqueue.middleware import current_job

from ..lifecycle.steps import attempts, enqueue, fresh
from ..worker.workers import drain

logger = logging.getLogger("shop")
NAMES = "opentelemetry.OpenTelemetry prometheus.Prometheus log_context.LogContext slow_jobs.SlowJobs"
NAMES += " error_context.ErrorContext"


@pytest.fixture(autouse=True)
def layers(settings):
    paths = ["database_connections.DatabaseConnections", *NAMES.split()]
    settings.JOBQUEUE_MIDDLEWARE = [f"django_jobqueue.middleware.{path}" for path in paths]
    settings.JOBQUEUE_DEFAULTS = {"slow_after": 0.01}
    settings.JOBQUEUE_PROMETHEUS = {"PORT": 0}


@task(max_attempts=2, backoff=0.01)
def stumbles():
    logger.warning("once more")
    if current_job().attempt == 1:
        raise ValueError("no")
    return "well"


@task(max_attempts=2, backoff=0.01)
async def astumbles():
    await asyncio.sleep(0.02)
    logger.warning("once more")
    if current_job().attempt == 1:
        raise ValueError("no")
    return "well"


@pytest.mark.parametrize("func", [stumbles, astumbles, stumbles.using(timeout=5)])
def test_a_job_with_all_of_them(queue_db, caplog, func):
    job = enqueue(func)
    worker = drain()
    first, second = attempts(job)
    assert (first.outcome, second.outcome, fresh(job).result) == ("retrying", "succeeded", "well")
    assert "once more" in first.log and "once more" in second.log and "In attempt 1 of" in first.traceback
    assert {record.job_id for record in caplog.records if record.name == "shop"} == {job.pk}
    assert [record.job_attempt for record in caplog.records if record.name.endswith("error_context")] == [1]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    if func is astumbles:
        assert "is slow" in first.log
    assert worker.counts == {"retrying": 1, "succeeded": 1}


def test_the_checks_find_nothing(queue_db):
    call_command("check", fail_level="WARNING")
