"""The rows: what they are, in words, without any verb."""

import copy
import pickle
from datetime import timedelta

import pytest
from django.db.models import F
from django.db.models.functions import Now
from django.utils import timezone
from model_bakery import baker

from django_jobqueue import enqueue_many
from django_jobqueue.lifecycle import enqueue
from django_jobqueue.models import Attempt, Job, Queue, Worker
from django_jobqueue.models.job import FINISHED, UNFINISHED, defaults

from .tasks import noop


def job(**values) -> Job:
    """A job that is not saved."""
    return Job(**({"task_path": "shop.tasks.send_receipt", "enqueued_at": timezone.now()} | values))


# -- job ------------------------------------------------------------------------------------------


def test_a_job_is_called_by_its_task():
    made = job(pk=7)
    assert made.task_name == "send_receipt" and str(made) == "send_receipt #7"
    assert job(task_path="bare").task_name == "bare"


def test_a_call_reads_as_one_would_write_it():
    assert job(args=[42], kwargs={"copy": True, "note": "größer"}).call == 'send_receipt(42, copy=true, note="größer")'
    assert job().call == "send_receipt()"


@pytest.mark.parametrize("status", Job.Status.values)
def test_finished_or_not(status):
    assert job(status=status).is_finished is (status in ("SUCCESSFUL", "FAILED", "CANCELLED"))
    assert (status in FINISHED) is not (status in UNFINISHED)


def test_scheduled_means_ready_without_a_place():
    assert job(place=None).is_scheduled and not job(place=5).is_scheduled
    assert not job(place=None, status="RUNNING").is_scheduled


def test_cancelling_means_running_and_asked():
    now = timezone.now()
    assert job(status="RUNNING", cancel_requested_at=now).is_cancelling
    assert not job(status="RUNNING").is_cancelling and not job(status="FAILED", cancel_requested_at=now).is_cancelling


def test_durations():
    now = timezone.now()
    ago = now - timedelta(seconds=90)
    assert job(status="FAILED", started_at=ago, finished_at=now).duration == timedelta(seconds=90)
    assert timedelta(seconds=89) < job(status="RUNNING", started_at=ago).duration < timedelta(seconds=120)
    assert job(status="READY", started_at=ago).duration is None and job(status="RUNNING").duration is None
    assert timedelta(seconds=89) < job(enqueued_at=ago).age < timedelta(seconds=120)


def test_options_of_a_job():
    assert job(options={"timeout": 0}).option("timeout", 9) == 0
    assert job(options=None).option("timeout", 9) == 9


@pytest.mark.django_db
def test_the_database_draws_the_place():
    jobs = [Job.objects.get(pk=noop.enqueue().id) for _ in range(3)]
    places = [made.place for made in jobs]
    assert all(places) and places == sorted(places) and places[0] > 0


@pytest.mark.django_db
def test_rows_by_what_they_are():
    in_line = baker.make(Job, task_path="a.b", status="READY", place=5)
    scheduled = baker.make(Job, task_path="a.b", status="READY", place=None, run_after=timezone.now())
    others = {
        status: baker.make(Job, task_path="a.b", status=status) for status in Job.Status.values if status != "READY"
    }
    assert list(Job.objects.in_line()) == [in_line]
    assert list(Job.objects.scheduled()) == [scheduled]
    assert list(Job.objects.running()) == [others["RUNNING"]]
    assert list(Job.objects.failed()) == [others["FAILED"]]
    assert set(Job.objects.finished()) == {others[status] for status in ("SUCCESSFUL", "FAILED", "CANCELLED")}
    assert set(Job.objects.unfinished()) == {in_line, scheduled, others["RUNNING"], others["WAITING"]}


@pytest.mark.django_db
def test_due_is_by_the_databases_clock():
    soon, later = (baker.make(Job, task_path="a.b", place=None) for _ in range(2))
    Job.objects.filter(pk=soon.pk).update(run_after=Now() + timedelta(seconds=5))
    Job.objects.filter(pk=later.pk).update(run_after=Now() + timedelta(seconds=500))
    assert list(Job.objects.due()) == []
    assert list(Job.objects.due(within=60)) == [soon]
    Job.objects.update(run_after=F("run_after") - timedelta(seconds=10))
    assert list(Job.objects.due()) == [soon]


# -- the others -----------------------------------------------------------------------------------


def test_an_attempt_in_words():
    now = timezone.now()
    attempt = Attempt(job_id=7, number=2, outcome="lost", started_at=now, finished_at=now + timedelta(seconds=3))
    assert str(attempt) == "attempt 2 of job #7: lost"
    assert attempt.duration == timedelta(seconds=3)
    assert not attempt.is_error and Attempt(exception_class_path="a.B").is_error


@pytest.mark.django_db
def test_an_attempt_is_one_per_number_and_job():
    made = baker.make(Job, task_path="a.b")
    now = timezone.now()
    Attempt.objects.create(job=made, number=1, started_at=now, finished_at=now, outcome="failed")
    Attempt.objects.create(job=made, number=2, started_at=now, finished_at=now, outcome="succeeded")
    assert Attempt.objects.get(pk=(made.pk, 2)).outcome == "succeeded"
    assert [attempt.number for attempt in made.attempt_set.order_by("number")] == [1, 2]
    made.delete()
    assert not Attempt.objects.exists()


def test_a_queue_in_words():
    assert str(Queue(name="mail")) == "mail" and not Queue(name="mail").is_paused
    assert str(Queue(name="mail", paused_at=timezone.now())) == "mail (paused)"


@pytest.mark.parametrize(("status", "alive"), [("RUNNING", 1), ("STOPPING", 1), ("STOPPED", 0), ("LOST", 0)])
def test_a_worker_in_words(status, alive):
    ago = timezone.now() - timedelta(seconds=90)
    worker = Worker(pk=3, name="host:12", status=status, heartbeat_at=ago)
    assert str(worker) == "host:12 #3" and worker.is_alive is bool(alive)
    assert timedelta(seconds=89) < worker.silence < timedelta(seconds=120)


# -- Django's note beside a row


IN_LINE = {**defaults(), "backend": "default", "max_attempts": 1, "enqueued_at": timezone.now()}


@pytest.mark.parametrize("number", [1, 5, 50], ids=["INSERT", "INSERT of many", "COPY"])
@pytest.mark.parametrize("looked_at", [False, True])
def test_a_job_knows_whether_it_is_saved_and_where(transactional_db, number, looked_at):
    jobs = [Job.of(IN_LINE, task_path="tests.tasks.noop", args="[]", kwargs="{}") for _ in range(number)]
    if looked_at:
        assert [(job._state.adding, job._state.db) for job in jobs] == [(True, None)] * number
    enqueue(jobs, "default")
    assert [(job._state.adding, job._state.db) for job in jobs] == [(False, "default")] * number
    assert jobs[0].place is not None, "read on first use, from the database that it is in"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda job: pickle.loads(pickle.dumps(job))])
@pytest.mark.parametrize("using", [None, "default"])
def test_a_job_that_nobody_has_looked_at_can_be_copied_and_pickled(duplicate, using):
    job = Job.of(defaults(), using, id=7)
    other = duplicate(job)
    assert other == job and other is not job
    assert (other._state.adding, other._state.db) == (using is None, using)
    other._state.fields_cache["batch"] = None
    assert not job._state.fields_cache, "each has its own"


def test_jobs_that_nobody_looks_at_have_no_note(transactional_db):
    results = enqueue_many([noop.s() for _ in range(50)])
    assert not any("_state" in job.__dict__ for job in results._jobs), "to make one takes as long as to make the job"
