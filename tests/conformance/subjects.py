"""The backends under test."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import django
from django.core.management import call_command
from django.utils.module_loading import import_string

# Settings import this module, so it must not import the framework: by then there are no settings to read.
PACKAGE = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"

FLAGS = {
    "defer": "supports_defer",
    "async": "supports_async_task",
    "results": "supports_get_result",
    "priority": "supports_priority",
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A backend, and what the suite must know to put it to the test.

    ``run_worker(alias)`` runs what is due, one job after the other, in this process (its threads are fine), and
    returns when nothing is left; None if ``enqueue()`` itself runs the task. ``runs=False``: nothing runs at all.
    ``model`` is the label of the model with one row per job, whose field ``task_path`` names the task; None if the
    jobs are not in the project's database. ``promises`` are what the backend offers beyond Django's contract.
    """

    backend: str
    options: Mapping[str, Any] = field(default_factory=dict)
    apps: tuple[str, ...] = ()
    run_worker: Callable[[str], None] | None = None
    runs: bool = True
    model: str | None = None
    promises: frozenset[str] = frozenset()
    #: Is it ours? Then every test applies.
    complete: bool = False

    def entry(self, **params: Any) -> dict[str, Any]:
        """An entry of TASKS with this backend."""
        return {"BACKEND": self.backend, "OPTIONS": dict(self.options), **params}

    def lacks(self, need: str) -> str | None:
        """Why a test with this need does not apply, or None."""
        if need in FLAGS:
            declared = getattr(import_string(self.backend), FLAGS[need])
            return None if declared else f"{self.backend} does not declare {FLAGS[need]}"
        if need == "execution":
            return None if self.runs else f"{self.backend} runs nothing"
        if need == "worker":
            return None if self.run_worker else f"{self.backend} has no worker"
        if need == "rows":
            return None if self.model else f"{self.backend} keeps no jobs in the database"
        return None if need in self.promises else f"{self.backend} does not promise: {need}"


@contextmanager
def signals_kept() -> Iterator[None]:
    """A worker's command takes SIGINT and SIGTERM for itself; give them back to the test runner."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@signals_kept()
@mock.patch("django_jobqueue.worker.wakeup.TICK", 0.02)  # a worker that stops waits for its listener to notice
def run_jobqueue_worker(alias: str) -> None:
    call_command("runworker", backend=alias, threads=1, drain=0)


@signals_kept()
def run_django_tasks_db_worker(alias: str) -> None:
    options = {"queue_name": "*", "backend_name": alias, "batch": True, "startup_delay": False, "interval": 0.01}
    call_command("db_worker", verbosity=2, reload=False, **options)


JOBQUEUE = Subject(
    backend="django_jobqueue.backend.JobQueueBackend",
    apps=("django_jobqueue",),
    run_worker=run_jobqueue_worker,
    model="django_jobqueue.Job",
    promises=frozenset({"options", "timedelta", "unknown tasks wait", "named arguments", "cancel"}),
    complete=True,
)

SUBJECTS = {
    "jobqueue": JOBQUEUE,
    "immediate": Subject(backend=f"{PACKAGE}.backends.immediate.ImmediateBackend"),
    "dummy": Subject(backend=f"{PACKAGE}.backends.dummy.DummyBackend", runs=False),
    "django_tasks_db": Subject(
        backend="django_tasks_db.DatabaseBackend",
        apps=("django_tasks_db",),
        run_worker=run_django_tasks_db_worker,
        model="django_tasks_database.DBTaskResult",
    ),
}


def chosen() -> Subject:
    """The subject that ``CONFORMANCE_BACKEND`` names in the environment; ours without it."""
    name = os.environ.get("CONFORMANCE_BACKEND", "jobqueue")
    subject = SUBJECTS.get(name) or import_string(name)
    assert isinstance(subject, Subject), f"CONFORMANCE_BACKEND is {name!r}, which names no Subject"
    return subject
