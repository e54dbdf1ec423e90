"""What other queues get wrong about layers and workers, by the numbers that the table in the docs has them under.

Most of these have their tests elsewhere; here are those that need a whole worker.
"""

import time
from dataclasses import replace
from itertools import pairwise

import pytest

from django_jobqueue import Skip, task
from django_jobqueue.middleware import Middleware
from django_jobqueue.models import Attempt, Job
from django_jobqueue.worker.execution import layers_of

from ..lifecycle.steps import enqueue, fresh, outcomes
from ..models import Effect
from ..tasks import echo, noop
from ..worker.workers import drain, working

notes: list[object] = []


@pytest.fixture(autouse=True)
def clean(queue_db):
    notes.clear()


def layers(*names):
    return [f"tests.middleware.test_defects.{name}" for name in names]


class Notes(Middleware):
    """Notes all that it gets to see."""

    def process_job(self, context, call_next):
        try:
            result = call_next()
        except BaseException as error:
            notes.append((context.task.name, type(error).__name__))
            raise
        notes.append((context.task.name, result))
        return result

    def job_finished(self, context, outcome):
        notes.append((context.task.name, f"finished: {outcome.state}"))


class Silent(Middleware):
    def process_job(self, context, call_next):
        return "made up"


class Stuttering(Middleware):
    def process_job(self, context, call_next):
        call_next()
        return call_next()


class SilentPrepare(Middleware):
    def process_prepare(self, context, call_next):
        pass


class StutteringPrepare(Middleware):
    def process_prepare(self, context, call_next):
        call_next()
        call_next()


class Refuses(Middleware):
    def process_job(self, context, call_next):
        notes.append(time.monotonic())
        raise ConnectionError("the licence server is down")


class Skips(Middleware):
    def process_job(self, context, call_next):
        raise Skip("not today")


class SlowAfterwards(Middleware):
    """What comes after the task takes longer than the task may."""

    def process_complete(self, context, outcome, call_next):
        notes.append(f"completing: {outcome.state}")
        call_next()
        time.sleep(0.5)
        notes.append("completed")

    def job_finished(self, context, outcome):
        notes.append(f"finished: {outcome.state}")


@task
def counts():
    Effect.objects.create(name="ran")
    return 42


@task(max_attempts=3, backoff=0.4)
def counts_with_retries():
    Effect.objects.create(name="ran")


@task
async def acounts():
    await Effect.objects.acreate(name="ran")
    return 42


@task(max_attempts=2, backoff=0)
def breaks():
    raise LookupError("no")


@task
def returns_an_object():
    return object()


@task(timeout=0.2)
def sleeps(seconds):
    for _ in range(round(seconds / 0.01)):
        time.sleep(0.01)


@task
def naps():
    time.sleep(0.1)


@task(priority=50, queue_name="own", max_attempts=7)
def declared():
    pass


@pytest.mark.parametrize("made", [counts, acounts], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("layer", "runs"), [("Silent", 0), ("Stuttering", 1), ("SilentPrepare", 0), ("StutteringPrepare", 0)]
)
def test_f03_a_layer_that_calls_on_never_or_twice_is_a_failed_attempt(settings, made, layer, runs):
    settings.JOBQUEUE_MIDDLEWARE = layers(layer)
    job = enqueue(made)
    drain()
    assert fresh(job).status == "FAILED" and outcomes(job) == ["failed"]
    assert Attempt.objects.get().exception_class_path == "django_jobqueue.exceptions.MiddlewareError"
    assert Effect.objects.count() == runs


def test_f04_a_layer_that_raises_before_the_task_costs_attempts_with_their_pauses_and_no_worker(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Refuses")
    job = enqueue(counts_with_retries)
    drain(5.0)
    assert outcomes(job) == ["retrying", "retrying", "failed"] and fresh(job).tries == 3
    assert not Effect.objects.exists(), "the task itself never ran"
    assert all(later - earlier >= 0.35 for earlier, later in pairwise(notes))


def test_f05_layers_see_what_the_task_returned_or_raised_and_how_each_attempt_ended(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Notes")
    for made in (counts, acounts, breaks, returns_an_object):
        enqueue(made)
    drain()
    assert [note for note in notes if note[0] == "counts"] == [("counts", 42), ("counts", "finished: succeeded")]
    assert [note for note in notes if note[0] == "acounts"] == [("acounts", 42), ("acounts", "finished: succeeded")]
    assert sorted(note[1] for note in notes if note[0] == "breaks") == [
        "LookupError", "LookupError", "finished: failed", "finished: retrying",
    ]  # fmt: skip
    assert ("returns_an_object", "finished: failed") in notes


def test_f08_what_comes_after_the_task_is_not_interrupted_and_happens_once(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("SlowAfterwards")
    job = enqueue(sleeps, 0.05)
    drain()
    assert notes == ["completing: succeeded", "completed", "finished: succeeded"]
    assert fresh(job).status == "SUCCESSFUL"


def test_f08_an_interrupted_task_is_completed_once(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("SlowAfterwards")
    job = enqueue(sleeps, 5)
    drain()
    assert notes == ["completing: timed_out", "completed", "finished: timed_out"]
    assert outcomes(job) == ["timed_out"]


def test_f09_a_layer_inside_the_one_that_skips_sees_nothing_of_the_job(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Skips", "Notes")
    job = enqueue(counts)
    drain()
    assert notes == [("counts", "finished: skipped")], "how it ended is told to all"
    assert fresh(job).status == "CANCELLED"


def test_f10_what_is_said_explicitly_counts_even_where_it_equals_a_default():
    job = enqueue(declared.using(priority=0, queue_name="default", max_attempts=1))
    assert (job.priority, job.queue_name, job.max_attempts) == (0, "default", 1)


def test_f13_a_worker_that_is_busy_goes_on_without_a_pause():
    for _ in range(10):
        enqueue(naps)
    began = time.monotonic()
    drain(0.0, threads=1)
    assert time.monotonic() - began < 4, "1 s of work, and not 10 polls"


def test_f17_an_unknown_task_between_others_holds_up_nobody_and_waits(eventually):
    unknown = enqueue(noop)
    Job.objects.filter(pk=unknown.pk).update(task_path="tests.tasks.not_there_yet")
    known = enqueue(echo, "here")
    with working():
        eventually(lambda: fresh(known).status == "SUCCESSFUL")
    assert fresh(unknown).status == "READY" and outcomes(unknown) == []


@pytest.mark.parametrize("made", [counts, acounts], ids=["sync", "async"])
def test_f20_a_tasks_own_layers_are_added_to_the_projects(settings, made):
    settings.JOBQUEUE_MIDDLEWARE = layers("Notes")
    own = replace(made, middleware=[Skips])
    assert [type(layer).__name__ for layer in layers_of(own)] == ["Notes", "Skips"]
