"""All layers that come along, in the order that the docs recommend, around one queue."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from django_jobqueue import Skip, checks, task
from django_jobqueue.middleware import Middleware
from django_jobqueue.middleware.chain import project_layers
from django_jobqueue.models import Job

from ..lifecycle.steps import enqueue, fresh, outcomes
from ..models import Effect
from ..worker.workers import drain

PAGE = Path(__file__).parent.parent.parent / "docs/howto/middleware.md"


@pytest.fixture
def recommended(settings, queue_db) -> list[str]:
    block = re.search(
        r"# settings.py: middleware for production\nJOBQUEUE_MIDDLEWARE = (\[.*?\n\])", PAGE.read_text(), re.DOTALL
    )
    settings.JOBQUEUE_MIDDLEWARE = ast.literal_eval(block[1])
    settings.JOBQUEUE_PROMETHEUS = {"PORT": None}
    return settings.JOBQUEUE_MIDDLEWARE


@task
def tells(job_id, what):
    Effect.objects.create(name="told", value=[job_id, what])


@task
def sync(how="well"):
    Effect.objects.create(name=f"sync {how}")
    return act(how)


@task
async def coroutine(how="well"):
    await Effect.objects.acreate(name=f"async {how}")
    return act(how)


@task(atomic=True)
def whole(how="well"):
    Effect.objects.create(name=f"whole {how}")
    return act(how)


def act(how):
    if how == "raise":
        raise KeyError("no")
    if how == "skip":
        raise Skip("not today")
    return how


def test_the_list_in_the_docs_has_all_of_them_and_no_check_complains(recommended, monkeypatch):
    monkeypatch.setattr("django_jobqueue.checks.declared", {})
    assert [message for message in checks.check_installation() if message.id.startswith("jobqueue")] == []
    built_in = {cls for cls in Middleware.__subclasses__() if cls.__module__.startswith("django_jobqueue.middleware.")}
    assert {type(layer) for layer in project_layers()} == built_in


@pytest.mark.parametrize("made", [sync, coroutine, whole], ids=["sync", "async", "atomic"])
def test_jobs_end_as_they_would_without_them(recommended, made):
    well = enqueue(made.using(concurrency=1, rate_limit="1000/s", expires=60, on_success=tells, timeout=30))
    bad = enqueue(made.using(max_attempts=2, language="de"), "raise")
    skipped = enqueue(made, "skip")
    Job.objects.filter(pk=bad.pk).update(tries=1)
    drain()
    assert (fresh(well).status, fresh(well).result, outcomes(well)) == ("SUCCESSFUL", "well", ["succeeded"])
    assert (fresh(bad).status, outcomes(bad)) == ("FAILED", ["failed"])
    assert (fresh(skipped).status, outcomes(skipped)) == ("CANCELLED", ["skipped"])
    assert Effect.objects.get(name="told").value == [str(well.pk), "well"]
