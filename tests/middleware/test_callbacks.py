"""Callbacks: a task after a success, a failure, or the last attempt; enqueued with the outcome or not at all."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from django_jobqueue import Fail, Retry, Skip, task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.lifecycle import cancel
from django_jobqueue.middleware import Middleware
from django_jobqueue.middleware.callbacks import Callbacks
from django_jobqueue.models import Job
from django_jobqueue.outcomes import Outcome, State

from ..lifecycle.steps import enqueue, fall_silent, fresh, outcomes, take_one, worker
from ..worker.workers import drain, make_worker, working

PATH = "django_jobqueue.middleware.callbacks.Callbacks"
told: list[tuple[object, ...]] = []


@pytest.fixture(autouse=True)
def used(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    told.clear()


@task
def succeeded(job_id, result):
    told.append(("success", job_id, result))


@task
def failed(job_id, error):
    told.append(("failure", job_id, error))


@task
async def exhausted(job_id, attempts):
    told.append(("exhausted", job_id, attempts))


class Stop(Exception):
    pass


ALL = {"on_success": succeeded, "on_failure": "tests.middleware.test_callbacks.failed", "on_retry_exhausted": exhausted}
AT = "tests.middleware.test_callbacks"


def come_to(how):
    match how:
        case "fail":
            raise KeyError("no")
        case "Fail":
            raise Fail("never")
        case "give up":
            raise Stop("it")
        case "retry":
            raise Retry("again", delay=0)
        case "skip":
            raise Skip("not today")
        case "skip with a result":
            raise Skip(result=3)
        case "unstorable":
            return object()
    return [how]


@task(max_attempts=2, backoff=0, give_up_on=[Stop])
def sync_task(how):
    return come_to(how)


@task(max_attempts=2, backoff=0, give_up_on=[Stop])
async def async_task(how):
    return come_to(how)


@task(atomic=True)
def atomic_task(how):
    return come_to(how)


@task(timeout=0.2)
def slow():
    while True:
        pass


@task(middleware=[PATH], on_success=f"{AT}.later")
def declared_before():
    return 1


@task
def later(job_id, result):
    told.append(("later", job_id, result))


both = pytest.mark.parametrize("made", [sync_task, async_task], ids=["sync", "async"])
FAILED = ("failure", {"type": "KeyError", "message": "KeyError: 'no'"})
EXHAUSTED = ("exhausted", {"attempts": 2, "max_attempts": 2})


def without_id(job):
    assert all(note[1] == str(job.pk) for note in told)
    return sorted(((what, value) for what, _, value in told), key=str)


@both
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("well", [("success", ["well"])]),
        ("fail", [EXHAUSTED, FAILED]),
        ("Fail", [("failure", {"type": "django_jobqueue.exceptions.Fail", "message": "Fail: never"})]),
        ("give up", [("failure", {"type": f"{AT}.Stop", "message": "Stop: it"})]),
        ("retry", [EXHAUSTED, ("failure", {"type": "django_jobqueue.exceptions.Retry", "message": "Retry: again"})]),
        ("skip", []),
        ("skip with a result", [("success", 3)]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_is_enqueued_once_when_it_is_due(made, how, expected):
    job = enqueue(made.using(**ALL), how)
    drain()
    assert without_id(job) == sorted(expected, key=str)


def test_nothing_is_enqueued_for_jobs_without_callbacks():
    enqueue(sync_task, "well"), enqueue(sync_task, "fail")
    drain()
    assert Job.objects.count() == 2


def test_an_unstorable_result_is_a_failure_without_attempts_used_up():
    enqueue(sync_task.using(**ALL), "unstorable")
    drain()
    assert [(what, error["type"]) for what, _, error in told] == [
        ("failure", "django_jobqueue.exceptions.InvalidResult")
    ]


def test_a_timeout_is_a_failure():
    enqueue(slow.using(**ALL))
    drain(3)
    assert sorted(what for what, *_ in told) == ["exhausted", "failure"]
    assert next(error["type"] for what, _, error in told if what == "failure").endswith("TaskTimeout")


def test_the_last_of_many_losses_is_a_failure(eventually):
    job = enqueue(sync_task.using(**ALL), "well")
    Job.objects.filter(pk=job.pk).update(losses=4)
    holder = worker()
    take_one(holder)
    fall_silent(holder)
    with working():
        eventually(lambda: told)
    assert [(what, error["type"]) for what, _, error in told] == [("failure", "django_jobqueue.exceptions.JobLost")]
    assert fresh(job).status == "FAILED"


class Cancels(Middleware):
    """Somebody cancels the job in the last moment."""

    def process_complete(self, context, outcome, call_next):
        cancel([context.job.pk])
        call_next()


def test_a_job_that_was_cancelled_meanwhile_has_no_callbacks(settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{AT}.Cancels", PATH]
    job = enqueue(sync_task.using(**ALL), "fail")
    drain()
    assert fresh(job).status == "CANCELLED" and told == []


class Doubles(Middleware):
    def process_complete(self, context, outcome, call_next):
        call_next(outcome.replace(result={"twice": outcome.result}))


def test_on_success_gets_the_result_as_it_is_stored(settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH, f"{AT}.Doubles"]
    enqueue(sync_task.using(**ALL), "well")
    drain()
    assert told[0][2] == {"twice": ["well"]}


# -- with the outcome or not at all ---------------------------------------------------------------


class Breaks(Middleware):
    def process_complete(self, context, outcome, call_next):
        call_next()
        assert Job.objects.filter(task_path__startswith=AT, status="READY").count() == 1, "enqueued"
        raise ValueError("the transaction fails")


@pytest.mark.parametrize("made", [sync_task, async_task, atomic_task], ids=["sync", "async", "atomic"])
def test_g17_an_outcome_that_cannot_be_written_enqueues_nothing(settings, made):
    settings.JOBQUEUE_MIDDLEWARE = [f"{AT}.Breaks", PATH]
    job = enqueue(made.using(on_success=succeeded, max_attempts=1), "well")
    drain()
    assert fresh(job).status == "FAILED" and outcomes(job) == ["failed"]
    assert Job.objects.count() == 1


def test_g17_the_failure_that_this_makes_has_its_callback(settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{AT}.Breaks", PATH]
    enqueue(sync_task.using(on_success=succeeded, on_failure=failed, max_attempts=1), "well")
    drain()
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    drain()
    assert [(what, error["type"]) for what, _, error in told] == [("failure", "ValueError")]


def test_g17_a_callback_that_cannot_be_enqueued_is_no_success(settings, monkeypatch):
    monkeypatch.setattr(Callbacks, "_enqueue", lambda *args: 1 / 0)
    job = enqueue(sync_task.using(on_success=succeeded, max_attempts=1), "well")
    drain()
    assert fresh(job).status == "FAILED" and Job.objects.count() == 1


def test_an_attempt_whose_callbacks_were_told_is_not_told_again_after_the_commit():
    layer, enqueued = Callbacks(), []
    layer._enqueue = lambda *args: enqueued.append(args[1])
    job = enqueue(sync_task.using(**ALL), "fail")
    context = make_worker().execution.context(job, sync_task, lambda: None)
    outcome = Outcome(state=State.FAILED, status="FAILED", exception=KeyError("no"))
    layer.process_complete(context, outcome, lambda: Job.objects.filter(pk=job.pk).update(status="FAILED"))
    assert enqueued == ["on_failure"]
    layer.job_finished(context, outcome)
    assert enqueued == ["on_failure"] and not layer._told
    layer.job_finished(context, outcome)
    assert enqueued == ["on_failure", "on_failure"]


# -- what may be given ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (lambda job_id, result: None, "must be a task"),
        (42, "must be a task"),
        (f"{AT}.come_to", "there is no task 'come_to'"),
        (f"{AT}.nothing", "there is no task 'nothing'"),
        ("no_such_package.tasks.x", "no such module"),
        ("tests.no_such_module.x", "no such module"),
        ("nodots", "no such module"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["on_success", "on_failure", "on_retry_exhausted"])
def test_what_is_no_task_is_refused(name, value, message):
    with pytest.raises(InvalidTask, match=message):
        sync_task.using(**{name: value})
    with pytest.raises(InvalidTask, match=message):
        task(**{name: value})(come_to)


def test_a_task_that_its_module_declares_later_is_accepted():
    assert declared_before.options == {"on_success": f"{AT}.later"}
    enqueue(declared_before)
    drain()
    assert [note[0] for note in told] == ["later"]


def test_none_takes_back_what_the_task_says():
    enqueue(declared_before.using(on_success=None))
    drain()
    assert told == []


def test_a_job_waits_for_a_worker_that_knows_its_callbacks(monkeypatch):
    module = ModuleType("soon_gone")
    monkeypatch.setitem(sys.modules, "soon_gone", module)
    module.notify = succeeded
    job = enqueue(sync_task.using(on_success="soon_gone.notify"), "well")
    del module.notify
    drain()
    assert outcomes(job) == ["snoozed"] and fresh(job).is_scheduled and fresh(job).tries == 0
