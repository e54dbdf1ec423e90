"""Progress: a bar for people who wait for a queue to drain."""

import sys

import pytest

from django_jobqueue import enqueue_many
from django_jobqueue.worker import progress as module
from django_jobqueue.worker.progress import Progress

from ..tasks import fail, noop
from .workers import make_worker


class Bar:
    """What the progress tells its bar."""

    def __init__(self):
        self.events = []
        self.last = None

    def start(self):
        self.events.append("start")

    def stop(self):
        self.events.append("stop")

    def add_task(self, name, total):
        return 0

    def update(self, row, **values):
        self.last = values


@pytest.fixture
def bar(monkeypatch):
    made = Bar()
    monkeypatch.setattr(module, "make_bar", lambda: made)
    return made


def test_the_bar_ends_with_all_jobs_done(queue_db, bar):
    enqueue_many([*[noop.s()] * 7, fail.s()])
    worker = make_worker(drain=0)
    with Progress(worker, True):
        worker.run()
    assert bar.events == ["start", "stop"]
    assert bar.last == {"completed": 8, "total": 8}


def test_nobody_asked_for_a_bar(bar):
    with Progress(None, False):
        pass
    assert bar.events == []


def test_without_rich_there_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with Progress(None, True) as progress:
        assert progress.bar is None


def test_the_bar_stops_when_the_worker_fails(queue_db, bar):
    worker = make_worker()
    with pytest.raises(LookupError), Progress(worker, True):
        raise LookupError
    assert bar.events == ["start", "stop"]


def test_rich_has_what_the_bar_needs():
    pytest.importorskip("rich")
    bar = module.make_bar()
    row = bar.add_task("jobs", total=None)
    bar.update(row, completed=3, total=4)
    assert bar.tasks[0].completed == 3
