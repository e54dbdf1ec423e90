"""The same code under other backends: Django's Immediate and Dummy, which the settings of tests often name."""

import asyncio
from datetime import timedelta

import pytest
from django.utils import timezone

from django_jobqueue import chain, cron, enqueue_beside, enqueue_many, group, task
from django_jobqueue.compat import BaseTaskBackend, InvalidTask, Task, TaskResult, TaskResultStatus, task_backends
from django_jobqueue.exceptions import JobFailed
from django_jobqueue.foreign import ForeignResult
from django_jobqueue.task import JobTask

from . import batch_tasks as batch
from .tasks import add, async_add, echo, fail, noop

PACKAGE = Task.__module__.removesuffix(".base")

pytestmark = pytest.mark.once


def only(path):
    return {"default": {"BACKEND": path, "QUEUES": []}}


@pytest.fixture
def immediate(settings):
    settings.TASKS = only(f"{PACKAGE}.backends.immediate.ImmediateBackend")


@pytest.fixture
def dummy(settings):
    settings.TASKS = only(f"{PACKAGE}.backends.dummy.DummyBackend")
    return task_backends["default"].results


class Elsewhere(BaseTaskBackend):
    """Runs things some time, as a broker's would."""

    supports_async_task = supports_priority = True

    def __init__(self, alias, params):
        super().__init__(alias, params)
        self.results = {}

    def enqueue(self, task, args, kwargs):
        self.validate_task(task)
        number = str(len(self.results))
        self.results[number] = self._result(task, args, kwargs, number)
        return self._result(task, args, kwargs, number)

    def _result(self, task, args, kwargs, number):
        return TaskResult(
            task=task,
            id=number,
            status=TaskResultStatus.READY,
            enqueued_at=timezone.now(),
            started_at=None,
            finished_at=None,
            last_attempted_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )

    def get_result(self, result_id):
        return self.results[result_id]


class Telling(Elsewhere):
    supports_get_result = True


def plainly(a, b=2):
    return a + b


def contextual(context, a):
    context.progress(1, 2, "half")
    context.keep_log("text")
    context.expire_result(5)
    context.interrupt_on_stop()
    context.stop_worker()
    assert context.attempt == 1 and context.task_result.args == [a]
    assert not hasattr(context, "job") and not hasattr(context, "worker")
    return [context.should_stop(), context.scheduled_for, context.option("timeout"), context.option("no", 7)]


async def acontextual(context, a):
    return contextual(context, a)


OPTIONS = {
    "max_attempts": 3,
    "timeout": 5,
    "backoff": 1.0,
    "retry_on": ValueError,
    "schedule": cron("* * * * *", args=[1]),
    "unique": True,
    "atomic": True,
    "keep": 60,
    "priority": 7,
    "queue_name": "mail",
    "middleware": [],
}


# -- declared there -------------------------------------------------------------------------------


def test_a_task_with_all_our_options_is_declared_enqueued_and_waited_for(immediate):
    declared = task(**OPTIONS)(plainly)
    assert isinstance(declared, JobTask) and declared.schedule and declared.max_attempts == 3
    assert declared.enqueue(1).get(timeout=5) == 3
    assert (
        declared.using(unique=False, timeout=2, keep=None, max_attempts=1, if_failed="run").enqueue(1, b=5).get() == 6
    )
    assert declared.s(1).args == (1,)
    assert declared.enqueue(2).return_value == 4


def test_djangos_own_tasks_stay_as_they_are(immediate):
    from importlib import import_module

    declared = import_module(PACKAGE).task(plainly)
    assert type(declared) is Task
    assert type(declared.enqueue(1)) is TaskResult


@pytest.mark.parametrize("function", [contextual, acontextual])
def test_the_context_has_our_methods(immediate, function):
    declared = task(takes_context=True, timeout=5)(function)
    assert declared.enqueue(1).get() == [None, None, 5, 7]


def test_what_the_context_cannot_have_names_the_backend(immediate):
    seen = []

    def look(context):
        try:
            _ = context.job
        except AttributeError as error:
            seen.append(str(error))

    look.__qualname__ = "look"
    task(takes_context=True)(look).enqueue()
    assert "context.job: the backend 'default', ImmediateBackend, has none" in seen[0]


# -- declared under ours, run under another -------------------------------------------------------


def test_one_after_another_and_side_by_side(immediate):
    steps = chain(batch.one.s(), batch.add.s(2), batch.aadd.s(more=10)).enqueue()
    assert [result.get() for result in steps] == [1, 3, 13] and steps.batch_id is None
    steps = group(batch.one.s(), chain(batch.one.s(), batch.add.s(5)), name="all").then(batch.show.s()).enqueue()
    assert steps[-1].return_value == [[[1, 6]], {}] and len(steps) == 4
    assert asyncio.run(chain(batch.one.s(), batch.add.si(2)).aenqueue())[-1].return_value == 3
    assert [result.return_value for result in enqueue_many([add.s(1, 2), add.s(3, 4)])] == [3, 7]
    assert enqueue_many([]) == []


@pytest.mark.parametrize(
    ("if_failed", "status", "error"),
    [("cancel", "FAILED", "Cancelled"), ("fail", "FAILED", "DependencyFailed"), ("run", "SUCCESSFUL", None)],
)
def test_what_becomes_of_the_rest(immediate, if_failed, status, error):
    steps = chain(batch.fails.s()).then(batch.show.s(), if_failed=if_failed).enqueue()
    assert steps[1].status == status
    if error is None:
        assert steps[1].return_value == [[None], {}]
    else:
        assert steps[1].errors[0].exception_class_path.endswith(error) and not steps[1].worker_ids
        with pytest.raises(JobFailed, match="fails has not succeeded"):
            steps[1].get()


def test_on_failure_and_finally(immediate):
    steps = chain(batch.one.s()).on_failure(echo.s("rescue")).finally_(echo.s("over")).enqueue()
    assert [result.status for result in steps] == ["SUCCESSFUL", "FAILED", "SUCCESSFUL"]
    steps = chain(batch.fails.s()).on_failure(echo.s("rescue")).finally_(echo.s("over")).enqueue()
    assert [result.status for result in steps] == ["FAILED", "SUCCESSFUL", "SUCCESSFUL"]


def test_after(immediate):
    assert noop.using(after=noop.enqueue()).enqueue().get() is None
    failed = fail.enqueue()
    assert noop.using(after=[failed], if_failed="fail").enqueue().errors[0].traceback == "fail has not succeeded."
    assert asyncio.run(async_add.using(after=failed, if_failed="run").aenqueue(1, 2)).return_value == 3
    with pytest.raises(InvalidTask, match="'default', ImmediateBackend, has no job #5"):
        noop.using(after=5).enqueue()


def outer():
    enqueue_beside([batch.one.si(), batch.one.si()])
    return 5


def test_a_batch_grows_while_it_runs(immediate):
    declared = task(outer)
    assert group(declared.s()).then(batch.show.s()).enqueue()[-1].return_value == [[[5, 1, 1]], {}]
    with pytest.raises(LookupError, match="outside of a job"):
        enqueue_beside([batch.one.si()])
    with pytest.raises(ValueError, match="has ended"):
        enqueue_beside([batch.one.si()], noop.enqueue())


def test_what_has_failed_says_so(immediate):
    with pytest.raises(JobFailed, match="no"):
        fail.enqueue().get()

    async def wait():
        return await (await async_add.aenqueue(1, 2)).aget()

    assert asyncio.run(wait()) == 3


@pytest.mark.parametrize("enqueue", [add.enqueue, lambda one: enqueue_many([add.s(1, 2), add.s(one)])])
def test_arguments_are_checked(dummy, enqueue):
    with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'b'"):
        enqueue(1)
    assert dummy == []


def test_later_is_an_error_that_names_the_backend_and_the_way_out(immediate):
    for later in (timedelta(hours=1), timezone.now()):
        with pytest.raises(InvalidTask, match=r"tasks\.noop: the backend 'default', ImmediateBackend, .*run_after"):
            noop.using(run_after=later)


# -- Dummy ----------------------------------------------------------------------------------------


def test_dummy_records_all(dummy):
    results = [add.enqueue(1, 2), *chain(batch.one.s(), batch.add.s(2)).finally_(noop.s()).enqueue()]
    results += enqueue_many([add.s(1, 2), add.s(3, b=4)])
    later = noop.using(run_after=timedelta(hours=1), unique=False, after=results[0]).enqueue()
    assert dummy == [*results, later] == dummy
    assert [result.task.name for result in dummy] == ["add", "one", "add", "noop", "add", "add", "noop"]
    assert (dummy[2].args, dummy[5].kwargs) == ([2], {"b": 4})
    assert dummy[0].task is add
    assert timedelta(minutes=59) < later.task.run_after - timezone.now() <= timedelta(hours=1)


def test_nothing_ends_under_dummy_so_it_cannot_be_waited_for(dummy):
    result = noop.enqueue()
    with pytest.raises(NotImplementedError, match=r"noop has not ended, and the backend 'default', DummyBackend,"):
        result.get(1)
    with pytest.raises(NotImplementedError):
        asyncio.run(result.aget(1))
    assert isinstance(noop.get_result(result.id), ForeignResult)


# -- others ---------------------------------------------------------------------------------------


def test_a_backend_without_chains_says_so_before_anything_is_enqueued(settings):
    settings.TASKS = only("tests.test_foreign.Elsewhere")
    with pytest.raises(
        InvalidTask, match=r"The backend 'default', Elsewhere, cannot let jobs wait for others.*JobQueueBackend"
    ):
        chain(noop.s(), noop.si()).enqueue()
    assert task_backends["default"].results == {}
    assert len(group(noop.s(), noop.s()).enqueue()) == len(task_backends["default"].results) == 2
    with pytest.raises(NotImplementedError, match="Elsewhere"):
        noop.enqueue().get()


def test_a_backend_that_tells_can_be_waited_for(settings):
    settings.TASKS = only("tests.test_foreign.Telling")
    result = noop.enqueue()
    with pytest.raises(TimeoutError, match=r"noop #0 is not over after 0\.05 seconds"):
        result.get(timedelta(milliseconds=50))
    object.__setattr__(task_backends["default"].results["0"], "status", TaskResultStatus.SUCCESSFUL)
    assert result.get(5) is None


@pytest.mark.django_db
def test_ours_cannot_wait_for_what_another_has(settings):
    settings.TASKS = {
        "default": {"BACKEND": "django_jobqueue.backend.JobQueueBackend"},
        "now": {"BACKEND": f"{PACKAGE}.backends.immediate.ImmediateBackend"},
    }
    with pytest.raises(InvalidTask, match="the backend 'now' has it"):
        noop.using(after=noop.using(backend="now").enqueue()).enqueue()
