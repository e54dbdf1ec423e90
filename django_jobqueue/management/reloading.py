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
from collections.abc import Callable
from typing import Any

from django.utils.autoreload import DJANGO_AUTORELOAD_ENV, get_child_arguments, run_with_reloader

from django_jobqueue.worker.worker import Worker

#: With this code the child asks to be started again.
CHANGED = 3
#: Seconds that running jobs get when the code changes or the worker ends.
GRACE = 5.0


def is_child() -> bool:
    return os.environ.get(DJANGO_AUTORELOAD_ENV) == "true"


def run(work: Callable[..., None], **options: Any) -> None:
    """``work(**options)`` in a child process, again after each change of the code."""
    if is_child():
        _interrupt_once()
        run_with_reloader(work, **options)
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

    def pass_on(number: int, frame: Any) -> None:
        if child is not None and not (number == signal.SIGINT and _is_in_foreground()):
            child.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    while True:
        child = subprocess.Popen(get_child_arguments(), env={**os.environ, DJANGO_AUTORELOAD_ENV: "true"})  # noqa: S603
        if (code := child.wait()) != CHANGED:
            return code


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
