"""Progress: a live bar while a worker drains its queues."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from django.db import connections

from ..models import Job

if TYPE_CHECKING:
    from .worker import Worker

#: Counting is bounded: beyond this the bar's end moves.
MOST = 100_000
INTERVAL = 0.25


class Progress:
    """A context manager around ``worker.run()``. It shows nothing where rich is not installed."""

    def __init__(self, worker: Worker, wanted: bool) -> None:
        self.worker, self.bar = worker, make_bar() if wanted else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="jobqueue-progress", daemon=True)

    def __enter__(self) -> Self:
        if self.bar is not None:
            self.bar.start()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self._stop.set()
            self._thread.join(5)
            self.bar.stop()

    def _follow(self) -> None:
        assert self.bar is not None
        row = self.bar.add_task("jobs", total=None)
        while not self._stop.wait(INTERVAL):
            self._show(row)
        self._show(row, last=True)
        connections.close_all()

    def _show(self, row: Any, *, last: bool = False) -> None:
        done = self.worker.completer.done
        unfinished = Job.objects.using(self.worker.using).unfinished()[:MOST].count()
        assert self.bar is not None
        self.bar.update(row, completed=done, total=done if last else done + unfinished)


def make_bar() -> Any:
    """A bar on standard error; None where rich is not installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        return None
    columns = TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
