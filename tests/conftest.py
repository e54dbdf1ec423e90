"""What every test may use."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from . import databases, emptying

emptying.instead_of_flush()

ROOT = Path(__file__).parent.parent


def pytest_report_header() -> str:
    url = os.environ.get("DATABASE_URL") or "sqlite:///"
    import django

    return f"database: {databases.describe(url)}, Django {django.__version__}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of what knows nothing of the database run on one: SQLite, which is always there."""
    if connection.vendor != "sqlite":
        once = [item for item in items if item.get_closest_marker("once")]
        config.hook.pytest_deselected(items=once)
        items[:] = [item for item in items if not item.get_closest_marker("once")]


@pytest.fixture
def queue_db(transactional_db: None) -> Any:
    """The database, for tests whose rows other threads, connections and processes must see."""
    return connection


@pytest.fixture
def worker_env(transactional_db: None) -> dict[str, str]:
    """The environment for a process that is to work on the test's own database."""
    settings = connection.settings_dict
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "JOBQUEUE_TEST_DATABASE": str(settings["NAME"]),
        "DATABASE_URL": os.environ.get("DATABASE_URL") or f"sqlite:///{settings['NAME']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "PYTHONUNBUFFERED": "1",
    }


class Process(subprocess.Popen[bytes]):
    """What it writes is in ``log``."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str]) -> None:
        self.command, self.log = command, log
        with log.open("wb") as output:
            super().__init__(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is for pytest
            )


@pytest.fixture
def spawn(worker_env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start ``manage.py`` with these arguments in a process of its own; it dies with the test.

    What it writes is in ``process.log``, a path, and is shown if the test fails.
    """
    processes: list[Process] = []

    def start(*args: object, **env: str) -> Process:
        command = [sys.executable, str(ROOT / "manage.py"), *map(str, args)]
        processes.append(Process(command, tmp_path / f"process-{len(processes)}.log", {**worker_env, **env}))
        return processes[-1]

    yield start

    for process in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        told = f"--- {' '.join(process.command[1:])} (exit {process.returncode})"
        print(told, process.log.read_text(), sep="\n")  # noqa: T201


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Ask until the answer is true, and return it; fail when it is not by then."""

    def ask(question: Callable[[], Any], within: float = 10.0, every: float = 0.02) -> Any:
        end = time.monotonic() + within
        while not (answer := question()):
            if time.monotonic() > end:
                pytest.fail(f"still {answer!r} after {within} s")
            time.sleep(every)
        return answer

    return ask
