"""Workers in this process, with their own threads and connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from django_jobqueue.compat import task_backends
from django_jobqueue.lifecycle import QueueSelector
from django_jobqueue.worker.claimer import Intake
from django_jobqueue.worker.worker import Worker


def make_worker(
    *,
    queues: str = "",
    drain: float | None = None,
    max_jobs: int | None = None,
    threads: int = 2,
    async_slots: int = 10,
    shutdown_timeout: float = 10.0,
) -> Worker:
    intake = Intake(QueueSelector.parse(queues), poll=0.02, drain=drain, max_jobs=max_jobs)
    backend: Any = task_backends["default"]
    return Worker(backend, intake, threads=threads, async_slots=async_slots, shutdown_timeout=shutdown_timeout)


def quick_to_stop() -> Any:
    """A worker that stops waits for its listener to notice, which hundreds of tests need not wait for."""
    return mock.patch("django_jobqueue.worker.wakeup.TICK", 0.02)


def drain(seconds: float = 1.0, **options: Any) -> Worker:
    """Let a worker run all jobs that are due within this many seconds."""
    worker = make_worker(drain=seconds, **options)
    with quick_to_stop():
        assert worker.run()
    return worker


@contextmanager
def working(**options: Any) -> Iterator[Worker]:
    """A worker in a thread; it has ended when the block has."""
    worker = make_worker(**options)
    thread = threading.Thread(target=worker.run, name="worker")
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(30)
        assert not thread.is_alive()
