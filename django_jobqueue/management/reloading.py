"""Reloading: a worker that starts again when code changes, and that ends like any other.

Django's reloader restarts the development server. Its parent process kills the child a quarter of a second after
Ctrl-C, which a server can bear and a worker with running jobs cannot. So the parent here is our own; the child watches
the code with Django's reloader, in its main thread, and runs the worker in another one.

A signal may come to the parent, to the child, or to both, as from a terminal. The parent passes on what it gets through
a pipe, so that the child can tell: of what came either way, the larger number counts.
"""

from __future__ import annotations

import os
import select
import selectors
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from django.apps import apps
from django.conf import settings
from django.core.management.base import CommandError
from django.utils import autoreload
from django.utils.autoreload import (
    DJANGO_AUTORELOAD_ENV,
    get_child_arguments,
    get_reloader,
    iter_all_python_module_files,
    logger,
    start_django,
)

from django_jobqueue.discovery import Failure, discover, files_of, is_projects_own
from django_jobqueue.worker.departure import depart_now
from django_jobqueue.worker.signals import ENDING, SignalPipe, hangup
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
#: Names the child's end of the pipe, through which the parent passes signals on.
PARENT = "DJANGO_JOBQUEUE_RELOADER"

_end: _End | None = None


def is_child() -> bool:
    return os.environ.get(DJANGO_AUTORELOAD_ENV) == "true"


def run(work: Callable[..., None], **options: Any) -> None:
    """``work(**options)`` in a child process, again after each change of the code."""
    if is_child():
        _run_in_child(work, options)
    else:
        sys.exit(_restart_for_ever())


@contextmanager
def ended_by_reloader(worker: Worker) -> Iterator[None]:
    """Around the life of a worker: before the process ends, the worker is stopped."""
    if _end is None:
        yield
        return
    _end.take(worker)
    try:
        yield
    finally:
        _end.idle.set()


# -- the parent -----------------------------------------------------------------------------------


def _restart_for_ever() -> int:
    with SignalPipe([*ENDING, *_child_ends()]) as signals:
        passed_on = 0

        def stopped() -> bool:
            """Has a signal come, as far as is known now?"""
            nonlocal passed_on
            if select.select([signals], [], [], 0)[0]:
                passed_on += sum(number in ENDING for number in signals.read())
            return bool(passed_on)

        while True:
            before = _times_of_files()
            child, pipe = _start()
            try:
                while child.poll() is None:
                    passed_on += _pass_on(signals, pipe)
            finally:
                os.close(pipe)
            if stopped():
                return 0 if child.returncode == CHANGED else child.returncode
            if child.returncode == CHANGED:
                continue
            if child.returncode != FAILED or not _wait_for_change(before, stopped):
                return child.returncode


def _child_ends() -> list[int]:
    return [signal.SIGCHLD] if hasattr(signal, "SIGCHLD") else []


def _start() -> tuple[subprocess.Popen[bytes], int]:
    theirs, ours = os.pipe()
    env = {**os.environ, DJANGO_AUTORELOAD_ENV: "true"}
    try:
        if os.name == "nt":  # no child inherits a pipe there; Ctrl-C reaches both
            return subprocess.Popen(get_child_arguments(), env=env), ours  # noqa: S603
        env[PARENT] = str(theirs)
        return subprocess.Popen(get_child_arguments(), env=env, pass_fds=[theirs]), ours  # noqa: S603
    finally:
        os.close(theirs)


def _pass_on(signals: SignalPipe, pipe: int) -> int:
    """Wait for signals, or for the end of the child; return the number of those that it had to hear of."""
    if not select.select([signals], [], [], None if _child_ends() else 1.0)[0]:
        return 0
    counted = sum(number in ENDING for number in signals.read())
    for _ in range(counted):
        with suppress(OSError):  # it has ended
            os.write(pipe, b"s")
    return counted


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


# -- the child ------------------------------------------------------------------------------------


def _run_in_child(work: Callable[..., None], options: dict[str, Any]) -> NoReturn:
    global _end
    with SignalPipe([*ENDING, *hangup()]) as signals:
        _end = _End(signals, os.environ.pop(PARENT, None))
        threading.Thread(target=_end.listen, name="jobqueue-signals", daemon=True).start()
        reloader = get_reloader()
        logger.info("Watching for file changes with %s", type(reloader).__name__)
        try:
            start_django(reloader, _work_when_it_can, work, **options)
        except SystemExit as error:
            _end.come(error.code if isinstance(error.code, int) else 1)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            _end.come(1)
        _end.come(0)


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


class _End:
    """The end of the child: once, for whichever reason comes first."""

    def __init__(self, signals: SignalPipe, parent: str | None) -> None:
        """``parent`` is where it passes signals on: a file descriptor."""
        self.signals, self.parent = signals, None if parent is None else int(parent)
        self.worker: Worker | None = None
        #: Set while there is no worker to wait for.
        self.idle = threading.Event()
        self.idle.set()
        self._stopping = False
        self._lock = threading.Lock()
        if self.parent is not None:
            os.set_inheritable(self.parent, False)

    def take(self, worker: Worker) -> None:
        worker.shutdown_timeout = min(worker.shutdown_timeout, GRACE)
        self.worker = worker
        self.idle.clear()
        if self._stopping:
            worker.stop()

    def listen(self) -> None:
        """In a thread: act on signals, and on what the parent passes on; its end of the pipe closes when it dies."""
        selector = selectors.DefaultSelector()
        selector.register(self.signals, selectors.EVENT_READ)
        if self.parent is not None:
            selector.register(self.parent, selectors.EVENT_READ)
        direct = passed_on = heeded = 0
        while True:
            for key, _ in selector.select():
                if key.fileobj is self.signals:
                    direct += len(self.signals.read())
                elif told := os.read(key.fd, 4096):
                    passed_on += len(told)
                else:
                    selector.unregister(key.fd)
                    passed_on = max(1, passed_on)
            counted = max(direct, passed_on)
            if counted and not heeded:
                threading.Thread(target=self.come, args=[0], name="jobqueue-end", daemon=True).start()
            if counted > 1 and self.worker is not None:
                self.worker.stop_at_once()
            heeded = counted

    def come(self, code: int) -> NoReturn:
        """Stop the worker, wait for it, and end the process, whatever its other threads do."""
        self._stopping = True
        with self._lock:
            if self.worker is not None:
                self.worker.stop()
            self.idle.wait(2 * GRACE)
            depart_now(code)
