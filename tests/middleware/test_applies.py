"""Layers that say what they have nothing to do for: by ``applies`` for jobs, by ``outcome_written`` for outcomes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from django.core.exceptions import ImproperlyConfigured

from django_jobqueue import task
from django_jobqueue.lifecycle import reap
from django_jobqueue.middleware import Middleware
from django_jobqueue.middleware.chain import make_layer, project_layers
from django_jobqueue.middleware.error_context import ErrorContext
from django_jobqueue.models import Job
from django_jobqueue.models import Worker as WorkerRow

from ..lifecycle.steps import enqueue, fall_silent, fresh, outcomes, started
from ..worker.runs import claimed_run, execution, run_sync
from ..worker.workers import drain, make_worker

HERE = "tests.middleware.test_applies"
OURS = "django_jobqueue.middleware"
#: How often each hook was called.
called: Counter[str] = Counter()
HOOKS = {"process_prepare": 1, "process_job": 1, "process_complete": 1, "outcome_written": 1, "job_finished": 1}


@pytest.fixture(autouse=True)
def clean(settings):
    settings.JOBQUEUE_MIDDLEWARE = []
    called.clear()


class Stamps(Middleware):
    """Has all hooks around a job, for jobs that say ``stamp``."""

    options = {"stamp": None, "color": "blue"}

    def applies(self, option):
        called["applies"] += 1
        return option("stamp") is not None

    def process_prepare(self, context, call_next):
        called["process_prepare"] += 1
        return call_next()

    def process_job(self, context, call_next):
        called["process_job"] += 1
        return call_next()

    async def aprocess_job(self, context, call_next):
        called["process_job"] += 1
        return await call_next()

    def process_complete(self, context, outcome, call_next):
        called["process_complete"] += 1
        call_next()

    def outcome_written(self, job, outcome):
        called["outcome_written"] += 1
        return True

    def job_finished(self, context, outcome):
        called["job_finished"] += 1


@task
def sync(how=None):
    if how:
        raise ValueError(how)
    return 1


@task
async def coroutine(how=None):
    return 1


@task(middleware=[Stamps], stamp="declared")
def stamped():
    return 1


both = pytest.mark.parametrize("made", [sync, coroutine], ids=["sync", "async"])


# -- applies --------------------------------------------------------------------------------------


@both
def test_a_job_to_which_a_layer_does_not_apply_passes_all_its_hooks_by(queue_db, settings, made):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.Stamps"]
    job = enqueue(made)
    drain()
    assert fresh(job).result == 1 and called == {"applies": 1}


@both
def test_one_to_which_it_applies_passes_none(queue_db, settings, made):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.Stamps"]
    job = enqueue(made.using(stamp="red"))
    drain()
    assert fresh(job).result == 1 and called - Counter(applies=called["applies"]) == HOOKS


def test_what_the_task_says_counts_and_what_the_job_says_counts_more(queue_db):
    enqueue(stamped)
    drain()
    assert called["process_job"] == 1
    enqueue(stamped.using(stamp=None))
    drain()
    assert called["process_job"] == 1


def test_it_is_asked_once_for_a_task_and_for_jobs_that_bring_options_of_its_own(settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.Stamps", f"{OURS}.age_limit.AgeLimit"]
    here = execution()
    project_layers()

    def run(**options):
        run = claimed_run(sync, row={"options": options or None})
        here.run(run, sync)
        assert run.outcome.state == "succeeded"

    for _ in range(3):
        run()
    run(trace_context={"traceparent": "x"})
    assert called["applies"] == 1
    run(color="red")
    assert called == {"applies": 2}


def test_options_that_are_no_object_are_no_options(settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.Stamps"]
    assert run_sync(sync, row={"options": ["stamp"]}).state == "succeeded"
    assert "process_job" not in called


class Louder(Stamps):
    """Knows more than its base, which has said nothing of it."""

    def process_job(self, context, call_next):
        called["louder"] += 1
        return call_next()


class Quieter(Louder):
    def applies(self, option):
        return option("color") == "red"


@both
def test_a_subclass_that_overrides_a_hook_applies_unless_it_says_otherwise(made):
    plan = plan_of(made, Louder())
    assert plan.complete and plan.prepare and plan.followers
    assert not plan_of(made, Quieter()).complete


def plan_of(made, *layers):
    changed = replace(made, middleware=layers)
    return execution().plan(changed, claimed_run(changed).job)


class Confused(Stamps):
    def applies(self, option):
        raise LookupError("which option?")


@pytest.mark.once
def test_one_that_raises_is_taken_to_apply_and_it_is_logged(caplog):
    assert plan_of(sync, Confused()).complete
    assert "applies() of" in caplog.text and "which option?" in caplog.text


@pytest.mark.once
@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("age_limit.AgeLimit", {"expires": 60}),
        ("callbacks.Callbacks", {"on_success": f"{HERE}.sync"}),
        ("rate_limit.RateLimit", {"rate_limit": "5/s"}),
        ("shutdown_notifications.ShutdownNotifications", {"notify_shutdown": True}),
    ],
)
def test_layers_that_only_know_options_are_not_there_for_jobs_without(settings, path, options):
    bare = execution().plan(sync, claimed_run(sync).job)
    settings.JOBQUEUE_MIDDLEWARE = [f"{OURS}.{path}"]
    here = execution()
    without, with_ = claimed_run(sync).job, claimed_run(sync, row={"options": options}).job
    assert here.plan(sync, without) == bare, "the very same chain, and no transaction of its own"
    assert here.plan(sync, with_) != bare


@pytest.mark.once
@pytest.mark.parametrize(
    ("path", "option"), [("log_context.LogContext", "log_level"), ("slow_jobs.SlowJobs", "slow_after")]
)
def test_layers_that_are_switched_off_are_not_there(settings, path, option):
    bare = execution().plan(sync, claimed_run(sync).job)
    settings.JOBQUEUE_MIDDLEWARE = [f"{OURS}.{path}"]
    assert execution().plan(sync, claimed_run(sync).job) != bare
    settings.JOBQUEUE_DEFAULTS = {option: None}
    assert execution().plan(sync, claimed_run(sync).job) == bare


# -- outcome_written ------------------------------------------------------------------------------


class OnlyFailures(Middleware):
    def outcome_written(self, job, outcome):
        called[f"written {outcome.state}"] += 1
        return outcome.state == "failed"

    def job_finished(self, context, outcome):
        called[f"finished {outcome.state}"] += 1


class Hears(OnlyFailures):
    def job_finished(self, context, outcome):
        called[f"heard {outcome.state}"] += 1


class OnlyCounts(Middleware):
    def outcome_written(self, job, outcome):
        called["counted"] += 1


class Stumbles(Middleware):
    def outcome_written(self, job, outcome):
        raise LookupError("no such counter")

    def job_finished(self, context, outcome):
        called[f"finished {outcome.state}"] += 1


def test_job_finished_is_called_for_the_outcomes_that_are_wanted(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.OnlyFailures"]
    enqueue(sync), enqueue(sync, "no")
    drain()
    assert called == {"written succeeded": 1, "written failed": 1, "finished failed": 1}


def test_a_subclass_that_overrides_it_hears_of_all(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.Hears"]
    enqueue(sync), enqueue(sync, "no")
    drain()
    assert called == {"written succeeded": 1, "written failed": 1, "heard succeeded": 1, "heard failed": 1}


def test_a_layer_may_do_with_outcome_written_alone(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.OnlyCounts"]
    enqueue(sync), enqueue(coroutine), enqueue(sync, "no")
    drain()
    assert called == {"counted": 3}


def test_what_it_raises_changes_nothing_and_is_logged(queue_db, settings, caplog):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.Stumbles"]
    job = enqueue(sync)
    drain()
    assert outcomes(job) == ["succeeded"] and called == {"finished succeeded": 1}
    assert "no such counter" in caplog.text


def test_it_is_told_of_a_lost_attempt_by_the_worker_that_found_out(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.OnlyFailures"]
    started(sync)
    fall_silent(WorkerRow.objects.get())
    make_worker()._reaped(reap("default"))
    assert called == {"written lost": 1}


def test_of_a_task_that_is_gone_too(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [f"{HERE}.OnlyFailures"]
    job = started(sync)
    Job.objects.filter(pk=job.pk).update(task_path="tests.no_such_module.gone")
    fall_silent(WorkerRow.objects.get())
    make_worker()._reaped(reap("default"))
    assert called == {"written lost": 1}


@pytest.mark.once
@pytest.mark.parametrize("name", ["outcome_written", "applies"])
def test_neither_may_be_a_coroutine_function(name):
    async def hook(self, *args):
        return False

    with pytest.raises(ImproperlyConfigured, match=name):
        make_layer(type("Coroutine", (Middleware,), {name: hook}))


@pytest.mark.once
def test_no_built_in_layer_wants_to_hear_more_of_a_success(settings):
    names = ("prometheus.Prometheus", "error_context.ErrorContext", "callbacks.Callbacks", "log_context.LogContext")
    settings.JOBQUEUE_MIDDLEWARE = [f"{OURS}.{name}" for name in names]
    settings.JOBQUEUE_PROMETHEUS = {"PORT": None}
    here = execution()
    well, badly = claimed_run(sync), claimed_run(sync, "no")
    for run in (well, badly):
        here.run(run, sync)
    assert here.followers(well.job, well.outcome) == []
    [layer] = [layer for layer in project_layers() if type(layer) is ErrorContext]
    assert here.followers(badly.job, badly.outcome) == [layer.job_finished]
