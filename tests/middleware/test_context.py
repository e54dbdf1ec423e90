"""The context: one object for tasks that ask for it and for every layer."""

from dataclasses import FrozenInstanceError

import pytest

from django_jobqueue import task
from django_jobqueue.compat import TaskContext, TaskResultStatus
from django_jobqueue.middleware import JobContext, current_job
from django_jobqueue.models import Attempt

from ..worker.runs import Boss, claimed_run, execution, run_async, run_sync

SEEN: list[JobContext] = []


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


@task(takes_context=True)
def look(context, *args, **kwargs):
    SEEN.append(context)
    return [args, kwargs]


@task(takes_context=True)
async def alook(context, *args, **kwargs):
    SEEN.append(context)
    return [args, kwargs]


@task
def ask():
    SEEN.append(current_job())


def watch(context, call_next):
    SEEN.append(context)
    return call_next()


kinds = pytest.mark.parametrize(("runner", "made"), [(run_sync, look), (run_async, alook)], ids=["sync", "async"])


@kinds
def test_a_task_that_takes_the_context_gets_it_before_its_arguments(runner, made):
    outcome = runner(made, 1, key=2)
    assert outcome.result == [[1], {"key": 2}]
    assert isinstance(SEEN[0], JobContext) and isinstance(SEEN[0], TaskContext)


@kinds
def test_layers_and_task_see_the_same_context(runner, made):
    runner(made, middleware=(watch, watch))
    assert SEEN[0] is SEEN[1] is SEEN[2]


def test_library_code_finds_the_context_of_the_job_it_runs_in():
    run_sync(ask, middleware=(watch,))
    assert SEEN[0] is SEEN[1]
    assert current_job() is None


@kinds
def test_the_context_knows_job_task_worker_and_attempt(runner, made):
    runner(made, row={"pk": 5, "attempts": 3})
    (context,) = SEEN
    assert (context.job.pk, context.attempt, context.worker.id) == (5, 3, Boss.id)
    assert context.task.func is made.func
    assert context.task_result.id == "5" and context.task_result.status == TaskResultStatus.RUNNING


def test_the_result_in_the_context_knows_the_attempts_before():
    run = claimed_run(look, row={"attempts": 2})
    before = run.job.started_at
    run.job.past_attempts = (
        Attempt(job_id=1, number=1, worker_id=3, started_at=before, finished_at=before, exception_class_path="a.B"),
    )
    execution().run(run, look)
    result = SEEN[0].task_result
    assert result.attempts == 2 and result.worker_ids == ["3", "7"]
    assert [error.exception_class_path for error in result.errors] == ["a.B"]


def test_should_stop_gives_the_reason_as_soon_as_there_is_one():
    run = claimed_run(look)
    execution().run(run, look)
    (context,) = SEEN
    assert context.should_stop() is None
    for reason in ("cancel", "shutdown", "lost"):
        run.stop_reason = reason
        assert context.should_stop() == reason


def test_a_task_may_stop_its_worker():
    boss = Boss()
    execution(boss).run(claimed_run(look), look)
    SEEN[0].stop_worker()
    assert boss.stopped


def test_an_option_is_the_jobs_own_else_the_tasks_else_the_default():
    context = one_context(row={"options": {"timeout": 0}}, timeout=30)
    assert context.option("timeout") == 0, "given for this job, even if it looks like nothing"
    context = one_context(timeout=30)
    assert context.option("timeout", 9) == 30
    assert one_context().option("timeout", 9) == 9
    assert one_context().option("unheard_of") is None


def one_context(**kwargs) -> JobContext:
    SEEN.clear()
    run_sync(look, **kwargs)
    return SEEN[0]


def test_the_context_does_not_change():
    context = one_context()
    with pytest.raises((FrozenInstanceError, TypeError)):
        context.job = None
    injected = context.inject({"user": "ann"})
    assert context.injected == {} and injected.injected == {"user": "ann"}
    assert context.inject({}) is context
