"""Whatever layers do around a task and in its transactions: order, calls, rows and outcome are what the rules say."""

import asyncio
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from django_jobqueue import Fail, Retry, Skip, task
from django_jobqueue.exceptions import MiddlewareError
from django_jobqueue.lifecycle import Run, finish
from django_jobqueue.middleware import Middleware
from django_jobqueue.models import Attempt, Job

from ..lifecycle import steps
from ..models import Effect
from ..worker.runs import execution
from .test_properties import (
    COMPLETION_HIDDEN,
    Boom,
    Completing,
    according_to_the_rules,
    calls_again_after_an_error,
    calls_twice,
    calls_twice_in_secret,
    completed_by_the_rules,
    examples,
    injects,
    log,
    never_calls,
    outcome_by_the_rules,
    passes,
    perform,
    project,
    raises_after,
    raises_before,
    skips,
    skips_with_a_result,
    swallows,
)

__all__ = ["project"]

PREPARING = [
    passes, raises_before, raises_after, skips, skips_with_a_result, injects, calls_twice, calls_twice_in_secret,
    calls_again_after_an_error, never_calls, swallows,
]  # fmt: skip
DOING = [passes, raises_before, raises_after, injects, calls_twice, swallows, skips_with_a_result]
PREPARATION_HIDDEN = "A middleware hid that process_prepare of an inner one raised: the task did not run."
COMPLETING = [
    "pass_on", "change_the_result", "change_the_message", "raise_before", "raise_after", "never_call", "call_twice",
    "swallow",
]  # fmt: skip
HOWS = ["return", "raise", "retry", "skip", "skip with a result", "fail"]
#: What is most often left out comes first: so hypothesis shrinks towards layers with few hooks.
deed_or_none = {name: st.one_of(st.none(), st.sampled_from(deeds)) for name, deeds in (
    ("prepare", PREPARING), ("do", DOING), ("complete", COMPLETING),
)}  # fmt: skip


@dataclass(frozen=True)
class Deeds:
    """What one layer does in its hooks; None: it has no such hook."""

    prepare: object = None
    do: object = None
    complete: str | None = None
    #: What its ``completes`` says.
    wants: bool = True


stacks = st.lists(st.builds(Deeds, wants=st.sampled_from([True, True, False]), **deed_or_none), max_size=4)


def layer(deeds, number):
    """A layer with the hooks that it needs and no others, each of which writes a row when it begins and ends."""

    def around(deed, stage, context, call_next):
        Effect.objects.create(name=f"{stage}{number}>")
        result = perform(deed, number, context, call_next, stage)
        Effect.objects.create(name=f"{stage}<{number}")
        return result

    def completes(self, context):
        return deeds.wants

    hooks = {"completes": completes}
    if deeds.prepare:
        hooks["process_prepare"] = lambda self, *args: around(deeds.prepare, "prepare ", *args)
    if deeds.do:
        hooks["process_job"] = lambda self, *args: around(deeds.do, "do ", *args)
    if deeds.complete:
        completing = Completing(deeds.complete, number)
        hooks["process_complete"] = lambda self, *args: completing.process_complete(*args)
    return type("Layer", (Middleware,), hooks)()


def does(how, even, odd):
    given = {name: value for name, value in (("even", even), ("odd", odd)) if value is not None}
    log.append(("task", given))
    match how:
        case "raise":
            raise Boom("task")
        case "retry":
            raise Retry("again", delay=5)
        case "skip":
            raise Skip("not today")
        case "skip with a result":
            raise Skip("known", result=99)
        case "fail":
            raise Fail("never")
    return ["done", given]


@task
def staged(how, *, even=None, odd=None):
    Effect.objects.create(name="task")
    return does(how, even, odd)


@task
async def asyncly(how, *, even=None, odd=None):
    await Effect.objects.acreate(name="task")
    return does(how, even, odd)


@task(atomic=True)
def whole(how, *, even=None, odd=None):
    Effect.objects.create(name="task")
    return does(how, even, odd)


# -- the model ------------------------------------------------------------------------------------


@dataclass
class Told:
    """What the model says will be seen: calls in their order, rows that stay, and the end."""

    seen: list
    rows: list
    end: tuple = ()


def told_by_the_rules(stack, how, max_attempts, *, atomic):
    numbered, told = list(enumerate(stack)), Told([], [])
    preparing = [(number, deeds.prepare) for number, deeds in numbered if deeds.prepare]
    doing = [(number, deeds.do) for number, deeds in numbered if deeds.do]
    prepared, done, reached = [], [], []

    def end_of_prepare(injected):
        reached.append(injected)
        return None, None

    _, error = according_to_the_rules(preparing, end_of_prepare, told.seen, stage="prepare ", rows=prepared)
    if not error and not reached:
        error = "MiddlewareError", PREPARATION_HIDDEN
    if error:
        prepared, result = [], None
    else:
        task_of_it = task_by_the_rules(how, told.seen, done)
        result, error = according_to_the_rules(doing, task_of_it, told.seen, reached[0], "do ", done)
    outcome = outcome_by_the_rules((result, error), max_attempts)
    completing = [(number, deeds.complete) for number, deeds in numbered if deeds.complete and deeds.wants]
    completed, outcome, well = completed_or_not(completing, outcome, max_attempts, told.seen)
    if not atomic:
        told.rows = prepared + done + completed
    elif outcome_by_the_rules((result, error), max_attempts)[0] != "succeeded":
        told.rows = completed  # what it had done is undone, and the end of that is completed on its own
    else:
        told.rows = prepared + done + completed if well else []
    told.end = outcome
    return told


def task_by_the_rules(how, seen, rows):
    def end(injected):
        seen.append(("task", dict(injected)))
        rows.append("task")
        return {
            "return": (["done", dict(injected)], None),
            "raise": (None, ("Boom", "task")),
            "retry": (None, ("Retry", "again")),
            "skip": (None, ("Skip", "not today")),
            "skip with a result": (None, ("Skip", 99)),
            "fail": (None, ("Fail", "never")),
        }[how]

    return end


def completed_or_not(completing, outcome, max_attempts, seen):
    """The rows of the completion, the outcome that is written, and whether its layers let that happen."""
    if not completing:
        return [], outcome, True
    state, status, result, message = outcome
    rows, written = [], []
    try:
        completed_by_the_rules(completing, state, result, message, seen, rows, written)
        if not written:
            raise MiddlewareError(COMPLETION_HIDDEN)
    except (Boom, MiddlewareError) as error:
        if status == "SUCCESSFUL":
            outcome = outcome_by_the_rules((None, (type(error).__name__, str(error))), max_attempts)
        return [], outcome, False
    return rows, (state, status, *written[0]), True


# -- the proof ------------------------------------------------------------------------------------


def work_off(made, job):
    """Run the claimed job as a worker does; what the thread that ran it has not written, the completer writes."""
    run, bare = Run(job=job, worker_id=job.worker_id), execution()
    if made is asyncly:
        asyncio.run(bare.arun(run, made))
    else:
        bare.run(run, made)
    if not run.is_written:
        finish([run], steps.USING)


@pytest.mark.parametrize("made", [staged, asyncly, whole], ids=["sync task", "async task", "atomic task"])
@given(stack=stacks, how=st.sampled_from(HOWS), max_attempts=st.sampled_from([1, 2]))
@example(stack=[Deeds(prepare=injects), Deeds(do=passes, complete="pass_on")], how="return", max_attempts=1)
@example(stack=[Deeds(complete="pass_on"), Deeds(prepare=raises_after)], how="return", max_attempts=2)
@example(stack=[Deeds(prepare=swallows), Deeds(prepare=raises_before)], how="return", max_attempts=1)
@example(stack=[Deeds(prepare=swallows), Deeds(prepare=raises_after)], how="return", max_attempts=1)
@example(stack=[Deeds(prepare=passes, complete="raise_after"), Deeds(complete="pass_on")], how="return", max_attempts=2)
@example(stack=[Deeds(complete="raise_after")], how="skip with a result", max_attempts=1)
@example(stack=[Deeds(complete="raise_before")], how="retry", max_attempts=2)
@example(stack=[Deeds(prepare=passes, complete="pass_on")], how="raise", max_attempts=2)
@example(stack=[Deeds(complete="swallow"), Deeds(complete="never_call")], how="return", max_attempts=1)
@example(stack=[Deeds(complete="pass_on", wants=False), Deeds(complete="pass_on")], how="return", max_attempts=1)
@example(stack=[Deeds(do=raises_after, prepare=calls_twice_in_secret)], how="return", max_attempts=1)
@settings(examples, max_examples=60)
def test_g5_whatever_layers_do_in_an_attempts_transactions_rows_and_outcome_are_as_the_rules_say(
    queue_db, project, made, stack, how, max_attempts
):
    for model in (Attempt, Job, Effect):
        model.objects.all().delete()
    told = told_by_the_rules(stack, how, max_attempts, atomic=made is whole)
    project([layer(deeds, number) for number, deeds in enumerate(stack)])
    job = steps.started(made.using(max_attempts=max_attempts), how)
    log.clear()
    work_off(made, job)
    assert log == told.seen, "who ran in which order, with what, and nobody twice"
    assert sorted(Effect.objects.values_list("name", flat=True)) == sorted(told.rows)
    (attempt,), row = steps.attempts(job), steps.fresh(job)
    state, status, result, message = told.end
    assert (attempt.outcome, row.status, row.result, attempt.message) == (state, status, result, message)
    assert (row.fence, row.worker_id) == (None, None), "nobody holds it any more"
