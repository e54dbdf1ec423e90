"""Whether anything listens to a signal of django.tasks, and what a receiver gets that looks late."""

from __future__ import annotations

import copy
import logging

import pytest
from django.utils.log import AdminEmailHandler, RequireDebugFalse, RequireDebugTrue

from django_jobqueue.compat import TASKS_LOGGER, TaskResult, task_backends, task_finished, task_started
from django_jobqueue.middleware.log_context import JobFilter, JobLogHandler
from django_jobqueue.results import JobResult, PendingResult, result_of, task_of
from django_jobqueue.signals import FINISHED, STARTED, is_taken

from .tasks import add
from .worker.runs import claimed_run

pytestmark = pytest.mark.once


class Collecting(logging.Handler):
    def __init__(self, *args):
        super().__init__(*args)
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def make_log():
    """A logger with a parent of its own, as ``django.tasks`` has ``django``, and nothing above.

    To be called by the test itself: before it runs, pytest gives loggers that do not propagate handlers of its own.
    """
    parent, log = logging.getLogger("signals_of_tests"), logging.getLogger("signals_of_tests.tasks")

    def make():
        parent.setLevel(logging.INFO)
        parent.propagate = False
        parent.handlers = []
        return log

    yield make
    for each in (parent, log):
        each.handlers, each.filters, each.propagate, each.disabled = [], [], True, False
        each.setLevel(logging.NOTSET)


def filtered(handler, *filters):
    for each in filters:
        handler.addFilter(each)
    return handler


def is_delivered(log, level):
    """What Python itself does with such a record."""
    taken = []
    for each in (log, log.parent):
        for handler in each.handlers:
            handler.emit = taken.append
    log.log(level, "a record")
    return bool(taken)


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("level", [logging.DEBUG, logging.INFO, logging.ERROR])
@pytest.mark.parametrize(
    "handlers",
    [
        [],
        [filtered(logging.StreamHandler(), RequireDebugTrue())],
        [filtered(logging.StreamHandler(), RequireDebugFalse())],
        [logging.NullHandler()],
        [Collecting(logging.WARNING)],
        [Collecting(logging.WARNING), Collecting(logging.INFO)],
        [filtered(Collecting(), JobFilter(), RequireDebugTrue())],
    ],
    ids=["none", "debug", "no debug", "null", "warning", "both", "job filter"],
)
def test_a_record_is_taken_where_python_delivers_it(handlers, level, debug, make_log, settings):
    log = make_log()
    settings.DEBUG = debug
    for handler in handlers:
        log.parent.addHandler(handler)
    if handlers and not isinstance(handlers[0], logging.NullHandler):
        assert is_taken(log, level) is is_delivered(log, level)
    else:  # without a handler Python prints warnings and more
        assert is_taken(log, level) is (not handlers and level >= logging.WARNING)


def test_a_fresh_project_takes_no_line_of_a_job_that_succeeds_or_fails(make_log, settings):
    log = make_log()
    settings.DEBUG, settings.ADMINS = False, []
    log.parent.addHandler(filtered(logging.StreamHandler(), RequireDebugTrue()))
    log.parent.addHandler(filtered(AdminEmailHandler(), RequireDebugFalse()))
    assert not is_taken(log, logging.INFO)
    assert not is_taken(log, logging.ERROR)
    settings.ADMINS = ["ops@example.com"]
    assert is_taken(log, logging.ERROR)


def test_a_handler_of_running_jobs_is_no_handler_here(make_log):
    log = make_log()
    log.parent.addHandler(JobLogHandler())
    assert not is_taken(log, logging.INFO)
    assert is_taken(log, logging.ERROR), "Python prints it, since nothing else takes it"


def test_what_is_not_known_may_do_anything(make_log, monkeypatch):
    log = make_log()
    assert not is_taken(log, logging.INFO)
    log.addFilter(lambda record: False)
    assert is_taken(log, logging.INFO), "a filter may count"
    log.filters = []
    log.parent.addHandler(filtered(Collecting(), lambda record: False))
    assert is_taken(log, logging.INFO), "and that of a handler too"
    log.parent.handlers = []
    original = logging.Logger.callHandlers
    monkeypatch.setattr(logging.Logger, "callHandlers", lambda self, record: original(self, record))
    assert is_taken(log, logging.INFO), "as Sentry does it"


def test_logging_that_is_configured_anew_is_noticed(make_log):
    log = make_log()
    assert not is_taken(log, logging.INFO)
    handler = Collecting()
    log.addHandler(handler)
    assert is_taken(log, logging.INFO)
    log.setLevel(logging.WARNING)
    assert not is_taken(log, logging.INFO)
    log.setLevel(logging.INFO)
    logging.disable(logging.INFO)
    try:
        assert not is_taken(log, logging.INFO)
    finally:
        logging.disable(logging.NOTSET)
    log.disabled = True
    assert not is_taken(log, logging.INFO)


# -- signals --------------------------------------------------------------------------------------


@pytest.fixture
def quiet():
    log = logging.getLogger(TASKS_LOGGER)
    log.setLevel(logging.CRITICAL)
    yield log
    log.setLevel(logging.NOTSET)


def test_a_signal_is_heard_by_a_receiver_or_a_handler(quiet):
    assert not STARTED.is_heard()

    def receive(**kwargs):
        pass

    task_started.connect(receive)
    try:
        assert STARTED.is_heard() and not FINISHED.is_heard()
    finally:
        task_started.disconnect(receive)
    assert not STARTED.is_heard()
    handler = Collecting()
    quiet.addHandler(handler)
    try:
        quiet.setLevel(logging.INFO)
        assert STARTED.is_heard()
        task_started.disconnect(STARTED.log_receiver)
        assert not STARTED.is_heard(), "the project does not want the lines"
    finally:
        task_started.connect(STARTED.log_receiver)
        quiet.removeHandler(handler)


def test_the_line_is_djangos_own(quiet):
    handler = Collecting()
    quiet.addHandler(handler)
    quiet.setLevel(logging.INFO)
    try:
        STARTED.send(object, pending(claimed_run(add, 1, 2).job))
    finally:
        quiet.removeHandler(handler)
    [record] = handler.records
    assert record.getMessage() == "Task id=1 path=tests.tasks.add state=RUNNING"


def test_g9_a_handler_that_raises_is_logged_and_harmless(quiet, caplog):
    class Raising(logging.Handler):
        def emit(self, record):
            raise SystemExit("a handler that is broken")

    handler = Raising()
    quiet.addHandler(handler)
    quiet.setLevel(logging.INFO)
    try:
        STARTED.send(object, pending(claimed_run(add, 1, 2).job))
    finally:
        quiet.removeHandler(handler)
    assert "A receiver or the log raised for job #1" in caplog.text


# -- results --------------------------------------------------------------------------------------


def pending(job, **changes):
    return PendingResult.of(job, lambda job: task_of(job, task_backends["default"]), lambda: (), **changes)


def at_once(job):
    return result_of(job, (), task_of(job, task_backends["default"]))


@pytest.mark.parametrize(
    "look",
    [
        lambda result: result.args,
        lambda result: result.started_at,
        lambda result: result.worker_ids,
        lambda result: result.attempts,
        lambda result: repr(result),
        lambda result: result == result,
        lambda result: result.is_finished and result.return_value,
        lambda result: (result.id, result.status, result.task, result.backend, result.errors),
    ],
)
def test_a_pending_result_becomes_what_it_would_have_been(look):
    job = claimed_run(add, 1, 2).job
    result, expected = pending(job), at_once(job)
    assert isinstance(result, TaskResult) and isinstance(result, JobResult)
    assert look(result) == look(expected)
    assert result == expected and expected == result
    assert pending(job) == expected and expected == pending(job)
    assert repr(result) == repr(expected) and type(result) is JobResult


def test_a_pending_result_shows_the_moment_of_the_signal():
    job = claimed_run(add, 1, [2]).job
    result = pending(job)
    job.args[1].append(3)
    job.args.append(4)
    job.status, job.result = "SUCCESSFUL", 7
    assert str(result.status) == "RUNNING" and result.args == [1, [2]] and not result.is_finished


def test_a_pending_result_has_its_return_value():
    result = pending(claimed_run(add, 1, 2).job, status="SUCCESSFUL", result=3)
    assert result.return_value == 3


def test_a_pending_result_can_be_copied():
    job = claimed_run(add, 1, 2).job
    assert copy.copy(pending(job)) == at_once(job)
    assert copy.deepcopy(pending(job)).args == [1, 2]


def test_a_pending_result_refuses_what_a_result_refuses():
    result = pending(claimed_run(add, 1, 2).job)
    with pytest.raises(AttributeError, match="nonsense"):
        result.nonsense  # noqa: B018
    with pytest.raises(AttributeError):
        result.args = []


def test_django_connects_its_receivers_under_their_ids():
    """What ``has_receivers`` goes by."""
    for signal in (STARTED, FINISHED):
        assert id(signal.log_receiver) in {key[0] for key, *_ in signal.signal.receivers}
    assert task_finished is FINISHED.signal
