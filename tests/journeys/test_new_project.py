"""A project of one's own, tried as somebody new to all this would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]

SETTINGS = """
import os
from tests.settings import *
from tests.settings import DATABASES, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "shop"]
ROOT_URLCONF = "shop.urls"
JOBQUEUE_TASK_MODULES_EXCLUDE = ["tests"]
DATABASES["default"]["NAME"] = os.environ["SHOP_DATABASE"]
DATABASES["default"]["TEST"] = {"MIGRATE": False} | (  # and on SQLite in memory, as by default
    {"CHARSET": "utf8mb4"} if DATABASES["default"]["ENGINE"].endswith("mysql") else {}
)
"""
TASKS = """
from django_jobqueue import task

@task
def add(a, b):
    return a + b
"""
TESTS = """
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import TestCase, TransactionTestCase

from django_jobqueue.models import Job
from django_jobqueue.testing import run_jobs
from shop.tasks import add


class InATransaction(TestCase):
    def test_run_jobs(self):
        results = [add.enqueue(number, 1) for number in range(5)]
        self.assertEqual(run_jobs(), 5)
        for number, result in enumerate(results):
            result.refresh()
            self.assertEqual(result.return_value, number + 1)

    def test_a_worker(self):
        add.enqueue(1, 1)
        with self.assertRaisesMessage(CommandError, "run_jobs()"):
            call_command("runworker", "--drain", verbosity=0)
        call_command("jobqueue", "status")
        self.assertEqual(Job.objects.count(), 1)


class Committed(TransactionTestCase):
    def test_a_worker(self):
        for number in range(5):
            add.enqueue(number, 1)
        if connection.vendor == "sqlite":
            with self.assertRaisesMessage(CommandError, "['TEST'] = "):
                call_command("runworker", "--drain", verbosity=0)
            run_jobs()
        else:
            call_command("runworker", "--drain", verbosity=0)
        self.assertEqual(Job.objects.filter(status="SUCCESSFUL").count(), 5)
"""


@pytest.fixture
def manage(tmp_path):
    """Write the project, and run its ``manage.py``."""
    (tmp_path / "shop").mkdir()
    for name, text in {
        "__init__": "",
        "urls": "urlpatterns = []",
        "settings": SETTINGS,
        "models": "",
        "tasks": TASKS,
        "tests": TESTS,
    }.items():
        (tmp_path / f"shop/{name}.py").write_text(text)
    processes = []

    def start(*args: str) -> subprocess.Popen:
        sqlite = os.environ.get("DATABASE_URL", "sqlite").startswith("sqlite")
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "SHOP_DATABASE": str(tmp_path / "shop.sqlite3") if sqlite else f"shop_{os.getpid()}",
            "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
            "PYTHONUNBUFFERED": "1",
        }
        log = tmp_path / f"log-{len(processes)}"
        command = [sys.executable, "-m", "django", *args]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=tmp_path, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        process.log = log
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        print(f"--- {process.args} ({process.returncode})\n{process.log.read_text()}")  # noqa: T201


def test_the_tests_of_a_project_run_its_jobs_without_migrations(manage):
    process = manage("test", "shop")
    assert process.wait(60) == 0
    assert "Ran 3 tests" in process.log.read_text()


@pytest.mark.once
def test_a_worker_without_tables_ends_with_one_sentence(manage):
    for args in (["runworker", "--drain"], ["runworker", "--processes", "2"], ["jobqueue", "status"]):
        process = manage(*args)
        assert process.wait(30) == 1
        *_, last = process.log.read_text().splitlines()
        assert (
            last == "CommandError: Database 'default' has no tables for jobs: run manage.py migrate --database default."
        )
        assert "Traceback" not in process.log.read_text()


@pytest.mark.once
def test_under_the_reloader_a_worker_waits_until_tables_and_code_are_mended(manage, eventually, tmp_path):
    worker = manage("runworker", "--autoreload")

    def says(words: str, times: int = 1) -> bool:
        assert worker.poll() is None
        return worker.log.read_text().count(words) >= times

    eventually(lambda: says("run manage.py migrate"), within=30)
    assert manage("migrate", "-v0").wait(60) == 0
    eventually(lambda: says("takes jobs"), within=30)
    models = tmp_path / "shop/models.py"

    def has_seen_it() -> bool:
        models.write_text("def broken(:")  # again and again: the reloader has to have seen the file once before
        return says("It tries again when a file changes.")

    eventually(has_seen_it, within=30, every=1.5)
    models.write_text("")
    eventually(lambda: says("takes jobs", 2), within=30)
    worker.terminate()
    assert worker.wait(20) is not None
