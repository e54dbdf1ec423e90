"""Middleware: the class that layers are made from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from ..outcomes import Outcome

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from ..compat import AnyTask
    from ..models import Job
    from .context import JobContext, WorkerHandle


class Middleware:
    """One layer. A project lists dotted paths of such classes in ``JOBQUEUE_MIDDLEWARE``; the first is outermost.

    Each process makes one instance of each class; ``django.core.exceptions.MiddlewareNotUsed`` from ``__init__``
    drops it. Override the hooks you need: the others cost nothing. ``call_next`` must be called exactly once in a hook
    around a job; to skip the job, raise ``Skip``. What a hook raises counts as raised by the task.

    The shape comes from five systems: Dramatiq's options, procrastinate's ``call_next``, Queuert's injection,
    streaQ's single middleware for sync and async tasks, and Django's settings.
    """

    #: Options that the layer understands, with their defaults: legal in ``@task(…)``, ``.using(…)`` and the setting
    #: ``JOBQUEUE_DEFAULTS``. ``context.option(name)`` has the value that counts.
    options: ClassVar[Mapping[str, Any]] = {}
    #: The names that it may hand to inner layers and to the task, by ``call_next(name=…)``.
    provides: ClassVar[tuple[str, ...]] = ()
    #: Dotted paths of layers that must stand before it in ``JOBQUEUE_MIDDLEWARE``.
    requires: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def clean_option(cls, name: str, value: Any) -> Any:
        """The option's value as it shall be kept. Raise ``ValueError`` or ``TypeError`` for one that cannot be.

        Asked when a task is declared, by ``using`` and by the system checks: a mistake is seen where it is made.
        """
        return value

    def task_declared(self, task: AnyTask) -> None:
        """Called once with each task, as soon as both the task and the layer are there."""

    def process_enqueue(self, jobs: list[Job], call_next: Callable[[list[Job]], list[Job]]) -> list[Job]:
        """Around the insert, in the caller's transaction. Gets the unsaved jobs and returns the saved ones.

        It may change jobs, leave some out, or call nothing at all. What it raises reaches the caller, and nothing is
        saved. It gets a list, so that ``enqueue_many`` cannot pass it by.
        """
        return call_next(jobs)

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        """Around the task: its real arguments (``context.job.args`` and ``.kwargs``), result and exception.

        ``call_next(user=user)`` hands ``user`` to the inner layers (``context.injected``) and to the task, if its
        signature names it. Around an async task without ``aprocess_job`` this runs in a thread of the job's own.
        """
        return call_next()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        """The same for async tasks. Leave it out and ``process_job`` is adapted; have only this and sync tasks
        get it adapted: a layer is never skipped for its kind.
        """
        return await call_next()

    def applies(self, option: Callable[[str], Any]) -> bool:
        """Has the layer anything to do for jobs with these options? ``option(name)`` is the value in force.

        A job to which it does not apply passes it by: its hooks around the task, around the transactions of the attempt
        and after the commit are not called. Asked once for a task, and again only for jobs that bring along options
        that the layer itself has: so the answer may depend on nothing else. A subclass that overrides such a hook is
        always taken to apply, unless it has this method itself.
        """
        return True

    def process_prepare(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        """In the first transaction of the attempt, before ``process_job``, in the job's own thread, for async tasks
        too. ``call_next(user=user)`` hands on as there. What it raises is as if the task had raised it.
        """
        return call_next()

    def completes(self, context: JobContext) -> bool:
        """Is ``process_complete`` wanted for this job? Asked before the job runs.

        Outcomes that no layer completes are written many at a time, which is several times as fast.
        """
        return True

    def process_complete(self, context: JobContext, outcome: Outcome, call_next: Callable[..., Any]) -> Any:
        """In the transaction that writes the outcome: what it does there is committed with the outcome or not at all.

        ``call_next()`` writes it, or ``call_next(outcome.replace(…))`` another. What it raises rolls the transaction
        back; a success becomes a failed attempt then, and is recorded without these hooks.
        """
        return call_next()

    def outcome_written(self, job: Job, outcome: Outcome) -> bool:
        """The outcome of an attempt has been committed; is ``job_finished`` wanted for it, which may take its time?

        Called once for each outcome of which ``job_finished`` is told, in the thread that writes the outcomes of all
        jobs. So it must be quick: it may count, but not ask the database. What it raises is logged, and taken for True.
        """
        return True

    def job_finished(self, context: JobContext, outcome: Outcome) -> None:
        """After the attempt's outcome has been committed, in a thread of the worker's own; also when the attempt was
        lost with its worker. What it raises is logged and changes nothing.
        """

    def filter_claim(self, jobs: QuerySet[Job], worker: WorkerHandle) -> QuerySet[Job]:
        """Narrow what this worker claims: ``jobs.exclude(task_path=…)``. Asked a few times a second at most.

        Only conditions on the job's own columns, which become part of the claim's SQL. If it raises, the worker
        claims nothing until the next time it is asked.
        """
        return jobs

    def worker_lifespan(self, worker: WorkerHandle) -> AbstractContextManager[Any]:
        """A context manager, or a generator function, around the life of a worker process.

        If its beginning raises, the worker does not start, and ``runworker`` ends with another code than 0.
        """
        return nullcontext()

    def thread_lifespan(self, worker: WorkerHandle) -> AbstractContextManager[Any]:
        """The same around each thread in which sync tasks run."""
        return nullcontext()
