"""ErrorContext: what an error tracker gets to see."""

from __future__ import annotations

import logging

import pytest

from django_jobqueue import Fail, Retry, Skip, Snooze, task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.middleware.error_context import ErrorContext
from django_jobqueue.models import Worker as WorkerRow

from ..lifecycle.steps import attempts, enqueue, fall_silent, started
from ..worker.workers import drain, working

SHARED = ValueError("always the same")


@pytest.fixture(autouse=True)
def layers(settings):
    settings.JOBQUEUE_MIDDLEWARE = ["django_jobqueue.middleware.error_context.ErrorContext"]


@task(queue_name="mail", max_attempts=2, backoff=0.01)
def breaks(*args, **kwargs):
    raise ValueError("no such order")


@task(max_attempts=2, backoff=0.01)
async def abreaks():
    raise ValueError("no such order")


@task
def ends(how):
    raise {"skip": Skip("no need"), "snooze": Snooze(3600), "fail": Fail("hopeless"), "retry": Retry()}[how]


@task
def raises_the_same():
    raise SHARED


def reports(caplog) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.endswith("error_context")]


@pytest.mark.parametrize("func", [breaks, abreaks])
def test_a_retry_is_a_warning_and_a_failure_an_error(queue_db, caplog, func):
    job = enqueue(func)
    drain()
    first, last = reports(caplog)
    assert (first.levelname, last.levelname) == ("WARNING", "ERROR")
    assert first.getMessage() == f"{job}: attempt 1 failed, the job will run again: ValueError: no such order"
    assert last.getMessage() == f"{job}: attempt 2 failed: ValueError: no such order"
    for number, record in enumerate([first, last], start=1):
        kind, error, traceback = record.exc_info
        assert kind is ValueError and str(error) == "no such order"
        while traceback.tb_next:
            traceback = traceback.tb_next
        assert traceback.tb_frame.f_code.co_name == func.func.__name__, "with the task's own frames"
        assert (record.job_id, record.job_task, record.job_queue, record.job_attempt) == (
            job.pk,
            func.module_path,
            func.queue_name,
            number,
        )
        assert (record.job_max_attempts, record.job_outcome) == (2, ["retrying", "failed"][number - 1])


@pytest.mark.parametrize("func", [breaks, abreaks])
def test_the_exception_itself_names_the_job(queue_db, func):
    job = enqueue(func)
    drain()
    for attempt in attempts(job):
        note = f"In attempt {attempt.number} of {job} ({func.module_path}, queue {func.queue_name})."
        assert attempt.traceback.rstrip().endswith(note)


def test_arguments_are_left_out_unless_they_are_asked_for(queue_db, caplog, settings):
    enqueue(breaks.using(max_attempts=1), 42, card="4111")
    drain()
    [record] = reports(caplog)
    assert not any("4111" in str(value) for value in vars(record).values())
    caplog.clear()
    settings.JOBQUEUE_DEFAULTS = {"log_arguments": True}
    enqueue(breaks.using(max_attempts=1), 42, card="4111")
    drain()
    [record] = reports(caplog)
    assert (record.job_args, record.job_kwargs) == ([42], {"card": "4111"})


def test_what_is_no_error_is_not_reported(queue_db, caplog):
    for how in ("skip", "snooze"):
        job = enqueue(ends, how)
        drain(0.2)
        assert "In attempt" not in attempts(job)[0].traceback
    assert reports(caplog) == []
    for how in ("fail", "retry"):
        enqueue(ends, how)
    drain()
    assert [record.levelname for record in reports(caplog)] == ["ERROR", "ERROR"]


def test_a_lost_attempt_is_reported_by_who_finds_it(queue_db, caplog, eventually):
    job = started(breaks)
    fall_silent(WorkerRow.objects.get())
    with working(queues="none"):
        eventually(lambda: reports(caplog))
    [record] = reports(caplog)
    assert (record.job_id, record.job_outcome, record.levelname) == (job.pk, "lost", "WARNING")
    assert "vanished" in record.getMessage()


def test_an_exception_that_is_kept_has_the_note_of_its_last_job_only(queue_db):
    SHARED.add_note("a note of its own")
    _, last = enqueue(raises_the_same), enqueue(raises_the_same)
    drain(threads=1)
    own, ours = SHARED.__notes__
    assert own == "a note of its own" and str(last) in ours


@pytest.mark.once
def test_the_option_is_true_or_false():
    assert ErrorContext.options == {"log_arguments": False}
    with pytest.raises(InvalidTask, match="True or False"):
        breaks.using(log_arguments="yes")
