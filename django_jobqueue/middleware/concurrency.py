"""Concurrency: at most so many jobs of a key run at the same time, over all workers."""

from __future__ import annotations

from typing import Any

from ..keys import clean_key
from .base import Middleware

#: What a database's integer holds.
MOST = 2**31 - 1


class Concurrency(Middleware):
    """``concurrency``: how many jobs may run at once that have the same ``concurrency_key``: a template over the call's
    arguments, ``"tenant-{tenant_id}"``, or in ``@task`` a callable that gets them. Without one, all jobs of the task.
    ``in_order=True``: one after another, in the order in which they were enqueued.

    The key is made when the job is enqueued, and until there is a slot for it the job waits where no worker looks
    (``lifecycle/admit.py``). So this layer has no hook: it knows the options, and without it there are none.
    """

    options = {"concurrency": None, "concurrency_key": None, "in_order": False, "fair": False}

    @classmethod
    def clean_option(cls, name: str, value: Any) -> Any:
        if name == "concurrency_key":
            return clean_key(value)
        if name in ("in_order", "fair"):
            if not isinstance(value, bool):
                raise TypeError("it must be True or False")
        elif value is not None and not (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST):
            raise ValueError(f"it must be a whole number from 1 to {MOST}, or None for any number of jobs")
        return value
