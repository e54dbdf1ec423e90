"""Runs without a worker: one claimed job, in memory, through the worker's own ``Execution``."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from django.utils import timezone

from django_jobqueue.compat import task_backends
from django_jobqueue.lifecycle import Run
from django_jobqueue.models import Job
from django_jobqueue.outcomes import Outcome
from django_jobqueue.worker.execution import Execution


class Boss:
    """What a job sees of its worker."""

    id, name = 7, "host:1"

    def __init__(self) -> None:
        self.stopped = False
        self.state = SimpleNamespace()
        self.progress: list[tuple[Any, ...]] = []
        self.notified: list[int] = []

    def note_progress(self, job: Job, *values: Any) -> None:
        self.progress.append((job.pk, *values))

    def interrupt_on_stop(self, job: Job) -> None:
        self.notified.append(job.pk)

    def stop(self) -> None:
        self.stopped = True


def execution(worker: Boss | None = None) -> Execution:
    return Execution(worker or Boss(), task_backends["default"])


def claimed_run(task: Any, *args: Any, row: dict[str, Any] | None = None, **kwargs: Any) -> Run:
    """A run as a claimer makes it; ``row`` are other values for the job's columns."""
    now, row = timezone.now(), dict(row or {})
    past_attempts = row.pop("past_attempts", ())
    job = Job(
        **{
            "pk": 1,
            "task_path": task.module_path,
            "args": list(args),
            "kwargs": kwargs,
            "enqueued_at": now,
            "started_at": now,
            "status": Job.Status.RUNNING,
            "attempts": 1,
            "tries": 1,
            "max_attempts": getattr(task, "max_attempts", None) or 1,
            "worker_id": Boss.id,
            "fence": 1,
            **row,
        }
    )
    job.past_attempts = past_attempts
    return Run(job=job, worker_id=Boss.id)


OPTIONS = ("max_attempts", "backoff", "timeout", "retry_on", "give_up_on", "middleware")


def prepared(task: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Run]:
    options = {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}
    row = kwargs.pop("row", None)
    changed = replace(task, **options) if options else task
    return changed, claimed_run(changed, *args, row=row, **kwargs)


def run_sync(task: Any, *args: Any, **kwargs: Any) -> Outcome:
    """What the task's job comes to. Options of the task may stand among the keyword arguments."""
    changed, run = prepared(task, args, kwargs)
    execution().run(run, changed)
    assert run.outcome is not None and run.started <= run.ended
    return run.outcome


def run_async(task: Any, *args: Any, **kwargs: Any) -> Outcome:
    changed, run = prepared(task, args, kwargs)
    asyncio.run(execution().arun(run, changed))
    assert run.outcome is not None and run.started <= run.ended
    return run.outcome
