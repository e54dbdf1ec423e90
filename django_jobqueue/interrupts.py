"""What stops a running task from outside.

They are ``BaseException``s, so that a task's ``except Exception`` does not swallow them.
"""

from __future__ import annotations


class Interrupt(BaseException):
    """Base class. ``reason`` is the word that ``context.should_stop()`` gives."""

    reason = ""


class JobTimeout(Interrupt):
    """The task's ``timeout`` is over."""

    reason = "timeout"


class JobCancelled(Interrupt):
    """Somebody cancelled the job while it was running."""

    reason = "cancel"


class WorkerShutdown(Interrupt):
    """The worker stops and its grace is over; the job runs again elsewhere, at no cost."""

    reason = "shutdown"
