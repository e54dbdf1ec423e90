"""Inline: run jobs in the calling thread, on its own connections, as a worker would: for tests.

A worker's threads have connections of their own, which see nothing of a test's open transaction. Here the transaction
stays as it is: nothing closes its connection, and a job that breaks it is rolled back to where the job began.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

from asgiref.sync import async_to_sync
from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..backend import JobQueueBackend
from ..compat import AnyTask
from ..discovery import discover
from ..exceptions import UnknownTask
from ..keys import limit_key, slots_of
from ..lifecycle import (
    Progress,
    QueueSelector,
    Run,
    admit,
    claim,
    find_strays,
    finish,
    follow_up,
    register,
    release,
    report,
    sign_off,
    waiting_keys,
)
from ..lifecycle.admit import send_to_keys
from ..middleware.chain import narrowing, project_layers
from ..middleware.database_connections import leaving_open
from ..middleware.lifespan import Lifespan
from ..models import Job
from ..registry import is_async, resolve
from .announcer import Announcer
from .claimer import UNKNOWN_DELAY
from .completer import log_end
from .execution import Execution, fail
from .lanes import Lanes
from .timekeeper import Timekeeper

logger = logging.getLogger(__name__)


class InlineWorker:
    """What layers and tasks see as their worker while ``run`` runs."""

    def __init__(self, backend: JobQueueBackend) -> None:
        self.backend, self.using = backend, backend.config.database
        self.state = SimpleNamespace()
        self.id, self.name = 0, ""
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True

    def note_progress(self, job: Job, done: float, total: float | None, message: str) -> None:
        if job.fence is not None:
            report([Progress(job.pk, job.fence, done, total, message)], self.using)

    def interrupt_on_stop(self, job: Job) -> None:
        """It stops between two jobs only."""

    def run(self, max_jobs: int) -> int:
        """Run all jobs that are due, those that they enqueue too. Return the number of attempts.

        Raise ``RuntimeError`` when there is still a job after ``max_jobs`` attempts.
        """
        discover()
        layers = project_layers()
        timekeeper = Timekeeper(overdue=lambda run: None)
        self.execution = Execution(self, self.backend, timekeeper)
        self.execution.own_thread = nullcontext
        self.announcer = Announcer(self.execution)
        self.lanes = Lanes(QueueSelector(), self.using)
        self.lanes.narrow = narrowing(layers, self)
        row = register(self.using, queues=[], slots=1, lease=self.backend.config.lease)
        self.id, self.name = row.pk, row.name
        try:
            with leaving_open(), Lifespan(layers, "worker_lifespan", self), Lifespan(layers, "thread_lifespan", self):
                return self._run_all(max_jobs)
        finally:
            timekeeper.close()
            sign_off(self.id, self.using)

    def _run_all(self, max_jobs: int) -> int:
        ran = 0
        while not self.stopped and (job := self._next()) is not None:
            if ran == max_jobs:
                release([job], self.using)
                raise RuntimeError(f"After {max_jobs} attempts there are still jobs; the next one is {job}.")
            ran += self._run(job)
        return ran

    def _next(self) -> Job | None:
        """Claim one job, after all that wait for others or for slots have been seen to."""
        behind = find_strays(self.using)
        while behind:
            behind = find_strays(self.using, behind)
        follow_up(self.using)
        admit(waiting_keys(self.using), self.using)
        self.lanes.look_from_the_front()
        for isolated in (False, True):
            for job in claim(self.lanes.order, 1, self.id, self.using, isolated=isolated, only=self.lanes.only):
                return job
        return None

    def _run(self, job: Job) -> bool:
        """False: the job did not start."""
        run = Run(job=job, worker_id=self.id)
        try:
            job.decode()
            task = resolve(job.task_path)
            is_limited = job.concurrency_key is None and slots_of(task, job).most is not None
            if is_limited and (key := limit_key(task, job, "concurrency_key")) is not None:
                send_to_keys({job: key}, self.using)
                return False
        except UnknownTask as error:
            logger.warning("%s %s is put off.", error, job)
            release([job], self.using, UNKNOWN_DELAY[0])
            return False
        except Exception as error:
            fail(run, error)
        else:
            self._execute(run, task)
        run.ended = run.ended or time.monotonic()
        status = run.status if run.is_written else finish([run], self.using).get(job.pk)
        log_end(run)
        if status is not None:
            self.announcer.tell(run, status)
        return True

    def _execute(self, run: Run, task: AnyTask) -> None:
        run.is_async = is_async(task)
        with kept_usable():
            try:
                if run.is_async:
                    async_to_sync(self.execution.arun)(run, task)
                else:
                    self.execution.run(run, task)
            except BaseException as error:
                fail(run, error)


@contextmanager
def kept_usable() -> Iterator[None]:
    """Roll the open transactions back to where they are now, those that the block leaves unusable."""
    with ExitStack() as stack:
        for connection in connections.all(initialized_only=True):
            if connection.in_atomic_block:
                stack.enter_context(_kept_usable(connection))
        yield


@contextmanager
def _kept_usable(connection: BaseDatabaseWrapper) -> Iterator[None]:
    block: Any = transaction.atomic(using=connection.alias)
    block._from_testcase = True  # as the test's own: a task may ask for atomic(durable=True) inside
    with block:
        yield
        if connection.needs_rollback or not _answers(connection):
            connection.set_rollback(True)


def _answers(connection: BaseDatabaseWrapper) -> bool:
    """Does the transaction take statements? PostgreSQL's takes none after an error."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return False
    return True
