"""The chain around a job: layers of both kinds in order, each calling on exactly once."""

import asyncio
import threading
from contextlib import suppress
from functools import partial, partialmethod

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured, MiddlewareNotUsed
from django.db import connection, transaction
from django.utils import timezone

from django_jobqueue import Fail, Retry, Skip, Snooze, enqueue_many, task
from django_jobqueue.compat import TaskResultStatus
from django_jobqueue.exceptions import MiddlewareError
from django_jobqueue.lifecycle import cancel, retry
from django_jobqueue.middleware import JobContext, Middleware, current_job
from django_jobqueue.middleware.chain import compose, layers, make_layer
from django_jobqueue.models import Job
from django_jobqueue.worker.execution import Execution

from ..models import Effect
from ..tasks import noop
from ..worker.runs import Boss, claimed_run, execution, run_async, run_sync

pytestmark = pytest.mark.once


def context(**changes) -> JobContext:
    job = Job(pk=1, task_path="tests.tasks.noop", args=[], kwargs={}, enqueued_at=timezone.now(), attempts=1)
    return JobContext(**({"job": job, "task": noop, "worker": Boss()} | changes))


class Recorder(Middleware):
    """Notes when it is entered and left."""

    def __init__(self, name="", log=None):
        self.name, self.log = name, [] if log is None else log

    def process_job(self, context, call_next):
        self.log.append(f"{self.name}>")
        try:
            return call_next()
        finally:
            self.log.append(f"<{self.name}")


class AsyncRecorder(Middleware):
    def __init__(self, name="", log=None):
        self.name, self.log = name, [] if log is None else log

    async def aprocess_job(self, context, call_next):
        self.log.append(f"{self.name}>")
        try:
            return await call_next()
        finally:
            self.log.append(f"<{self.name}")


def sync_handler(result=None, log=None):
    def handler(context):
        if log is not None:
            log.append("task")
        if isinstance(result, BaseException):
            raise result
        return result

    return handler


def async_handler(result=None, log=None):
    async def handler(context):
        return sync_handler(result, log)(context)

    return handler


def run(layers, result=None, *, is_async=False, log=None, **changes):
    """Run a task that returns or raises ``result`` inside these layers."""
    handler = (async_handler if is_async else sync_handler)(result, log)
    composed = compose(layers, handler, is_async=is_async)
    answer = composed(context(**changes))
    return asyncio.run(answer) if is_async else answer


both_kinds = pytest.mark.parametrize("is_async", [False, True], ids=["sync task", "async task"])
each_layer = pytest.mark.parametrize("kind", [Recorder, AsyncRecorder])

# -- order ----------------------------------------------------------------------------------------


@both_kinds
def test_without_layers_there_is_only_the_task(is_async):
    assert run([], 42, is_async=is_async) == 42
    assert run([Middleware()], 42, is_async=is_async) == 42, "a layer without hooks is no layer"


@both_kinds
@pytest.mark.parametrize(
    "kinds",
    [
        (Recorder, Recorder, Recorder),
        (AsyncRecorder, AsyncRecorder, AsyncRecorder),
        (Recorder, AsyncRecorder, Recorder),
        (AsyncRecorder, Recorder, AsyncRecorder),
    ],
    ids=["sync", "async", "mixed", "mixed the other way"],
)
def test_the_first_is_outermost_in_every_mix_of_kinds(kinds, is_async):
    log = []
    stack = [kind(name, log) for kind, name in zip(kinds, "abc", strict=True)]
    assert run(stack, 42, is_async=is_async, log=log) == 42
    assert log == ["a>", "b>", "c>", "task", "<c", "<b", "<a"]


@both_kinds
@each_layer
def test_a_layer_sees_the_tasks_own_exception(kind, is_async):
    error, seen = ValueError("no"), []

    class Watch(kind):
        pass

    def watch(context, call_next):
        try:
            return call_next()
        except ValueError as caught:
            seen.append(caught)
            raise

    with pytest.raises(ValueError, match="no") as raised:
        run([watch, kind()], error, is_async=is_async)
    assert seen == [error] and raised.value is error


# -- exactly once ---------------------------------------------------------------------------------


def forgets(context, call_next):
    return "made up"


def calls_twice(context, call_next):
    call_next()
    return call_next()


def swallows_and_calls_again(context, call_next):
    with suppress(ValueError):
        return call_next()
    return call_next()


async def aforgets(context, call_next):
    return "made up"


async def acalls_twice(context, call_next):
    await call_next()
    return await call_next()


@both_kinds
@pytest.mark.parametrize("layer", [forgets, aforgets])
def test_a_layer_that_does_not_call_on_breaks_the_rules_and_the_task_has_not_run(layer, is_async):
    log = []
    with pytest.raises(MiddlewareError, match=r"without call_next\(\)"):
        run([layer], 1, is_async=is_async, log=log)
    assert log == []


@both_kinds
@pytest.mark.parametrize("layer", [calls_twice, acalls_twice])
def test_a_layer_that_calls_on_twice_breaks_the_rules_and_the_task_has_run_once(layer, is_async):
    log = []
    with pytest.raises(MiddlewareError, match="twice"):
        run([layer], 1, is_async=is_async, log=log)
    assert log == ["task"]


@both_kinds
def test_an_exception_does_not_entitle_to_a_second_call(is_async):
    log = []
    with pytest.raises(MiddlewareError, match="twice"):
        run([swallows_and_calls_again], ValueError("no"), is_async=is_async, log=log)
    assert log == ["task"]


@both_kinds
@pytest.mark.parametrize("layer", [forgets, calls_twice, aforgets, acalls_twice])
def test_breaking_the_rules_is_a_failed_attempt(layer, is_async):
    made = asyncly if is_async else plain
    outcome = (run_async if is_async else run_sync)(made, middleware=(layer,))
    assert (outcome.state, outcome.status) == ("failed", "FAILED")
    assert outcome.exception_class_path == "django_jobqueue.exceptions.MiddlewareError"


def test_each_job_has_its_own_count():
    composed = compose([Recorder()], sync_handler(1), is_async=False)
    assert [composed(context()), composed(context())] == [1, 1]


# -- what a layer may change ----------------------------------------------------------------------


@both_kinds
def test_a_layer_may_change_the_result(is_async):
    def double(context, call_next):
        return call_next() * 2

    async def increase(context, call_next):
        return await call_next() + 1

    assert run([double, increase], 20, is_async=is_async) == 42
    assert run([increase, double], 20, is_async=is_async) == 41


@both_kinds
def test_a_layer_may_turn_an_exception_into_a_result_and_a_result_into_an_exception(is_async):
    def forgive(context, call_next):
        try:
            return call_next()
        except ValueError:
            return "forgiven"

    async def object_to_it(context, call_next):
        await call_next()
        raise LookupError("I do not like it")

    assert run([forgive], ValueError("no"), is_async=is_async) == "forgiven"
    with pytest.raises(LookupError, match="like"):
        run([object_to_it], "fine", is_async=is_async)


@both_kinds
@pytest.mark.parametrize("before", [True, False], ids=["before call_next", "after call_next"])
def test_what_a_layer_raises_is_as_if_the_task_had_raised_it(before, is_async):
    def broken(context, call_next):
        if before:
            raise ConnectionError("down")
        call_next()
        raise ConnectionError("down")

    made = asyncly if is_async else plain
    runner = run_async if is_async else run_sync
    outcome = runner(made, middleware=(broken,), max_attempts=2, backoff=7.0)
    assert (outcome.state, outcome.status, outcome.delay) == ("retrying", "READY", 7.0)
    assert outcome.message == "ConnectionError: down"
    last = runner(made, middleware=(broken,), max_attempts=1)
    assert (last.state, last.status) == ("failed", "FAILED")


def test_a_layer_that_raises_before_the_task_keeps_it_from_running():
    log = []

    def broken(context, call_next):
        raise ConnectionError

    outer = Recorder("a", log)
    with pytest.raises(ConnectionError):
        run([outer, broken, Recorder("c", log)], 1, log=log)
    assert log == ["a>", "<a"], "layers further in have no part in it"


@both_kinds
@pytest.mark.parametrize(
    ("control", "state", "status"),
    [
        (Skip("holiday"), "skipped", "CANCELLED"),
        (Skip("cached", result=[1]), "skipped", "SUCCESSFUL"),
        (Snooze(60), "snoozed", "READY"),
        (Retry(delay=60), "retrying", "READY"),
        (Fail("hopeless"), "failed", "FAILED"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_layers_steer_jobs_by_the_same_exceptions_as_tasks(control, state, status, is_async):
    def steer(context, call_next):
        raise control

    made = asyncly if is_async else plain
    outcome = (run_async if is_async else run_sync)(made, middleware=(steer,), max_attempts=5)
    assert (outcome.state, outcome.status) == (state, status)


# -- kinds ----------------------------------------------------------------------------------------


class Twin(Middleware):
    """Has both hooks, and notes which was taken, and where."""

    def __init__(self):
        self.seen = []

    def process_job(self, context, call_next):
        self.seen.append(("sync", threading.get_ident()))
        return call_next()

    async def aprocess_job(self, context, call_next):
        self.seen.append(("async", threading.get_ident()))
        return await call_next()


@both_kinds
def test_a_layer_with_both_hooks_is_never_adapted(is_async):
    twin = Twin()
    run([twin], 1, is_async=is_async)
    assert twin.seen == [("async" if is_async else "sync", threading.get_ident())]


def test_an_async_hook_that_forgets_to_await_is_a_failed_attempt():
    async def hasty(context, call_next):
        call = call_next()
        call.close()
        return call

    outcome = run_async(asyncly, middleware=(hasty,))
    assert (outcome.state, outcome.exception_class_path) == ("failed", "django_jobqueue.exceptions.InvalidResult")


@both_kinds
def test_plain_callables_partials_and_callable_objects_are_layers(is_async):
    log = []

    def function(name, context, call_next):
        log.append(name)
        return call_next()

    async def coroutine(name, context, call_next):
        log.append(name)
        return await call_next()

    class Callable:
        def __call__(self, context, call_next):
            return function("object", context, call_next)

    class AsyncCallable:
        async def __call__(self, context, call_next):
            return await coroutine("async object", context, call_next)

    class Bound:
        def method(self, context, call_next):
            return function("method", context, call_next)

        fixed = partialmethod(lambda self, name, *rest: function(name, *rest), "partial method")

    stack = [
        partial(function, "partial"),
        partial(partial(coroutine), "async partial"),
        Callable(),
        AsyncCallable(),
        Bound().method,
        Bound().fixed,
    ]
    assert run(stack, 42, is_async=is_async) == 42
    assert log == ["partial", "async partial", "object", "async object", "method", "partial method"]


def test_a_class_with_the_hooks_need_not_inherit():
    class Duck:
        def process_job(self, context, call_next):
            return call_next() + 1

    assert run([make_layer(Duck)], 41) == 42


def database_thread() -> int:
    """The thread that sync code runs in here."""
    return threading.get_ident()


def test_around_a_sync_task_everything_runs_in_the_jobs_own_thread():
    threads = set()

    class Sync(Middleware):
        def process_job(self, context, call_next):
            threads.add(threading.get_ident())
            return call_next()

    def handler(context):
        threads.add(threading.get_ident())

    compose([Sync(), AsyncRecorder(), Sync(), AsyncRecorder(), Sync()], handler, is_async=False)(context())
    assert threads == {threading.get_ident()}


def test_around_an_async_task_all_sync_code_has_one_thread_of_the_jobs_own():
    threads = []

    def note(context, call_next):
        threads.append(threading.get_ident())
        return call_next()

    outcomes = [run_async(asks_for_its_thread, middleware=(note, AsyncRecorder(), note)) for _ in range(2)]
    mine = {outcome.result for outcome in outcomes}
    assert threads[0] == threads[1] == outcomes[0].result, "layers and database calls of the task share a thread"
    assert threads[2] == threads[3] == outcomes[1].result
    assert threading.get_ident() not in mine


@pytest.mark.parametrize("undo", [True, False])
def test_an_async_task_is_inside_the_transaction_of_a_sync_layer(queue_db, undo):
    """The task's database calls run in the thread and so in the transaction of the layer around it."""

    def atomic(context, call_next):
        with transaction.atomic():
            call_next()
            if undo:
                transaction.set_rollback(True)
            return connection.in_atomic_block

    outcome = run_async(awrites, "inside", middleware=(atomic,))
    assert outcome.result is True
    assert Effect.objects.filter(name="inside").exists() is not undo


@pytest.mark.parametrize("undo", [True, False])
def test_a_sync_task_is_inside_the_transaction_of_a_sync_layer_even_with_an_async_one_between(queue_db, undo):
    def atomic(context, call_next):
        with transaction.atomic():
            call_next()
            if undo:
                transaction.set_rollback(True)

    outcome = run_sync(writes, "inside", middleware=(atomic, AsyncRecorder(), Recorder()))
    assert outcome.state == "succeeded"
    assert Effect.objects.filter(name="inside").exists() is not undo


@pytest.mark.parametrize("kind", [Recorder, AsyncRecorder])
@both_kinds
def test_the_current_job_is_known_in_layers_and_tasks_of_both_kinds(kind, is_async):
    seen = []

    class Ask(kind):
        pass

    def ask(context, call_next):
        seen.append(current_job().job.pk)
        return call_next()

    made = asyncly if is_async else plain
    (run_async if is_async else run_sync)(made, middleware=(ask, Ask(), ask))
    assert seen == [1, 1]
    assert current_job() is None


# -- injection ------------------------------------------------------------------------------------


def inject(**values):
    def layer(context, call_next):
        return call_next(**values)

    return layer


@both_kinds
def test_what_is_injected_is_seen_further_in_only(is_async):
    seen = {}

    def look(name):
        def layer(context, call_next):
            before = dict(context.injected)
            try:
                return call_next()
            finally:
                seen[name] = (before, dict(context.injected))

        return layer

    run([look("outer"), inject(user="ann"), look("middle"), inject(lang="de"), look("inner")], is_async=is_async)
    assert seen == {
        "outer": ({}, {}),
        "middle": ({"user": "ann"}, {"user": "ann"}),
        "inner": ({"user": "ann", "lang": "de"}, {"user": "ann", "lang": "de"}),
    }


def test_the_inner_value_wins_inside_the_chain():
    def look(context, call_next):
        call_next()
        return dict(context.injected)

    assert run([inject(user="outer"), inject(user="inner"), look]) == {"user": "inner"}


def test_what_is_injected_cannot_be_changed_in_place():
    def tamper(context, call_next):
        context.injected["user"] = "eve"

    with pytest.raises(TypeError):
        run([inject(user="ann"), tamper])


@both_kinds
def test_a_task_gets_what_its_signature_names_and_nothing_else(is_async):
    made = agreets if is_async else greets
    runner = run_async if is_async else run_sync
    outcome = runner(made, "hello", middleware=(inject(user="ann", other="unwanted"),))
    assert outcome.result == ["hello", "ann", {}]


@both_kinds
def test_the_jobs_own_keyword_arguments_win(is_async):
    made = agreets if is_async else greets
    outcome = (run_async if is_async else run_sync)(made, "hello", user="bob", middleware=(inject(user="ann"),))
    assert outcome.result == ["hello", "bob", {}]


def test_the_jobs_own_positional_arguments_win():
    outcome = run_sync(plain_greeting, "hello", "bob", middleware=(inject(user="ann"),))
    assert outcome.result == ["hello", "bob"], outcome.message


# -- per task -------------------------------------------------------------------------------------


@both_kinds
def test_a_tasks_own_layers_are_innermost(settings, is_async):
    settings.JOBQUEUE_MIDDLEWARE = ["tests.middleware.test_chain.First", "tests.middleware.test_chain.Second"]
    LOG.clear()
    made = asyncly if is_async else plain
    (run_async if is_async else run_sync)(made, middleware=(Recorder("own", LOG),))
    assert LOG == ["first>", "second>", "own>", "<own", "<second", "<first"]
    LOG.clear()
    (run_async if is_async else run_sync)(made)
    assert LOG == ["first>", "second>", "<second", "<first"]


def test_a_task_may_name_its_layers_by_path_by_class_or_as_they_are(settings):
    settings.JOBQUEUE_MIDDLEWARE = []
    LOG.clear()
    run_sync(plain, middleware=["tests.middleware.test_chain.First", Second, Recorder("third", LOG)])
    assert LOG == ["first>", "second>", "third>", "<third", "<second", "<first"]


def test_a_layer_that_one_task_names_is_not_around_others(settings):
    settings.JOBQUEUE_MIDDLEWARE = []
    LOG.clear()
    run_sync(layered)
    run_sync(plain)
    assert LOG == ["first>", "<first"]


# -- making layers --------------------------------------------------------------------------------

LOG: list[str] = []


class First(Recorder):
    def __init__(self):
        super().__init__("first", LOG)


class Second(Recorder):
    def __init__(self):
        super().__init__("second", LOG)


class Reluctant(Middleware):
    def __init__(self):
        raise MiddlewareNotUsed("not today")

    def process_job(self, context, call_next):
        raise AssertionError("not used")


class Unmakeable(Middleware):
    def __init__(self):
        raise LookupError("no such setting")


def test_a_layer_that_does_not_want_to_be_used_is_left_out():
    assert [type(layer) for layer in layers((Reluctant, First))] == [First]
    assert make_layer("tests.middleware.test_chain.Reluctant") is None
    assert run_sync(plain, middleware=(Reluctant,)).state == "succeeded"


def test_there_is_one_instance_for_the_process():
    entries = ("tests.middleware.test_chain.First",)
    assert layers(entries)[0] is layers(entries)[0]


def test_what_the_constructor_raises_is_not_hidden():
    with pytest.raises(LookupError, match="no such setting"):
        make_layer("tests.middleware.test_chain.Unmakeable")


@pytest.mark.parametrize("path", ["tests.middleware.test_chain.Missing", "no.such.module.Layer", "nonsense"])
def test_a_path_that_does_not_import_is_named(path):
    with pytest.raises(ImproperlyConfigured, match=path):
        make_layer(path)


@pytest.mark.parametrize("entry", ["tests.middleware.test_chain.LOG", 42, None])
def test_what_is_neither_a_class_nor_a_callable_is_refused(entry):
    with pytest.raises(ImproperlyConfigured, match="neither a class nor a callable"):
        make_layer(entry)


# -- around enqueueing ----------------------------------------------------------------------------


class Enqueueing(Middleware):
    """Does what the test says."""

    act = staticmethod(lambda jobs, call_next: call_next(jobs))
    calls: list[list[str]] = []

    def process_enqueue(self, jobs, call_next):
        type(self).calls.append([job.task_name for job in jobs])
        return type(self).act(jobs, call_next)


class Inner(Middleware):
    calls: list[int] = []

    def process_enqueue(self, jobs, call_next):
        type(self).calls.append(len(jobs))
        return call_next(jobs)


@pytest.fixture
def when_enqueued(settings, db, monkeypatch):
    """Let the outer one of two middlewares do this to what is enqueued."""
    settings.JOBQUEUE_MIDDLEWARE = [f"{__name__}.Enqueueing", f"{__name__}.Inner"]
    Enqueueing.calls, Inner.calls = [], []
    return lambda act: monkeypatch.setattr(Enqueueing, "act", staticmethod(act))


def test_enqueueing_passes_through_all_layers(when_enqueued):
    result = plain.enqueue()
    assert Job.objects.get().pk == int(result.id)
    assert (Enqueueing.calls, Inner.calls) == ([["plain"]], [1])


def test_enqueue_many_passes_through_once_with_all_jobs(when_enqueued):
    enqueue_many([plain.s(), greets.s("hello"), plain.s()])
    assert (Enqueueing.calls, Inner.calls) == ([["plain", "greets", "plain"]], [3])


def test_aenqueue_passes_through(when_enqueued):
    # called so, the sync code under it runs in this thread, in the test's transaction
    result = async_to_sync(plain.aenqueue)()
    assert Enqueueing.calls == [["plain"]] and Job.objects.filter(pk=result.id).exists()


def test_jobs_are_not_saved_before_the_innermost_call_and_have_ids_after_it(when_enqueued):
    seen = []

    def act(jobs, call_next):
        seen.append([job.pk for job in jobs])
        saved = call_next(jobs)
        seen.append([job.pk for job in saved])
        return saved

    when_enqueued(act)
    result = plain.enqueue()
    assert seen == [[None], [int(result.id)]]


def test_a_layer_may_change_jobs(when_enqueued):
    def act(jobs, call_next):
        for job in jobs:
            job.queue_name, job.priority, job.args = "moved", 42, ["changed"]
        return call_next(jobs)

    when_enqueued(act)
    result = greets.enqueue("hello")
    job = Job.objects.get()
    assert (job.queue_name, job.priority, job.args) == ("moved", 42, ["changed"])
    assert result.args == ["changed"]


def test_a_layer_may_drop_jobs_and_the_caller_is_told(when_enqueued):
    when_enqueued(lambda jobs, call_next: call_next(jobs[1:]))
    dropped, kept = enqueue_many([plain.s(), plain.s()])
    assert Job.objects.get().pk == int(kept.id)
    assert dropped.id == "" and dropped.status == TaskResultStatus.FAILED and dropped.is_finished
    assert dropped.errors[0].exception_class_path == "django_jobqueue.exceptions.Dropped"
    assert kept.status == TaskResultStatus.READY and kept.errors == []


def test_a_layer_may_drop_everything_without_calling_on(when_enqueued):
    when_enqueued(lambda jobs, call_next: [])
    assert plain.enqueue().status == TaskResultStatus.FAILED
    assert not Job.objects.exists() and Inner.calls == []


def test_a_layer_that_forgets_to_return_what_was_saved_does_not_make_the_caller_believe_in_a_drop(when_enqueued):
    def act(jobs, call_next):
        call_next(jobs)

    when_enqueued(act)
    with suppress(MiddlewareError):
        result = plain.enqueue()
        assert result.status == TaskResultStatus.READY and result.errors == []
        return
    assert not Job.objects.exists()


class Refused(Exception):
    pass


@pytest.mark.parametrize("before", [True, False], ids=["before call_next", "after call_next"])
def test_what_a_layer_raises_reaches_the_caller_and_nothing_is_saved(queue_db, when_enqueued, before):
    def act(jobs, call_next):
        if before:
            raise Refused
        call_next(jobs)
        raise Refused

    when_enqueued(act)
    with pytest.raises(Refused):
        plain.enqueue()
    with pytest.raises(Refused):
        enqueue_many([plain.s(), plain.s()])
    assert not Job.objects.exists()


def test_inside_the_callers_transaction_a_refusal_undoes_the_enqueue_and_nothing_else(when_enqueued):
    def act(jobs, call_next):
        call_next(jobs)
        raise Refused

    when_enqueued(act)
    with transaction.atomic():
        Effect.objects.create(name="mine")
        with pytest.raises(Refused):
            plain.enqueue()
    assert Effect.objects.exists() and not Job.objects.exists()


def test_calling_on_twice_is_refused_and_nothing_is_saved(queue_db, when_enqueued):
    def act(jobs, call_next):
        call_next(jobs)
        return call_next(jobs)

    when_enqueued(act)
    with pytest.raises(MiddlewareError, match="twice"):
        plain.enqueue()
    assert not Job.objects.exists()


def test_a_layer_may_add_a_job(when_enqueued):
    def act(jobs, call_next):
        extra = Job(task_path=f"{__name__}.greets", args=["extra"], enqueued_at=timezone.now())
        return call_next([*jobs, extra])

    when_enqueued(act)
    result = plain.enqueue()
    assert Job.objects.count() == 2
    assert Job.objects.get(pk=result.id).task_name == "plain"


def test_retries_do_not_pass_through_enqueueing(when_enqueued):
    job = Job.objects.get(pk=plain.enqueue().id)
    cancel([job.pk])
    retry([job.pk])
    assert len(Enqueueing.calls) == 1


# -- the tasks ------------------------------------------------------------------------------------


@task
def plain():
    return "plain"


@task
async def asyncly():
    await asyncio.sleep(0)
    return "asyncly"


@task(middleware=[First])
def layered():
    return "layered"


@task
def greets(greeting, *, user="nobody", **others):
    return [greeting, user, others]


@task
async def agreets(greeting, *, user="nobody", **others):
    return [greeting, user, others]


@task
def plain_greeting(greeting, user):
    return [greeting, user]


@task
def writes(name):
    Effect.objects.create(name=name)


@task
async def awrites(name):
    await Effect.objects.acreate(name=name)


@task
async def asks_for_its_thread():
    return await sync_to_async(database_thread)()


def test_the_execution_of_these_tests_is_the_workers_own():
    assert isinstance(execution(), Execution)
    assert claimed_run(plain).job.status == Job.Status.RUNNING
