"""Reloading: a worker that starts again when code changes, and that ends like any other.

Django's reloader restarts the development server. Its parent process kills the child a quarter of a second after
Ctrl-C, which a server can bear and a worker with running jobs cannot. So the parent here is our own; the child, where
the code is watched, is Django's.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.management.base import CommandError
from django.utils import autoreload
from django.utils.autoreload import (
    DJANGO_AUTORELOAD_ENV,
    get_child_arguments,
    iter_all_python_module_files,
    run_with_reloader,
)

from django_jobqueue.discovery import Failure, discover, files_of, is_projects_own
from django_jobqueue.worker.worker import Worker

#: With this code the child asks to be started again.
CHANGED = 3
#: Seconds that running jobs get when the code changes or the worker ends.
GRACE = 5.0
#: And with this one a process of Python's ends that could not load the project, or did not get through its checks.
FAILED = 1
#: Seconds between two looks at the files, while there is no child that does it.
INTERVAL = 0.5
#: Seconds before a worker that could not begin tries again.
RETRY = 2.0


def is_child() -> bool:
    return os.environ.get(DJANGO_AUTORELOAD_ENV) == "true"


def run(work: Callable[..., None], **options: Any) -> None:
    """``work(**options)`` in a child process, again after each change of the code."""
    if is_child():
        _interrupt_once()
        run_with_reloader(_work_when_it_can, work, **options)
    else:
        sys.exit(_restart_for_ever())


def _interrupt_once() -> None:
    """The first Ctrl-C ends the process; one that comes right behind it must not break off that end."""
    interrupted = False

    def interrupt(number: int, frame: Any) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)


def _restart_for_ever() -> int:
    child: subprocess.Popen[bytes] | None = None
    stopped = False  # no Event: to set one in a handler may wait for the very thread that the handler interrupts

    def pass_on(number: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True
        if child is not None and not (number == signal.SIGINT and _is_in_foreground()):
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    while True:
        before = _times_of_files()
        child = subprocess.Popen(get_child_arguments(), env={**os.environ, DJANGO_AUTORELOAD_ENV: "true"})  # noqa: S603
        if (code := child.wait()) == CHANGED:
            continue
        if code != FAILED or stopped or not _wait_for_change(before, lambda: stopped):
            return code


def _wait_for_change(before: Mapping[Path, float], stopped: Callable[[], bool]) -> bool:
    """The code cannot be loaded: wait until somebody mends it, as ``runserver`` does. False: stopped before that."""
    print("The worker could not start. It tries again when a file changes.", file=sys.stderr, flush=True)  # noqa: T201
    while not stopped():
        time.sleep(INTERVAL)
        if _times_of_files() != before:
            return True
    return False


def _times_of_files() -> dict[Path, float]:
    """When the files changed last that this process has loaded, those of the project's apps, and of its settings."""
    files = {file for file in iter_all_python_module_files() if file.suffix == ".py"}
    for config in apps.get_app_configs():
        if is_projects_own(config.name):
            files.update(file for _, file in files_of(Path(config.path), config.name))
    for module in map(sys.modules.get, (str(settings.SETTINGS_MODULE), str(settings.ROOT_URLCONF))):
        if module is not None and module.__file__:
            files.update(Path(module.__file__).parent.glob("*.py"))
    times = {}
    for file in files:
        with suppress(OSError):
            times[file] = file.stat().st_mtime
    return times


def _work_when_it_can(work: Callable[..., None], **options: Any) -> None:
    """In a thread of the child. What a command would refuse is said once and tried again: tables may be made yet."""
    for failure in discover(log=False).failures:
        _watch(failure)
    said = ""
    while True:
        try:
            return work(**options)
        except CommandError as error:
            if said != (said := str(error)):
                print(f"{error} It is tried again.", file=sys.stderr, flush=True)  # noqa: T201
            time.sleep(RETRY)


def _watch(failure: Failure) -> None:
    """Let Django's reloader look at the files of a module that could not be imported: it knows loaded ones only."""
    files = [frame.filename for frame in traceback.extract_tb(failure.error.__traceback__)]
    files += [getattr(failure.error, "filename", None) or "", failure.file]
    watched: list[str] = getattr(autoreload, "_error_files", [])
    watched.extend(file for file in files if file.endswith(".py") and file not in watched)


def _is_in_foreground() -> bool:
    """Does a terminal send Ctrl-C to this process and its child alike?"""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except (AttributeError, OSError):  # Windows; no terminal
        return False


def stop_with_the_process(worker: Worker) -> None:
    """The reloader has the main thread and just exits: it must not take the jobs with it."""
    worker.shutdown_timeout = min(worker.shutdown_timeout, GRACE)

    def stop_and_wait() -> None:
        # A second Ctrl-C would break off the exit, and the jobs would have to wait for the lease to run out.
        signal.signal(signal.SIGINT, lambda number, frame: worker.stop_at_once())
        signal.signal(signal.SIGTERM, lambda number, frame: worker.stop_at_once())
        worker.stop()
        worker.finished.wait(2 * GRACE)

    atexit.register(stop_and_wait)
