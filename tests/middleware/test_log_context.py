"""LogContext: log records name their job, and attempts keep what was logged."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from asgiref.sync import sync_to_async

from django_jobqueue import Retry, task
from django_jobqueue.compat import InvalidTask
from django_jobqueue.middleware import log_context
from django_jobqueue.middleware.log_context import NOTHING, JobFilter, JobLogHandler, handlers, recording

from ..lifecycle.steps import attempts, enqueue
from ..worker.runs import claimed_run, execution
from ..worker.workers import drain, make_worker

logger = logging.getLogger("shop")

PATH = "django_jobqueue.middleware.log_context.LogContext"


@pytest.fixture(autouse=True)
def layers(settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    logger.setLevel(logging.DEBUG)
    yield
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def drained(queue_db, caplog):
    """Run the task as a job: its attempts, and the records that it has logged."""

    def run(task, *args):
        job = enqueue(task, *args)
        drain()
        return attempts(job), [record for record in caplog.records if record.name == "shop"]

    return run


def named(record) -> dict:
    return {name: getattr(record, name) for name in NOTHING}


# -- tasks ----------------------------------------------------------------------------------------


@task
def silent():
    pass


@task(queue_name="mail")
def says(text="sending"):
    logger.debug("not worth keeping")
    logger.info("%s", text)


@task
async def asays(text):
    logger.info("%s", text)
    await asyncio.sleep(0.05)
    await asyncio.to_thread(logger.info, "%s in a thread", text)
    await sync_to_async(logger.info)("%s in the job's own thread", text)


@task
def says_in_threads():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, logger.info, "with the context").result()
        pool.submit(logger.info, "without").result()


@task(max_attempts=3)
def says_and_fails():
    logger.warning("it will not go well")
    raise Retry("not yet", delay=0.01)


@task
def says_a_lot():
    for number in range(1000):
        logger.info("line %03d %s", number, "x" * 40)


@task
def names_another():
    logger.info("about another", extra={"job_id": 4711})


@task
def has_trouble():
    logger.info("detail")
    logger.warning("trouble\x00")


@task
def cannot_be_formatted():
    logger.info("%d", "no number")
    logger.info("after")


@task(timeout=0.2)
def hangs():
    logger.info("entering the tunnel")
    for _ in range(200):
        threading.Event().wait(0.05)


# -- records --------------------------------------------------------------------------------------


def test_records_name_the_job(drained):
    [attempt], records = drained(says)
    for record in records:
        assert named(record) == {
            "job_id": attempt.job_id,
            "job_task": "tests.middleware.test_log_context.says",
            "job_queue": "mail",
            "job_attempt": 1,
            "job_worker": attempt.worker.name,
        }
    assert len(records) == 2


def test_async_jobs_at_once_do_not_mix_their_logs(queue_db, caplog):
    jobs = {enqueue(asays, f"text {number}").pk: f"text {number}" for number in range(8)}
    drain()
    records = [record for record in caplog.records if record.name == "shop"]
    assert len(records) == 24
    assert all(record.getMessage().startswith(jobs[record.job_id]) for record in records)
    for pk, text in jobs.items():
        [attempt] = attempts(type("Row", (), {"pk": pk}))
        lines = [line.partition("shop: ")[2] for line in attempt.log.splitlines()]
        assert lines == [text, f"{text} in a thread", f"{text} in the job's own thread"]


def test_threads_of_the_task_take_the_context_along(drained):
    [attempt], records = drained(says_in_threads)
    assert [record.job_id for record in records] == [attempt.job_id, None]
    assert "with the context" in attempt.log and "without" not in attempt.log


def test_what_the_project_says_itself_holds(drained):
    _, [record] = drained(names_another)
    assert (record.job_id, record.job_attempt) == (4711, 1)


@pytest.mark.once
def test_outside_of_jobs_the_filter_gives_none():
    record = logging.LogRecord("shop", logging.INFO, __file__, 1, "hello", (), None)
    assert JobFilter().filter(record)
    assert named(record) == dict(NOTHING)


def test_nothing_is_left_behind_in_logging(drained):
    before = [(handler, list(handler.filters)) for handler in handlers()]
    drained(says)
    assert [(handler, list(handler.filters)) for handler in handlers()] == before


# -- the log of an attempt ------------------------------------------------------------------------


def test_an_attempt_keeps_what_was_logged_from_info_on(drained):
    [attempt], _ = drained(says)
    assert attempt.outcome == "succeeded"
    time, _, rest = attempt.log.partition(" ")
    assert rest == "INFO shop: sending\n" and len(time) == len("12:34:56.789")


def test_each_attempt_its_own(drained):
    found, _ = drained(says_and_fails)
    assert [attempt.outcome for attempt in found] == ["retrying", "retrying", "failed"]
    assert all(attempt.log.count("it will not go well") == 1 for attempt in found)


@pytest.mark.parametrize(("level", "log"), [(None, None), ("error", None), ("warning", "trouble␀\n")])
def test_the_option_says_what_is_kept(drained, level, log):
    [attempt], records = drained(has_trouble.using(log_level=level))
    assert records[-1].job_id == attempt.job_id
    assert (attempt.log and attempt.log.partition("shop: ")[2]) == log


def test_the_option_for_one_job_and_for_all(drained, settings):
    [attempt], _ = drained(says.using(log_level="DEBUG"))
    assert "not worth keeping" in attempt.log
    settings.JOBQUEUE_DEFAULTS = {"log_level": None}
    [attempt], _ = drained(says)
    assert attempt.log is None


@pytest.mark.once
@pytest.mark.parametrize("level", ["LOUD", 20, True])
def test_a_level_that_is_none_is_refused(level):
    with pytest.raises(InvalidTask, match="the name of a level"):
        says.using(log_level=level)


def test_of_a_long_log_beginning_and_end_are_kept(drained):
    [attempt], _ = drained(says_a_lot)
    assert 2 * log_context.KEPT <= len(attempt.log) <= 2 * log_context.KEPT + 10
    assert "line 000" in attempt.log and "line 999" in attempt.log and "line 500" not in attempt.log
    assert attempt.log.count("\n[…]\n") == 1


@pytest.mark.once
def test_a_log_that_just_fits_is_whole(monkeypatch, caplog):
    monkeypatch.setattr(log_context, "KEPT", 30)
    run = claimed_run(says)
    context = execution().context(run.job, says, lambda: None)
    handler = JobLogHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    with recording(context):
        for number in range(10):
            handler.handle(logging.LogRecord("shop", logging.INFO, "", 1, f"line {number:0}", (), None))
        kept = run.job.attempt_log
        assert kept == "line 0\nline 1\nline 2\nline 3\nli", "the beginning is on record at once"
    assert run.job.attempt_log.startswith(f"{kept}\n[…]\n") and run.job.attempt_log.endswith("line 9\n")
    run.job.attempt_log = ""
    with recording(context):
        for number in range(8):
            handler.handle(logging.LogRecord("shop", logging.INFO, "", 1, f"line {number}", (), None))
    assert run.job.attempt_log == "".join(f"line {number}\n" for number in range(8))


@pytest.mark.once
def test_a_job_that_logs_nothing_is_not_even_asked_for_its_level(monkeypatch):
    monkeypatch.setattr(log_context.Recording, "level", property(lambda self: 1 / 0))
    run, handler = claimed_run(silent), JobLogHandler()
    logging.getLogger().addHandler(handler)
    try:
        execution().run(run, silent)
    finally:
        logging.getLogger().removeHandler(handler)
    assert (run.outcome.state, run.job.attempt_log) == ("succeeded", "")


def test_an_interrupted_attempt_keeps_its_log(drained):
    [attempt], _ = drained(hangs)
    assert attempt.outcome == "timed_out" and "entering the tunnel" in attempt.log


def test_a_record_that_cannot_be_formatted_harms_nothing(drained, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.propagate, handler = False, JobLogHandler()  # pytest's own handler would raise
    logger.addHandler(handler)
    try:
        [attempt], _ = drained(cannot_be_formatted)
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
    assert attempt.outcome == "succeeded" and attempt.log.endswith("after\n")


def test_the_projects_own_handler_takes_the_place_of_ours(drained):
    root, own = logging.getLogger(), JobLogHandler()
    own.setFormatter(logging.Formatter("[%(job_attempt)s] %(message)s"))
    own.addFilter(lambda record: "secret" not in record.getMessage())
    root.addHandler(own)
    try:
        [attempt], _ = drained(says)
        assert attempt.log == "[1] sending\n"
        [attempt], _ = drained(says, "a secret")
        assert attempt.log is None
    finally:
        root.removeHandler(own)


@pytest.mark.once
def test_warnings_that_no_other_handler_takes_are_printed_as_ever(monkeypatch):
    printed = []

    class Last(logging.Handler):
        def emit(self, record):
            printed.append(record.getMessage())

    monkeypatch.setattr(logging, "lastResort", Last(logging.WARNING))
    alone = logging.Logger("alone")
    monkeypatch.setitem(logging.getLogger().manager.loggerDict, "alone", alone)
    alone.addHandler(JobLogHandler())
    alone.info("quiet")
    alone.warning("loud")
    alone.addHandler(logging.NullHandler())
    alone.warning("taken")
    assert printed == ["loud"]


def test_a_task_that_never_ends_leaves_what_it_said_first(queue_db, settings):
    settings.JOBQUEUE_MIDDLEWARE = [PATH]
    FREE.clear()
    job = enqueue(will_not_stop)
    worker = make_worker(threads=1)
    worker.timekeeper.grace = 0.2
    try:
        assert not worker.run(), "it stops by itself, to be replaced"
        [attempt] = attempts(job)
        assert attempt.outcome == "timed_out" and "deaf" in attempt.log
    finally:
        FREE.set()


FREE = threading.Event()


@task(timeout=0.2)
def will_not_stop():
    logger.info("deaf from here on")
    while not FREE.is_set():
        try:
            FREE.wait(0.1)
        except BaseException:
            continue
