"""Fixtures of the conformance suite: the subject, and how to let its jobs run."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.core.management import get_commands

from .subjects import chosen


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "needs(*needs): what the backend under test must support for the test to apply; see Subject.lacks"
    )


def pytest_runtest_setup(item):
    subject = chosen()
    for marker in item.iter_markers("needs"):
        for need in marker.args:
            if reason := subject.lacks(need):
                assert not subject.complete, f"nothing may be skipped for our own backend, but {reason}"
                pytest.skip(reason)


@pytest.fixture(scope="session")
def subject():
    return chosen()


@pytest.fixture(scope="session", autouse=True)
def all_commands():
    """Let Django list its commands while all apps are there: it remembers what it finds first."""
    get_commands()


@pytest.fixture(autouse=True)
def backends(subject, settings):
    """TASKS for the suite: the subject under several aliases, and the framework's own ImmediateBackend."""
    from . import framework

    settings.TASKS = {
        "default": subject.entry(QUEUES=[]),
        "other": subject.entry(QUEUES=[]),
        "narrow": subject.entry(QUEUES=["default", "mail"]),
        "usual": subject.entry(),
        "immediate": {"BACKEND": framework.IMMEDIATE, "QUEUES": []},
    }
    return framework.task_backends


@pytest.fixture(autouse=True)
def calls():
    """What the tasks wrote down in this test."""
    from . import tasks

    tasks.CALLS.clear()
    return tasks.CALLS


@pytest.fixture
def backend(backends):
    return backends["default"]


@pytest.fixture
def async_tasks():
    """The coroutine tasks; only for tests that need "async": importing them declares them."""
    return import_module(f"{__package__}.async_tasks")


@pytest.fixture
def drain(subject):
    """Let a worker run what is due; does nothing where enqueue() has run the task already."""
    return subject.run_worker or (lambda alias: None)


@pytest.fixture
def settle(subject, backends, drain):
    """Let the job run, and give its result as the store tells it."""

    def settle(result):
        drain(result.backend)
        return result if subject.lacks("results") else backends[result.backend].get_result(result.id)

    return settle


@pytest.fixture
def run(settle):
    """Enqueue the call, let it run, and give its result as the store tells it."""
    return lambda task, /, *args, **kwargs: settle(task.enqueue(*args, **kwargs))


@pytest.fixture
def rows(subject, db):
    """The model with one row per job."""
    return apps.get_model(subject.model)._default_manager


@dataclass
class Received:
    """One signal as it arrived."""

    name: str
    sender: Any
    result: Any
    exc_info: tuple
    status: str = field(init=False)
    attempts: int = field(init=False)

    def __post_init__(self):
        # What the result says now: a backend may go on using the object.
        self.status, self.attempts = str(self.result.status), self.result.attempts


@pytest.fixture
def received():
    """The signals that were sent, in order."""
    from . import framework

    log: list[Received] = []

    def note(name, sender, task_result, **kwargs):
        log.append(Received(name, sender, task_result, sys.exc_info()))

    signals = {name: getattr(framework, f"task_{name}") for name in ("enqueued", "started", "finished")}
    receivers = {name: partial(note, name) for name in signals}
    for name, signal in signals.items():
        signal.connect(receivers[name], weak=False)
    yield log
    for name, signal in signals.items():
        signal.disconnect(receivers[name])


@pytest.fixture
def connect():
    """Connect receivers for the length of a test."""
    connected = []

    def connect(signal, receiver):
        signal.connect(receiver, weak=False)
        connected.append((signal, receiver))

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver)
