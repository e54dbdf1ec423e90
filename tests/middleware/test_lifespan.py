"""What layers set up with a worker and its threads, what they leave out of its claims, and what jobs tell meanwhile."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
from django.core.management import call_command

from django_jobqueue import enqueue_many, task
from django_jobqueue.lifecycle import Progress, report
from django_jobqueue.middleware import Middleware, current_job
from django_jobqueue.models import Job

from ..lifecycle.steps import enqueue, fresh, take_one
from ..lifecycle.steps import worker as worker_row
from ..tasks import add, noop
from ..worker.workers import drain, make_worker, working

notes: list[object] = []
GATE = threading.Event()


@pytest.fixture(autouse=True)
def clean(queue_db):
    notes.clear()
    GATE.clear()
    yield
    GATE.set()


def layers(*names):
    return [f"tests.middleware.test_lifespan.{name}" for name in names]


class Outer(Middleware):
    @contextmanager
    def worker_lifespan(self, worker):
        notes.append("outer>")
        worker.state.client = "connected"
        yield
        notes.append("<outer")


class Inner(Middleware):
    def worker_lifespan(self, worker):  # the decorator is easily forgotten
        notes.append("inner>")
        yield
        notes.append("<inner")


class InThreads(Middleware):
    @contextmanager
    def thread_lifespan(self, worker):
        notes.append(("begin", threading.get_ident()))
        yield
        notes.append(("end", threading.get_ident()))


class CannotBegin(Middleware):
    @contextmanager
    def worker_lifespan(self, worker):
        raise LookupError("no such server")
        yield


class CannotBeginThreads(Middleware):
    @contextmanager
    def thread_lifespan(self, worker):
        raise LookupError("no such server")
        yield


class EndsBadly(Middleware):
    @contextmanager
    def worker_lifespan(self, worker):
        yield
        raise LookupError("no such server")

    @contextmanager
    def thread_lifespan(self, worker):
        yield
        raise LookupError("no such server")


class NoSums(Middleware):
    """Leaves the sums to others."""

    def filter_claim(self, jobs, worker):
        return jobs.exclude(task_path="tests.tasks.add")


class OnlyMail(Middleware):
    def filter_claim(self, jobs, worker):
        return jobs.filter(queue_name__in=["mail", "default"], priority__gte=-50)


class Nothing(Middleware):
    def filter_claim(self, jobs, worker):
        return jobs.none()


class Joins(Middleware):
    def filter_claim(self, jobs, worker):
        return jobs.filter(worker__name="x")


class BreaksFilter(Middleware):
    broken = True

    def filter_claim(self, jobs, worker):
        if self.broken:
            notes.append("asked")
            raise LookupError("no such limit")
        return jobs


@task
def who():
    notes.append(threading.get_ident())


@task(takes_context=True)
def client(context):
    return context.worker.state.client


@task(takes_context=True)
def tells(context):
    context.progress(3, 10, "three of ten\x00")
    GATE.wait(10)


# -- lifespans ------------------------------------------------------------------------------------


def test_lifespans_are_entered_in_the_order_of_the_layers_and_left_in_the_reverse(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Outer", "Inner")
    job = enqueue(client)
    drain()
    assert notes == ["outer>", "inner>", "<inner", "<outer"]
    assert fresh(job).result == "connected", "what a layer puts on worker.state is there for jobs"


def test_each_slot_thread_has_a_life_of_its_own(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("InThreads")
    enqueue(who)
    drain(threads=3)
    begun = {thread for what, thread in [note for note in notes if isinstance(note, tuple)] if what == "begin"}
    (thread,) = [note for note in notes if isinstance(note, int)]
    assert len(begun) == 3 and thread in begun


def test_a_life_that_cannot_begin_keeps_the_worker_from_starting(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Outer", "CannotBegin", "Inner")
    enqueue(noop)
    with pytest.raises(LookupError, match="no such server"):
        make_worker(drain=1.0).run()
    assert notes == ["outer>", "<outer"], "what had begun has ended"
    assert Job.objects.get().status == "READY"


def test_runworker_ends_with_another_code_than_0_then(settings, spawn):
    process = spawn("runworker", "--drain", DJANGO_SETTINGS_MODULE="tests.middleware.broken_settings")
    assert process.wait(30) == 1
    assert "no such server" in process.log.read_text()


def test_a_threads_life_that_cannot_begin_stops_the_worker(settings, caplog):
    settings.JOBQUEUE_MIDDLEWARE = layers("CannotBeginThreads")
    worker = make_worker()
    worker.run()
    assert worker.exit_code == 1 and "A thread for jobs cannot begin" in caplog.text


def test_an_end_that_raises_is_logged_and_changes_nothing(settings, caplog):
    settings.JOBQUEUE_MIDDLEWARE = layers("EndsBadly", "Outer")
    job = enqueue(noop)
    worker = drain()
    assert worker.exit_code == 0 and fresh(job).status == "SUCCESSFUL" and "no such server" in caplog.text
    assert notes == ["outer>", "<outer"]


# -- what is claimed ------------------------------------------------------------------------------


def test_what_a_layer_leaves_out_stays_in_line_for_others(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("NoSums")
    sums = enqueue_many([add.s(1, 2)] * 30)
    others = enqueue_many([noop.s()] * 30)
    drain()
    assert set(Job.objects.filter(pk__in=[r.id for r in sums]).values_list("status", flat=True)) == {"READY"}
    assert set(Job.objects.filter(pk__in=[r.id for r in others]).values_list("status", flat=True)) == {"SUCCESSFUL"}
    settings.JOBQUEUE_MIDDLEWARE = []
    drain()
    assert not Job.objects.unfinished().exists()


def test_several_filters_narrow_further_and_further(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("NoSums", "OnlyMail")
    kept = [enqueue(add.using(queue_name="mail"), 1, 2), enqueue(noop.using(queue_name="pdf"))]
    low, done = enqueue(noop.using(queue_name="mail", priority=-60)), enqueue(noop.using(queue_name="mail"))
    drain()
    assert [fresh(job).status for job in (*kept, low, done)] == ["READY", "READY", "READY", "SUCCESSFUL"]


def test_who_leaves_out_everything_claims_nothing(settings):
    settings.JOBQUEUE_MIDDLEWARE = layers("Nothing")
    job = enqueue(noop)
    drain()
    assert fresh(job).status == "READY"


@pytest.mark.parametrize("name", ["BreaksFilter", "Joins"])
def test_g10_a_filter_that_raises_lets_nothing_pass(settings, name, caplog, eventually):
    settings.JOBQUEUE_MIDDLEWARE = layers(name)
    job = enqueue(noop)
    with working():
        eventually(lambda: "filter_claim raised" in caplog.text)
        assert fresh(job).status == "READY"


def test_a_filter_that_has_recovered_is_asked_again(settings, monkeypatch, eventually):
    settings.JOBQUEUE_MIDDLEWARE = layers("BreaksFilter")
    job = enqueue(noop)
    with working():
        eventually(lambda: notes)
        monkeypatch.setattr(BreaksFilter, "broken", False)
        eventually(lambda: fresh(job).status == "SUCCESSFUL")


# -- progress -------------------------------------------------------------------------------------


def test_how_far_a_running_job_is_can_be_seen(eventually):
    job = enqueue(tells)
    with working():
        eventually(lambda: fresh(job).progress)
        assert fresh(job).progress == {"done": 3, "total": 10, "message": "three of ten␀"}
        GATE.set()


def test_g4_a_lost_attempt_tells_nothing_of_its_progress():
    job = enqueue(noop)
    claimed = take_one(worker_row())
    assert report([Progress(job.pk, claimed.fence, 1, 2)], "default") == 1
    Job.objects.filter(pk=job.pk).update(fence=claimed.fence + 1)
    assert report([Progress(job.pk, claimed.fence, 2, 2)], "default") == 0
    assert fresh(job).progress["done"] == 1


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_progress_is_told_in_finite_numbers(number):
    job = enqueue(tells_nonsense, repr(number))
    drain()
    assert fresh(job).status == "FAILED" and "finite" in job.attempt_set.get().message


@task
def tells_nonsense(number):
    current_job().progress(float(number), 10)


def test_what_a_job_puts_on_record_is_kept_with_its_attempt():
    job = enqueue(keeps)
    drain()
    attempt = job.attempt_set.get()
    assert (fresh(job).status, attempt.outcome, attempt.log) == ("SUCCESSFUL", "succeeded", "first\nsecond␀\n")
    other = enqueue(noop)
    drain()
    assert other.attempt_set.get().log is None


@task
def keeps():
    current_job().keep_log("first\n")
    current_job().keep_log("second\x00\n")


def test_the_command_takes_the_layers_too(settings, capsys):
    settings.JOBQUEUE_MIDDLEWARE = layers("Outer")
    job = enqueue(client)
    call_command("runworker", "--drain", "--no-autoreload")
    assert fresh(job).result == "connected"
