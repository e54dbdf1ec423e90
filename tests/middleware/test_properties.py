"""Whatever layers do, in whatever order: what comes of it is what the rules say, as a small model writes them down."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from django_jobqueue import Skip, enqueue_many, task
from django_jobqueue.exceptions import MiddlewareError
from django_jobqueue.lifecycle import Run, finish
from django_jobqueue.middleware import Middleware
from django_jobqueue.middleware import chain as chain_module
from django_jobqueue.models import Attempt, Job

from ..lifecycle import steps
from ..models import Effect
from ..worker.runs import execution, run_async, run_sync

# A fixture keeps its database for all examples; each begins by emptying its tables.
examples = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Boom(Exception):
    """What layers and tasks raise here."""


log: list[object] = []

# -- around the task: the layers ------------------------------------------------------------------
#
# Each is a generator: what it yields is given to call_next, and what that returns or raises comes back. So one text
# makes the sync layer, the async one, and the one with both hooks.


def passes(number):
    return (yield {})


def raises_before(number):
    raise Boom(f"before {number}")
    yield


def raises_after(number):
    yield {}
    raise Boom(f"after {number}")


def skips(number):
    raise Skip(f"skipped by {number}")
    yield


def skips_with_a_result(number):
    raise Skip("known", result=number)
    yield


def injects(number):
    return (yield {"even" if number % 2 == 0 else "odd": number})


def calls_twice(number):
    yield {}
    return (yield {})


def calls_twice_in_secret(number):
    """Not even a layer that hides the guard's error makes the task run again."""
    result = yield {}
    with suppress(MiddlewareError):
        yield {}
    return result


def calls_again_after_an_error(number):
    try:
        return (yield {})
    except Exception:
        return (yield {})


def never_calls(number):
    return "made up"
    yield


def swallows(number):
    try:
        return (yield {})
    except Exception:
        return f"swallowed by {number}"


def changes_the_result(number):
    return [number, (yield {})]


DEEDS = [
    passes, raises_before, raises_after, skips, skips_with_a_result, injects, calls_twice, calls_twice_in_secret,
    calls_again_after_an_error, never_calls, swallows, changes_the_result,
]  # fmt: skip


def perform(deed, number, context, call_next, stage=""):
    log.append((f"{stage}{number}>", dict(context.injected)))
    try:
        steps_of_it = deed(number)
        try:
            injected = next(steps_of_it)
            while True:
                try:
                    result = call_next(**injected)
                except BaseException as error:
                    injected = steps_of_it.throw(error)
                else:
                    injected = steps_of_it.send(result)
        except StopIteration as end:
            return end.value
    finally:
        log.append(f"{stage}<{number}")


async def aperform(deed, number, context, call_next):
    log.append((f"{number}>", dict(context.injected)))
    try:
        steps_of_it = deed(number)
        try:
            injected = next(steps_of_it)
            while True:
                try:
                    result = await call_next(**injected)
                except BaseException as error:
                    injected = steps_of_it.throw(error)
                else:
                    injected = steps_of_it.send(result)
        except StopIteration as end:
            return end.value
    finally:
        log.append(f"<{number}")


def sync_function(deed, number):
    return lambda context, call_next: perform(deed, number, context, call_next)


def async_function(deed, number):
    async def layer(context, call_next):
        return await aperform(deed, number, context, call_next)

    return layer


def sync_class(deed, number):
    class Layer(Middleware):
        def process_job(self, context, call_next):
            return perform(deed, number, context, call_next)

    return Layer()


def async_class(deed, number):
    class Layer(Middleware):
        async def aprocess_job(self, context, call_next):
            return await aperform(deed, number, context, call_next)

    return Layer()


def twin(deed, number):
    class Layer(Middleware):
        def process_job(self, context, call_next):
            return perform(deed, number, context, call_next)

        async def aprocess_job(self, context, call_next):
            return await aperform(deed, number, context, call_next)

    return Layer()


KINDS = [sync_function, async_function, sync_class, async_class, twin]

# -- around the task: the model -------------------------------------------------------------------


TWICE = "A middleware called call_next() twice; the task ran once."
WITHOUT = "A middleware returned without call_next(); raise Skip to skip the job."
COMPLETED_TWICE = "A middleware called call_next() twice in process_complete."
COMPLETED_WITHOUT = "A middleware returned from process_complete without call_next()."
COMPLETION_HIDDEN = "A middleware hid that process_complete of an inner one raised: nothing was written."


def according_to_the_rules(deeds, inner, seen, injected=None, stage="", rows=None):
    """``(result, None)`` or ``(None, error)`` of the layers with these numbers and deeds around ``inner``, which gets
    what they inject; ``seen`` gets what the log has, ``rows`` what the hooks of a stage write.
    """
    injected = injected or {}
    if not deeds:
        return inner(injected)
    ((number, deed), *others), more = deeds, {}
    rows = [] if rows is None else rows
    rows.append(f"{stage}{number}>")
    seen.append((f"{stage}{number}>", dict(injected)))
    if deed is injects:
        more = {"even" if number % 2 == 0 else "odd": number}
    end = {
        raises_before: (None, ("Boom", f"before {number}")),
        skips: (None, ("Skip", f"skipped by {number}")),
        skips_with_a_result: (None, ("Skip", number)),
        never_calls: (None, ("MiddlewareError", WITHOUT)),
    }.get(deed)
    if end is None:
        result, error = according_to_the_rules(others, inner, seen, {**injected, **more}, stage, rows)
        end = (result, error)
        if error is None and deed is raises_after:
            end = (None, ("Boom", f"after {number}"))
        elif (error is None and deed is calls_twice) or (error and deed is calls_again_after_an_error):
            end = (None, ("MiddlewareError", TWICE))
        elif error and deed is swallows:
            end = (f"swallowed by {number}", None)
        elif error is None and deed is changes_the_result:
            end = ([number, result], None)
    seen.append(f"{stage}<{number}")
    if end[1] is None or end[1][1] == WITHOUT:  # that is said when the hook has returned
        rows.append(f"{stage}<{number}")
    return end


def task_by_the_rules(seen, raises):
    def end(injected):
        seen.append(("task", dict(injected)))
        return (None, ("Boom", "task")) if raises else (["done", dict(injected)], None)

    return end


def outcome_by_the_rules(end, max_attempts):
    """``(state, status, result, message)``"""
    result, error = end
    match error:
        case None:
            return "succeeded", "SUCCESSFUL", result, ""
        case "Skip", int(known):
            return "skipped", "SUCCESSFUL", known, "known"
        case "Skip", reason:
            return "skipped", "CANCELLED", None, reason
        case "Fail", words:
            return "failed", "FAILED", None, f"Fail: {words}"
        case name, words:
            state = ("retrying", "READY") if max_attempts > 1 else ("failed", "FAILED")
            return *state, None, f"{name}: {words}"


@task
def plain(raises, *, even=None, odd=None):
    return ends(raises, even, odd)


@task
async def asyncly(raises, *, even=None, odd=None):
    await asyncio.sleep(0)
    return ends(raises, even, odd)


def ends(raises, even, odd):
    given = {name: value for name, value in (("even", even), ("odd", odd)) if value is not None}
    log.append(("task", given))
    if raises:
        raise Boom("task")
    return ["done", given]


stacks = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from(DEEDS)), max_size=5)


@pytest.mark.once
@pytest.mark.parametrize("is_async", [False, True], ids=["sync task", "async task"])
@given(stack=stacks, raises=st.booleans(), max_attempts=st.sampled_from([1, 2]))
@example(stack=[(sync_function, calls_twice_in_secret)], raises=False, max_attempts=1)
@example(stack=[(async_class, calls_again_after_an_error)], raises=True, max_attempts=2)
@example(stack=[(twin, swallows), (sync_class, never_calls), (twin, passes)], raises=False, max_attempts=1)
@settings(examples, max_examples=150)
def test_whatever_layers_do_the_task_runs_at_most_once_and_ends_as_the_rules_say(is_async, stack, raises, max_attempts):
    deeds, seen = [deed for _, deed in stack], []
    end = according_to_the_rules(list(enumerate(deeds)), task_by_the_rules(seen, raises), seen)
    log.clear()
    layers = tuple(kind(deed, number) for number, (kind, deed) in enumerate(stack))
    run, made = (run_async, asyncly) if is_async else (run_sync, plain)
    outcome = run(made, raises, middleware=layers, max_attempts=max_attempts, backoff=1.0)
    assert log == seen, "who ran in which order, and what each saw that others had injected"
    runs = sum(note[0] == "task" for note in log if isinstance(note, tuple))
    assert runs == (0 if {raises_before, skips, skips_with_a_result, never_calls} & set(deeds) else 1)
    state, status, result, message = outcome_by_the_rules(end, max_attempts)
    assert (outcome.state, outcome.status, outcome.result) == (state, status, result)
    assert outcome.message == message


# -- around enqueueing ----------------------------------------------------------------------------


class Enqueueing(Middleware):
    def __init__(self, deed, number):
        self.deed, self.number = deed, number

    def process_enqueue(self, jobs, call_next):
        log.append((self.number, [name_of(job) for job in jobs]))
        return getattr(self, self.deed)(jobs, call_next)

    def pass_on(self, jobs, call_next):
        return call_next(jobs)

    def drop_the_first(self, jobs, call_next):
        return call_next(jobs[1:])

    def drop_all(self, jobs, call_next):
        return []

    def rename(self, jobs, call_next):
        for job in jobs:
            job.kwargs = {"name": f"{name_of(job)}{self.number}"}
        return call_next(jobs)

    def reverse(self, jobs, call_next):
        return call_next(jobs[::-1])

    def add_one(self, jobs, call_next):
        extra = Job(task_path=named.module_path, kwargs={"name": f"+{self.number}"}, enqueued_at=jobs[0].enqueued_at)
        return call_next([*jobs, extra])

    def forget_to_return(self, jobs, call_next):
        call_next(jobs)

    def write_a_row(self, jobs, call_next):
        Effect.objects.create(name=f"row {self.number}")
        return call_next(jobs)

    def raise_before(self, jobs, call_next):
        raise Boom

    def raise_after(self, jobs, call_next):
        call_next(jobs)
        raise Boom

    def call_twice(self, jobs, call_next):
        call_next(jobs)
        return call_next(jobs)

    def swallow(self, jobs, call_next):
        """What has gone wrong further in: nothing is known of what was saved by then."""
        with suppress(Boom):
            return call_next(jobs)
        raise LookupError


def name_of(job):
    return job.kwargs["name"]


@task
def named(name):
    pass


ENQUEUEING = [name for name in vars(Enqueueing) if not name.startswith(("_", "process"))]


def enqueued_by_the_rules(deeds, jobs, seen, rows, number=0):
    """The names of the jobs that are written, in their order; what is raised instead is raised."""
    if not deeds:
        return jobs
    deed, *others = deeds
    seen.append((number, list(jobs)))
    if deed == "raise_before":
        raise Boom
    if deed == "drop_all":
        return []
    if deed == "write_a_row":
        rows.append(f"row {number}")
    handed_on = {
        "drop_the_first": jobs[1:],
        "rename": [f"{name}{number}" for name in jobs],
        "reverse": jobs[::-1],
        "add_one": [*jobs, f"+{number}"],
    }.get(deed, jobs)
    try:
        written = enqueued_by_the_rules(others, handed_on, seen, rows, number + 1)
    except Boom:
        if deed == "swallow":
            raise LookupError from None
        raise
    if deed == "raise_after":
        raise Boom
    if deed == "call_twice":
        raise MiddlewareError
    return written


@pytest.fixture
def project(monkeypatch):
    """Let the project have these layers."""

    def have(layers):
        found = tuple(layers)
        monkeypatch.setattr("django_jobqueue.middleware.chain.project_layers", lambda: found)
        monkeypatch.setattr("django_jobqueue.worker.execution.project_layers", lambda: found)

    return have


@given(deeds=st.lists(st.sampled_from(ENQUEUEING), max_size=5), count=st.integers(1, 4))
@example(deeds=["write_a_row", "pass_on", "raise_after"], count=2)
@settings(examples, max_examples=100)
def test_whatever_layers_do_around_an_enqueue_all_is_saved_that_they_hand_on_or_nothing(db, project, deeds, count):
    # a layer that gets nothing cannot copy a time from the first
    assume("add_one" not in deeds or not any(deed.startswith("drop") for deed in deeds))
    Job.objects.all().delete()
    Effect.objects.all().delete()
    names, seen, rows, error = list("abcd"[:count]), [], [], None
    try:
        written = enqueued_by_the_rules(deeds, names, seen, rows)
    except (Boom, MiddlewareError, LookupError) as raised:
        written, rows, error = [], [], type(raised)
    log.clear()
    project([Enqueueing(deed, number) for number, deed in enumerate(deeds)])
    if error:
        with pytest.raises(error):
            enqueue_many([named.s(name=name) for name in names])
    else:
        results = enqueue_many([named.s(name=name) for name in names])
        saved = {result.id: result.kwargs["name"] for result in results if result.id}
        there = {str(job.pk): name_of(job) for job in Job.objects.all()}
        assert saved.items() <= there.items(), "the caller knows what became of its calls"
        assert len(there) - len(saved) == sum(name.startswith("+") for name in there.values())
    assert log == seen, "who saw what, in which order"
    assert [name_of(job) for job in Job.objects.order_by("pk")] == written
    assert sorted(Effect.objects.values_list("name", flat=True)) == sorted(rows)


# -- around the outcome ---------------------------------------------------------------------------


class Completing(Middleware):
    def __init__(self, deed, number):
        self.deed, self.number = deed, number

    def process_complete(self, context, outcome, call_next):
        log.append((self.number, str(outcome.state), outcome.message or outcome.result))
        Effect.objects.create(name=f"before {self.number}")
        getattr(self, self.deed)(outcome, call_next)
        Effect.objects.create(name=f"after {self.number}")

    def pass_on(self, outcome, call_next):
        call_next()

    def change_the_result(self, outcome, call_next):
        call_next(outcome.replace(result=[self.number, outcome.result]))

    def change_the_message(self, outcome, call_next):
        call_next(outcome.replace(message=f"{outcome.message}{self.number}"))

    def raise_before(self, outcome, call_next):
        raise Boom("completing")

    def raise_after(self, outcome, call_next):
        call_next()
        raise Boom("completing")

    def never_call(self, outcome, call_next):
        pass

    def call_twice(self, outcome, call_next):
        call_next()
        call_next()

    def swallow(self, outcome, call_next):
        with suppress(Boom):
            call_next()


COMPLETING = [name for name in vars(Completing) if not name.startswith(("_", "process"))]


def completed_by_the_rules(deeds, state, result, message, seen, rows, written):
    """Raises what the layers with these numbers and deeds raise; ``written`` gets the ``(result, message)`` of the
    outcome, if it comes so far.
    """
    if not deeds:
        written.append((result, message))
        return
    (number, deed), *others = deeds
    seen.append((number, state, message or result))
    rows.append(f"before {number}")
    if deed == "raise_before":
        raise Boom("completing")
    if deed == "never_call":
        raise MiddlewareError(COMPLETED_WITHOUT)
    if deed == "change_the_result":
        result = [number, result]
    if deed == "change_the_message":
        message = f"{message}{number}"
    with suppress(Boom if deed == "swallow" else ()):
        completed_by_the_rules(others, state, result, message, seen, rows, written)
    if deed == "raise_after":
        raise Boom("completing")
    if deed == "call_twice":
        raise MiddlewareError(COMPLETED_TWICE)
    rows.append(f"after {number}")


@task
def finishes(raises):
    if raises:
        raise KeyError("task")
    return "done"


@task
async def afinishes(raises):
    return finishes.func(raises)


def work_off(made, job):
    """Run the claimed job as a worker does; what the thread that ran it has not written, the completer writes."""
    run, bare = Run(job=job, worker_id=job.worker_id), execution()
    if made is afinishes:
        asyncio.run(bare.arun(run, made))
    else:
        bare.run(run, made)
    if not run.is_written:
        finish([run], steps.USING)


@pytest.mark.parametrize("made", [finishes, afinishes], ids=["sync task", "async task"])
@given(deeds=st.lists(st.sampled_from(COMPLETING), min_size=1, max_size=4), raises=st.booleans())
@example(deeds=["pass_on", "raise_after"], raises=False)
@example(deeds=["swallow", "raise_before"], raises=False)
@example(deeds=["swallow", "raise_after"], raises=True)
@example(deeds=["change_the_message"], raises=False)
@settings(examples, max_examples=40)
def test_whatever_layers_do_around_an_outcome_their_rows_are_there_with_it_or_not_at_all(
    queue_db, project, made, deeds, raises
):
    for model in (Attempt, Job, Effect):
        model.objects.all().delete()
    state = "failed" if raises else "succeeded"
    result, message = (None, "KeyError: 'task'") if raises else ("done", "")
    seen, rows, written, error = [], [], [], None
    try:
        completed_by_the_rules(list(enumerate(deeds)), state, result, message, seen, rows, written)
        if not written:
            raise MiddlewareError(COMPLETION_HIDDEN)
        result, message = written[0]
    except (Boom, MiddlewareError) as raised:
        rows, error = [], f"{type(raised).__name__}: {raised}"
    log.clear()
    project([Completing(deed, number) for number, deed in enumerate(deeds)])
    job = steps.started(made, raises)
    work_off(made, job)
    assert log == seen, "who saw what, in which order"
    assert sorted(Effect.objects.values_list("name", flat=True)) == sorted(rows)
    (attempt,) = steps.attempts(job)
    if error and not raises:  # a success that cannot be completed is none
        assert (attempt.outcome, steps.fresh(job).status) == ("failed", "FAILED")
        assert attempt.message == error
    else:
        assert (attempt.outcome, steps.fresh(job).result, attempt.message) == (state, result, message)


def test_the_layers_of_these_tests_are_what_a_chain_is_made_of():
    """Else the tests would prove something about other things."""
    for kind in KINDS:
        assert chain_module.hook_for(kind(passes, 0), want_async=False) is not None
