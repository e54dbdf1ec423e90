"""Concurrency: at most so many jobs of a key run at the same time, over all workers."""

from __future__ import annotations

from typing import Any

from ..keys import clean_key
from .base import Middleware


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
        elif value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError("it must be a whole number from 1 on, or None")
        return value
