"""The transactions of an attempt: prepare, complete, what follows the commit, and tasks that are one transaction."""

from __future__ import annotations

import threading

import pytest
from django.db import connection, transaction

from django_jobqueue import Fail, Retry, Skip, task
from django_jobqueue.compat import InvalidTask, task_started
from django_jobqueue.lifecycle import cancel, reap
from django_jobqueue.middleware import Middleware, current_job
from django_jobqueue.models import Attempt, Job
from django_jobqueue.models import Worker as WorkerRow
from django_jobqueue.outcomes import Outcome, State

from ..lifecycle.steps import enqueue, fresh, outcomes
from ..models import Effect
from ..worker.workers import drain, make_worker, working

notes: list[object] = []
runs: list[object] = []


@pytest.fixture(autouse=True)
def clean(queue_db):
    notes.clear()
    runs.clear()


def layers(*names):
    return [f"tests.middleware.test_stages.{name}" for name in names]


def effects() -> list[str]:
    return sorted(Effect.objects.values_list("name", flat=True))


class Audit(Middleware):
    """Writes a row in each transaction of the attempt."""

    def process_prepare(self, context, call_next):
        Effect.objects.create(name="prepared")
        return call_next(user="anna")

    def process_complete(self, context, outcome, call_next):
        call_next()
        Effect.objects.create(name=f"completed: {outcome.state}", value=fresh(context.job).status)

    def job_finished(self, context, outcome):
        notes.append((context.job.pk, str(outcome.state), connection.in_atomic_block, fresh(context.job).status))


class Outer(Middleware):
    def process_complete(self, context, outcome, call_next):
        notes.append("outer>")
        call_next()
        notes.append("<outer")

    def job_finished(self, context, outcome):
        notes.append("outer finished")


class Inner(Middleware):
    def process_complete(self, context, outcome, call_next):
        notes.append("inner>")
        call_next()
        notes.append("<inner")

    def job_finished(self, context, outcome):
        notes.append("inner finished")


class Breaks(Middleware):
    """Its completion fails, after it has written."""

    def process_complete(self, context, outcome, call_next):
        Effect.objects.create(name="half")
        call_next()
        raise ValueError("no audit, no success")


class BreaksPrepare(Middleware):
    def process_prepare(self, context, call_next):
        Effect.objects.create(name="half")
        raise ValueError("not ready")


class Forgets(Middleware):
    def process_complete(self, context, outcome, call_next):
        pass


class Twice(Middleware):
    def process_complete(self, context, outcome, call_next):
        call_next()
        call_next()


class Changes(Middleware):
    def process_complete(self, context, outcome, call_next):
        if outcome.final:
            call_next(outcome.replace(result={"changed": outcome.result}))
        else:
            call_next(outcome.replace(delay=500.0, queue_name="later", priority=7))


class Choosy(Audit):
    """Completes only what asks for it."""

    options = {"audited": False}

    def completes(self, context):
        if context.option("audited") == "who knows":
            raise LookupError("no idea")
        return context.option("audited")


class Remarks(Middleware):
    def process_complete(self, context, outcome, call_next):
        call_next(outcome.replace(message="at the second look"))


class RefusesToComplete(Middleware):
    def process_complete(self, context, outcome, call_next):
        raise ValueError("not with me")


class Hides(Middleware):
    def process_complete(self, context, outcome, call_next):
        try:
            call_next()
        except ValueError:
            notes.append("hidden")


class Loud(Middleware):
    def job_finished(self, context, outcome):
        notes.append("loud")
        raise ValueError("nobody cares")


@task
def greet(word, *, user="nobody"):
    runs.append(user)
    Effect.objects.create(name="task")
    return f"{word} {user}"


@task
async def agreet(word, *, user="nobody"):
    runs.append(user)
    await Effect.objects.acreate(name="task")
    return f"{word} {user}"


@task(max_attempts=2, backoff=0)
def fails():
    Effect.objects.create(name="task")
    raise KeyError("no")


@task(max_attempts=2, backoff=0)
async def afails():
    await Effect.objects.acreate(name="task")
    raise KeyError("no")


@task(max_attempts=3)
def retries():
    raise Retry("again")


@task(atomic=True, max_attempts=2, backoff=0)
def whole(how="well"):
    Effect.objects.create(name="task")
    runs.append(connection.in_atomic_block)
    if how == "raise":
        raise KeyError("no")
    if how == "skip":
        raise Skip("not today")
    if how == "fail":
        raise Fail("never")
    if how == "unstorable":
        return object()
    if how == "lose it":
        lose(current_job().job)
    return how


def lose(job):
    """As if a reaper had found that the worker is gone: on another connection."""

    def elsewhere():
        Job.objects.filter(pk=job.pk).update(fence=None, status="READY", worker=None)
        connection.close()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(10)


both = pytest.mark.parametrize("made", [greet, agreet], ids=["sync", "async"])


# -- prepare and complete -------------------------------------------------------------------------


@both
def test_prepare_and_complete_are_around_the_task_in_transactions_of_their_own(settings, made):
    settings.JOBQUEUE_MIDDLEWARE = layers("Audit")
    job = enqueue(made, "hello")
    drain()
    assert effects() == ["completed: succeeded", "prepared", "task"]
    assert Effect.objects.get(name__startswith="completed").value == "SUCCESSFUL", "inside, it has been written"
    assert fresh(job).result == "hello anna", "what prepare injects reaches the task"
    assert notes == [(job.pk, "succeeded", False, "SUCCESSFUL")]
    assert Attempt.objects.get().outcome == "succeeded"


@pytest.mark.parametrize("made", [fails, afails], ids=["sync", "async"])
def test_complete_sees_every_attempt_and_whether_it_was_the_last(settings, made):
    settings.JOBQUEUE_MIDDLEWARE = layers("Audit")
    job = enqueue(made)
    drain()
    assert effects() == ["completed: failed", "completed: retrying", "prepared", "prepared", "task", "task"]
    assert [state for _, state, _, _ in notes] == ["retrying", "failed"]
    assert fresh(job).status == "FAILED" and outcomes(job) == ["retrying", "failed"]


@both
def test_a_completion_that_raises_undoes_the_success_and_is_the_attempts_error(settings, made):
    settings.JOBQUEUE_MIDDLEWARE = layers("Audit", "Breaks")
    job = enqueue(made, "hello")
    drain()
    assert effects() == ["prepared", "task"], "what the layers wrote in that transaction is gone"
    attempt = Attempt.objects.get()
    assert (fresh(job).status, attempt.outcome) == ("FAILED", "failed")
    assert attempt.message == "ValueError: no audit, no success" and "Breaks" not in attempt.exception_class_path
    assert [state for _, state, _, _ in notes] == ["failed"]


def test_a_completion_that_raises_changes_nothing_of_a_failure(settings, caplog):
    settings.JOBQUEUE_MIDDLEWARE = layers("Breaks")
    job = enqueue(fails)
    drain()
    assert outcomes(job) == ["retrying", "failed"]
    assert Attempt.objects.get(number=2).exception_class_path == "builtins.KeyError"
    assert effects() == ["task", "task"] and "its outcome is written without" in caplog.text


@pytest.mark.parametrize(("name", "words"), [("Forgets", "without call_next"), ("Twice", "twice")])
def test_a_completion_must_call_on_exactly_once(settings, name, words):
    settings.JOBQUEUE_MIDDLEWARE = layers(name)
    job = enqueue(greet, "hello")
    drain()
    assert fresh(job).status == "FAILED" and words in Attempt.objects.get().message


def test_a_prepare_that_raises_is_as_if_the_task_had(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("BreaksPrepare")
    job = enqueue(greet, "hello")
    drain()
    assert runs == [] and effects() == [] and outcomes(job) == ["failed"]


def test_the_first_layer_is_outermost_and_what_comes_after_is_reversed(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Outer", "Inner")
    enqueue(greet, "hello")
    drain()
    assert notes == ["outer>", "inner>", "<inner", "<outer", "inner finished", "outer finished"]


def test_a_layer_may_change_the_result_and_where_a_retry_goes(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Changes")
    good, again = enqueue(greet, "hello"), enqueue(retries)
    drain()
    assert fresh(good).result == {"changed": "hello nobody"}
    later = fresh(again)
    assert (later.status, later.queue_name, later.priority, later.place) == ("READY", "later", 7, None)
    assert (later.run_after - later.enqueued_at).total_seconds() > 400


def test_a_layer_may_say_something_about_a_success(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Remarks")
    job = enqueue(greet, "hello")
    drain()
    assert fresh(job).result == "hello nobody" and Attempt.objects.get().message == "at the second look"


@pytest.mark.parametrize("made", ["greet", "fails", "whole"])
def test_g2_a_layer_that_hides_what_an_inner_one_raised_does_not_hide_that_nothing_was_written(settings, made):
    settings.JOBQUEUE_MIDDLEWARE = layers("Hides", "RefusesToComplete")
    job = enqueue(greet, "hello") if made == "greet" else enqueue(globals()[made])
    drain()
    expected = ["failed"] if made == "greet" else ["retrying", "failed"]
    assert outcomes(job) == expected and fresh(job).status == "FAILED"
    assert [message for message in notes if isinstance(message, str)] == ["hidden"] * len(expected)


def test_what_a_layer_may_not_change_is_refused():
    with pytest.raises(TypeError, match="status cannot be changed; result, message"):
        Outcome(state=State.FAILED, status="FAILED").replace(status="SUCCESSFUL")


def test_a_layer_of_one_task_has_these_hooks_too(settings):
    settings.JOBQUEUE_MIDDLEWARE = []
    enqueue(audited)
    enqueue(greet, "hello")
    drain()
    assert effects() == ["completed: succeeded", "prepared", "task", "task"]


@task(middleware=[Audit])
def audited():
    Effect.objects.create(name="task")


def test_g4_an_attempt_that_was_lost_completes_nothing(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Audit")
    job = enqueue(loses_itself)
    worker = drain()
    assert worker.counts["lost"] == 1
    assert effects() == ["completed: succeeded", "prepared", "prepared"], "the first run has completed nothing"
    assert outcomes(job) == ["succeeded"]


@both
def test_g4_an_attempt_that_was_lost_before_it_began_prepares_nothing(settings, made):
    settings.JOBQUEUE_MIDDLEWARE = layers("Audit")
    job = enqueue(made, "hello")

    def lose_the_first(sender, **others):
        if not notes:
            notes.append("lost")
            lose(job)

    task_started.connect(lose_the_first)
    try:
        drain()
    finally:
        task_started.disconnect(lose_the_first)
    assert len(runs) == 1 and fresh(job).status == "SUCCESSFUL"
    assert effects() == ["completed: succeeded", "prepared", "task"]


@task
def loses_itself():
    runs.append(1)
    if len(runs) == 1:
        lose(current_job().job)


@both
def test_a_layer_says_for_which_jobs_it_completes(settings, made):
    settings.JOBQUEUE_MIDDLEWARE = layers("Choosy")
    enqueue(made, "hello")
    drain()
    assert effects() == ["prepared", "task"]
    enqueue(made.using(audited=True), "hello")
    drain()
    assert effects() == ["completed: succeeded", "prepared", "prepared", "task", "task"]
    enqueue(made.using(audited="who knows"), "hello")
    drain()
    assert effects().count("completed: succeeded") == 2, "in doubt it is asked"


# -- job_finished ---------------------------------------------------------------------------------


def test_what_job_finished_raises_changes_nothing_and_keeps_nobody_from_its_turn(settings, caplog):
    settings.JOBQUEUE_MIDDLEWARE = layers("Loud", "Outer")
    job = enqueue(greet, "hello")
    drain()
    assert fresh(job).status == "SUCCESSFUL" and {"loud", "outer finished"} <= set(notes)
    assert "job_finished raised" in caplog.text


def test_g2_job_finished_hears_of_attempts_that_were_lost_with_their_worker(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Audit")
    job = enqueue(greet, "hello")
    gone = WorkerRow.objects.create(
        name="gone", hostname="x", pid=1, queues=[], slots=1, lease=1, status="LOST",
        started_at=job.enqueued_at, heartbeat_at=job.enqueued_at, lease_until=job.enqueued_at,
    )  # fmt: skip
    Job.objects.filter(pk=job.pk).update(
        status="RUNNING", worker=gone, fence=5, attempts=1, tries=1, started_at=job.enqueued_at
    )
    worker = make_worker()
    worker._reaped(reap("default"))
    worker.announcer.close()
    worker.announcer.run()
    assert notes == [(job.pk, "lost", False, "READY")]


# -- one transaction ------------------------------------------------------------------------------


def test_g5_an_atomic_task_its_layers_and_its_outcome_are_one_transaction(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Audit")
    job = enqueue(whole)
    drain()
    assert runs == [True] and effects() == ["completed: succeeded", "prepared", "task"]
    assert fresh(job).result == "well" and outcomes(job) == ["succeeded"]


@pytest.mark.parametrize(
    ("how", "states", "message"),
    [
        ("raise", ["retrying", "failed"], "KeyError: 'no'"),
        ("skip", ["skipped"], "not today"),
        ("fail", ["failed"], "Fail: never"),
        ("unstorable", ["failed"], "InvalidResult"),
    ],
)
def test_g5_what_an_atomic_task_did_is_undone_unless_it_succeeds(how, states, message):
    job = enqueue(whole, how)
    drain()
    assert effects() == [] and outcomes(job) == states
    assert all(message in text for text in Attempt.objects.values_list("message", flat=True))


def test_g5_what_an_atomic_task_did_is_undone_when_its_completion_raises(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Breaks")
    job = enqueue(whole)
    drain()
    assert effects() == [] and outcomes(job) == ["retrying", "failed"]


@pytest.mark.skipif(connection.vendor == "sqlite", reason="nobody else can write while the task has SQLite's one lock")
def test_g4_g5_an_atomic_task_that_was_lost_leaves_nothing(eventually):
    job = enqueue(whole, "lose it")
    with working() as worker:
        eventually(lambda: worker.counts["lost"] >= 2)
    assert effects() == [] and outcomes(job) == []


@pytest.mark.skipif(connection.vendor == "sqlite", reason="nobody else can write while the task has SQLite's one lock")
def test_g13_an_atomic_task_does_not_keep_a_cancel_waiting():
    job = enqueue(cancels_itself)
    drain()
    assert runs == ["asked"] and fresh(job).status in ("SUCCESSFUL", "CANCELLED")


@task(atomic=True)
def cancels_itself():
    job = current_job().job

    def elsewhere():
        with transaction.atomic():
            cancel([job.pk])
        runs.append("asked")
        connection.close()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(5)


def test_an_atomic_coroutine_is_refused_when_it_is_declared():
    async def coroutine():
        pass

    with pytest.raises(InvalidTask, match="atomic=True is for sync tasks"):
        task(atomic=True)(coroutine)
