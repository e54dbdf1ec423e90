"""A connection that is cut in a transaction of the queue's does not count against the job: a task that has returned is
successful.
"""

from __future__ import annotations

import pytest
from django.db import connection, connections

from django_jobqueue import task
from django_jobqueue.middleware import Middleware
from django_jobqueue.models import Job
from tests.refusals import cut_own

from ..lifecycle.steps import enqueue, fresh, outcomes
from ..models import Effect
from ..worker.workers import drain

pytestmark = [
    pytest.mark.usefixtures("queue_db"),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no connection to cut"),
]

cuts: list[str] = []
runs: list[object] = []


@pytest.fixture(autouse=True)
def clean():
    cuts.clear()
    runs.clear()


def cut_once(where: str) -> None:
    if where not in cuts:
        cuts.append(where)
        cut_own()


class CutsBeforeCommit(Middleware):
    def process_complete(self, context, outcome, call_next):
        call_next()
        Effect.objects.create(name="completed")
        cut_once("commit")


class CutsInCompletion(Middleware):
    def process_complete(self, context, outcome, call_next):
        call_next()
        cut_once("completion")
        Effect.objects.create(name="completed")


class CutsAndHides(Middleware):
    """As a project's own code may: it makes another error of it."""

    def process_complete(self, context, outcome, call_next):
        call_next()
        cut_once("completion")
        try:
            Effect.objects.create(name="completed")
        except Exception:
            raise LookupError("the audit is broken") from None


class CutsInPreparation(Middleware):
    def process_prepare(self, context, call_next):
        cut_once("preparation")
        Effect.objects.create(name="prepared")
        return call_next()


class Completes(Middleware):
    def process_complete(self, context, outcome, call_next):
        call_next()
        Effect.objects.create(name="completed")


def layers(*names):
    return [f"tests.middleware.test_cut_off.{name}" for name in names]


@task
def works():
    runs.append(1)
    return "done"


@task
async def aworks():
    runs.append(1)
    return "done"


@task
def leaves_a_stale_connection():
    """As one that takes longer than the server keeps idle connections."""
    Effect.objects.create(name="task")
    cut_own()
    return "done"


@task(atomic=True)
def whole():
    runs.append(1)
    Effect.objects.create(name="task")
    return "done"


@pytest.mark.parametrize("layer", ["CutsBeforeCommit", "CutsInCompletion", "CutsAndHides"])
@pytest.mark.parametrize("made", [works, aworks], ids=["sync", "async"])
def test_g2_a_completion_whose_connection_is_cut_is_done_again(settings, made, layer):
    settings.JOBQUEUE_MIDDLEWARE = layers(layer)
    job = enqueue(made)
    drain()
    assert cuts and len(runs) == 1
    assert (fresh(job).status, fresh(job).result, outcomes(job)) == ("SUCCESSFUL", "done", ["succeeded"])
    assert Effect.objects.filter(name="completed").count() == 1


def test_g2_a_preparation_whose_connection_is_cut_is_done_again(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("CutsInPreparation")
    job = enqueue(works)
    drain()
    assert cuts and outcomes(job) == ["succeeded"] and Effect.objects.count() == 1


def test_g2_a_task_that_leaves_a_stale_connection_is_successful(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Completes")
    job = enqueue(leaves_a_stale_connection)
    drain()
    assert outcomes(job) == ["succeeded"] and Effect.objects.filter(name="completed").count() == 1


def test_g2_on_success_is_enqueued_over_a_fresh_connection(settings):
    settings.JOBQUEUE_MIDDLEWARE = [
        "django_jobqueue.middleware.database_connections.DatabaseConnections",
        "django_jobqueue.middleware.callbacks.Callbacks",
    ]
    job = enqueue(leaves_a_stale_connection.using(on_success="tests.middleware.test_cut_off.heard"))
    drain()
    assert outcomes(job) == ["succeeded"] and runs == [(str(job.pk), "done")]


@task
def heard(pk, what):
    runs.append((pk, what))


@pytest.mark.parametrize("layer", ["CutsBeforeCommit", "CutsInCompletion"])
def test_g5_an_atomic_task_whose_commit_is_cut_off_runs_again(settings, layer):
    settings.JOBQUEUE_MIDDLEWARE = layers(layer)
    job = enqueue(whole)
    drain()
    assert len(runs) == 2 and outcomes(job) == ["lost", "succeeded"]
    assert fresh(job).status == "SUCCESSFUL" and (fresh(job).tries, fresh(job).losses) == (1, 1)
    assert Effect.objects.filter(name="task").count() == 1, "the first one was undone"


def test_g5_an_atomic_task_that_finds_its_connection_stale_runs_once():
    first, second = enqueue(leaves_a_stale_connection), enqueue(whole)
    drain(threads=1)
    assert len(runs) == 1 and outcomes(first) == outcomes(second) == ["succeeded"]


def test_g5_an_atomic_task_whose_commit_has_arrived_is_successful(settings, monkeypatch):
    """Only the answer was lost."""
    settings.JOBQUEUE_MIDDLEWARE = layers("Completes")
    kind = type(connections["default"])
    commit = kind._commit

    def commit_without_answer(self):
        commit(self)
        if runs and not cuts:
            cuts.append("answer")
            self.connection.close()
            raise kind.Database.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(kind, "_commit", commit_without_answer)
    job = enqueue(whole)
    drain()
    assert cuts and len(runs) == 1
    assert Job.objects.get(pk=job.pk).status == "SUCCESSFUL" and outcomes(job) == ["succeeded"]
    assert Effect.objects.filter(name="task").count() == 1
