"""The backend as an object: its flags, its settings, one instance per thread, and the system checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
from django.core.checks.registry import registry
from django.db import connection
from django.test import override_settings

from . import tasks
from .framework import BaseTaskBackend, InvalidTask, Task, checks, task
from .marks import runs
from .subjects import FLAGS


def module_level(a):
    pass


def in_a_thread(function):
    """The function's answer in a thread of its own."""
    answers = []
    thread = Thread(target=lambda: answers.append(function()))
    thread.start()
    thread.join()
    return answers[0]


def test_a_backend_is_a_task_backend(backend):
    assert isinstance(backend, BaseTaskBackend)
    assert issubclass(backend.task_class, Task)
    for flag in FLAGS.values():
        assert getattr(backend, flag) in (True, False)


def test_our_backend_declares_everything(subject, backend):
    if subject.complete:
        assert all(getattr(backend, flag) for flag in FLAGS.values())


def test_a_backend_reads_its_entry(backends):
    assert backends["other"].alias == "other"
    assert backends["other"].queues == set()
    assert backends["narrow"].queues == {"default", "mail"}
    assert backends["usual"].queues == {"default"}


def test_a_backend_is_made_from_an_alias_and_params_alone(backend):
    assert type(backend)("alone", {}).alias == "alone"
    assert type(backend)(alias="alone", params={"QUEUES": ["a"]}).queues == {"a"}


def test_there_is_one_instance_per_thread(backends):
    assert backends["default"] is backends["default"]
    assert in_a_thread(lambda: backends["default"]) is not backends["default"]


@pytest.mark.needs("results")
def test_an_instance_keeps_no_jobs(db, backend, subject):
    """What one instance has enqueued, any other finds."""
    result = tasks.add.enqueue(1)
    fresh = type(backend)(alias="default", params=subject.entry(QUEUES=[]))
    assert fresh.get_result(result.id).args == [1]


@pytest.mark.needs("results", "rows")
@runs
def test_a_job_is_found_from_another_thread(backends):
    result = tasks.add.enqueue(1)

    def look():
        try:
            return backends["default"].get_result(result.id).args
        finally:
            connection.close()

    assert in_a_thread(look) == [1]


def test_override_settings_takes_effect_at_once(subject, backends):
    before = backends["default"]
    with override_settings(TASKS={"default": subject.entry(QUEUES=["only"]), "new": subject.entry(QUEUES=["fresh"])}):
        assert backends["default"] is not before
        assert backends["default"].queues == {"only"}
        assert task(backend="new", queue_name="fresh")(module_level).get_backend().alias == "new"
        with pytest.raises(InvalidTask, match="'default'"):
            tasks.add.using(priority=None)
    assert backends["default"].queues == set()
    assert tasks.add.using(priority=None) == tasks.add


@pytest.mark.needs("execution")
@runs
def test_jobs_run_under_overridden_settings(subject, run):
    with override_settings(TASKS={"default": subject.entry(QUEUES=["default"])}):
        assert run(tasks.add, 1, 2).return_value == 3


def test_a_backend_of_a_good_entry_passes_its_check(backends):
    for alias in ("default", "other", "narrow", "usual"):
        assert [str(message) for message in backends[alias].check()] == []


def test_the_frameworks_check_asks_the_backends(backends, monkeypatch):
    monkeypatch.setattr(type(backends["default"]), "check", lambda self, **kwargs: [f"asked {self.alias}"])
    assert "asked narrow" in list(checks.check_tasks())


PROGRAM = """
import django
from tests.conformance.framework import task

def early(a):
    return a
early = task(early)  # as in an app's __init__, before there are models
assert early.get_backend().alias == "default"
django.setup()
from django.core.checks.registry import registry
assert any(check.__name__ == "check_tasks" for check in registry.get_checks()), "check_tasks is not registered"
print("fine")
"""


def run_program(program):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_task_may_be_declared_before_the_apps_are_ready():
    done = run_program(PROGRAM)
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr


def test_the_frameworks_check_is_registered():
    assert checks.check_tasks in registry.get_checks()


def test_the_frameworks_check_is_registered_by_the_app_alone(subject):
    """Nothing but an import of the framework registers it, and a project's own code may not have one."""
    if "django_jobqueue" not in subject.apps:
        return
    program = (
        "import django; django.setup(); from django.core.checks.registry import registry; "
        "print([check.__name__ for check in registry.get_checks()])"
    )
    done = run_program(program)
    assert "check_tasks" in done.stdout, done.stderr
