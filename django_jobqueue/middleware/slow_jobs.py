"""SlowJobs: a warning about each attempt that took longer than it should."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from math import isfinite
from typing import Any, ClassVar

from ..logs import get_logger
from .base import Middleware
from .context import JobContext

logger = get_logger(__name__)


class SlowJobs(Middleware):
    """Warns when an attempt took longer than the option ``slow_after`` says, in seconds; never, if that is None.

    The default is what web servers commonly grant a request: who waits for a job's effect gives up about then, too.
    """

    options: ClassVar[Mapping[str, Any]] = {"slow_after": 30.0}

    @classmethod
    def clean_option(cls, name: str, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not (isfinite(value) and value > 0):
            raise ValueError("it must be None or a positive number of seconds.")
        return float(value)

    def applies(self, option: Callable[[str], Any]) -> bool:
        return option("slow_after") is not None

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        began = time.monotonic()
        try:
            return call_next()
        finally:  # one that was interrupted or failed was slow all the same
            warn_if_slow(context, time.monotonic() - began)

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        began = time.monotonic()
        try:
            return await call_next()
        finally:
            warn_if_slow(context, time.monotonic() - began)


def warn_if_slow(context: JobContext, took: float) -> None:
    limit = context.option("slow_after")
    if limit is not None and took > limit:
        logger.warning("%s is slow: attempt %d took %.2f s, more than %g s.", context.job, context.attempt, took, limit)
