"""A filter or a handler of the project that raises ends no thread and loses no outcome."""

from __future__ import annotations

import logging
import threading

import pytest

from django_jobqueue import logs
from django_jobqueue.logs import get_logger

from .lifecycle.steps import enqueue, fresh
from .tasks import noop
from .worker.workers import working


class Broken(logging.Filter):
    def filter(self, record):
        raise RuntimeError("no filter today")


class BrokenHandler(logging.Handler):
    def emit(self, record):
        raise RuntimeError("no handler today")


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(logs, "_reported", set())


@pytest.fixture
def broken_logging():
    """Each logger of ours has such a filter: those of parents are not asked for what children log."""
    names = [name for name in logging.root.manager.loggerDict if name.startswith("django_jobqueue")]
    loggers, broken, handler = [logging.getLogger(name) for name in names], Broken(), BrokenHandler()
    package = logging.getLogger("django_jobqueue")
    levels = {logger: logger.level for logger in [*loggers, package]}
    package.addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.addFilter(broken)
    yield
    package.removeHandler(handler)
    for logger, level in levels.items():
        logger.removeFilter(broken)
        logger.setLevel(level)


@pytest.mark.once
def test_what_logging_raises_is_reported_once(capfd):
    logger = get_logger("tests.broken")
    broken = Broken()
    logger.logger.addFilter(broken)
    try:
        for _ in range(3):
            logger.error("something")
            logger.exception("something else")
    finally:
        logger.logger.removeFilter(broken)
    said = capfd.readouterr().err
    assert said.count("RuntimeError: no filter today") == 1 and "'tests.broken'" in said


@pytest.mark.once
def test_a_record_names_its_caller(caplog):
    caplog.set_level("INFO", "tests.whole")
    get_logger("tests.whole").info("%s went %s", "all", "well")
    (record,) = caplog.records
    assert record.getMessage() == "all went well"
    assert (record.funcName, record.filename) == ("test_a_record_names_its_caller", "test_logs.py")


@pytest.mark.django_db(transaction=True)
def test_g9_outcomes_are_written_whatever_logging_raises(broken_logging, eventually):
    with working(threads=2) as worker:
        good, unknown, odd = enqueue(), enqueue(), enqueue()
        type(odd).objects.filter(pk=unknown.pk).update(task_path="tests.tasks.not_there")
        type(odd).objects.filter(pk=odd.pk).update(kwargs={"surprise": 1})
        eventually(lambda: fresh(good).status == "SUCCESSFUL" and fresh(odd).status == "FAILED", within=20)
        again = enqueue(noop)
        eventually(lambda: fresh(again).status == "SUCCESSFUL", within=20)
        threads = {thread.name for thread in threading.enumerate()}
        parts = "claimer completer heartbeat maintenance follower scheduler announcer slot-1 slot-2"
        assert {f"jobqueue-{part}" for part in parts.split()} <= threads
    assert worker.exit_code == 0
