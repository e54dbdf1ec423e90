"""Middleware: the class that layers are made from."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..models import Job
    from .context import JobContext


class Middleware:
    """One layer. A project lists dotted paths of such classes in ``JOBQUEUE_MIDDLEWARE``; the first is outermost.

    Each process makes one instance of each class; ``django.core.exceptions.MiddlewareNotUsed`` from ``__init__``
    drops it. Override the hooks you need: the others cost nothing. ``call_next`` must be called exactly once in a hook
    around a job; to skip the job, raise ``Skip``. What a hook raises counts as raised by the task.

    The shape comes from five systems: Dramatiq's options, procrastinate's ``call_next``, Queuert's injection,
    streaQ's single middleware for sync and async tasks, and Django's settings.
    """

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
