"""Bulk: one verb on many jobs, with a bar for whoever waits, and an honest end if he does not."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django_jobqueue.lifecycle import control
from django_jobqueue.lifecycle.changes import Change
from django_jobqueue.models import Job
from django_jobqueue.worker.progress import make_bar

from .selection import Selection

#: So many jobs are shown by a dry run.
SHOWN = 5
#: Seconds between two lines, where there is no bar.
LINE_INTERVAL = 1.0

Report = Callable[[int], None]


class Bulk:
    """``done`` are the numbers of jobs for each step of the change; whole batches, also when it was interrupted."""

    def __init__(self, change: Change, chosen: Selection, using: str, limit: int | None) -> None:
        self.change, self.chosen, self.using, self.limit = change, chosen, using, limit
        self.done = [0] * len(change.steps)
        self.interrupted = False
        self._is_over: Callable[[], bool] = bool

    @property
    def number(self) -> int:
        return sum(self.done)

    def run(self, *, quiet: bool) -> None:
        """Ctrl-C ends it after the batch that is being written; a second one at once, and undoes that one."""
        try:
            with reporting(self, quiet) as report, interrupts_put_off() as interrupted:
                self._is_over = interrupted.is_set
                control.apply(self.change, self.chosen.jobs, self.using, progress=self._note(report), **self._extent)
        except KeyboardInterrupt:
            self.interrupted = True

    def _note(self, report: Report) -> control.Steps:
        def note(done: list[int]) -> None:
            self.done = done
            report(sum(done))
            if self._is_over():
                raise KeyboardInterrupt

        return note

    def count(self) -> int:
        return control.count(self.change, self.chosen.jobs, self.using, **self._extent)

    def first(self) -> list[Job]:
        limit = SHOWN if self.limit is None else min(SHOWN, self.limit)
        return control.examples(self.change, self.chosen.jobs, self.using, kinds=self.chosen.kinds, limit=limit)

    @property
    def _extent(self) -> dict[str, Any]:
        return {"kinds": self.chosen.kinds, "limit": self.limit}


@contextmanager
def interrupts_put_off() -> Iterator[threading.Event]:
    """The first SIGINT sets the event, the next one is what it always is."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def put_off(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        interrupted.set()

    before = signal.signal(signal.SIGINT, put_off)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def reporting(bulk: Bulk, quiet: bool) -> Iterator[Report]:
    """What to call with the number of jobs that are done: a bar, lines where rich is not installed, or nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
    elif (bar := make_bar()) is None:
        yield lines()
    else:
        with bar:
            row = bar.add_task("jobs", total=bulk.count())
            yield lambda done: bar.update(row, completed=done)


def lines() -> Report:
    told_at = time.monotonic()

    def tell(done: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= LINE_INTERVAL:
            told_at = time.monotonic()
            print(f"{done:,} jobs so far", file=sys.stderr, flush=True)  # noqa: T201 - it is for the terminal

    return tell
