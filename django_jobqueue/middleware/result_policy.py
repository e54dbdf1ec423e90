"""Results: whether a task's result is kept, for how long, and how large it may be."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from ..arguments import normalise_result
from ..exceptions import InvalidResult, Skip
from ..logs import get_logger
from ..options import plain
from ..outcomes import is_period, seconds
from .base import Middleware
from .context import JobContext

logger = get_logger(__name__)

MIB = 1024 * 1024
OVERFLOWS = ("fail", "drop")


class Results(Middleware):
    """``store_result``: False keeps nothing. ``result_ttl``: for how many seconds it is kept, None for as long as the
    job. ``result_max_size``: bytes of JSON, None for no limit.

    ``result_overflow`` says what becomes of a larger one: ``"fail"``, the job fails with ``InvalidResult``; or
    ``"drop"``, None is stored, and the log says so.
    """

    options = {"store_result": True, "result_ttl": None, "result_max_size": MIB, "result_overflow": "fail"}

    @classmethod
    def clean_option(cls, name: str, value: Any) -> Any:
        if name == "store_result" and not isinstance(value, bool):
            raise TypeError("it must be True or False")
        if name == "result_overflow" and value not in OVERFLOWS:
            raise ValueError(f"it must be one of {OVERFLOWS}")
        if name == "result_max_size" and not _is_size(value):
            raise ValueError("it must be a positive number of bytes, or None")
        if name == "result_ttl" and value is not None and not is_period(plain(value)):
            raise ValueError("it must be a positive number of seconds or a timedelta, or None")
        return value

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        try:
            return self._kept(context, call_next())
        except Skip as skip:
            raise self._skip(context, skip) from None

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        try:
            return self._kept(context, await call_next())
        except Skip as skip:
            raise self._skip(context, skip) from None

    def _skip(self, context: JobContext, skip: Skip) -> Skip:
        if skip.result is not Skip.NO_RESULT:
            skip.result = self._kept(context, skip.result)
        return skip

    def _kept(self, context: JobContext, result: Any) -> Any:
        """What is to be stored. Raise ``InvalidResult`` for what must not be."""
        if result is None or not context.option("store_result"):
            return None
        if (ttl := context.option("result_ttl")) is not None:
            context.expire_result(seconds(ttl))
        limit = context.option("result_max_size")
        if limit is None or isinstance(result, bool | int | float):
            return result
        stored = normalise_result(result)
        size = len(json.dumps(stored))
        if size <= limit:
            return stored
        told = f"its result is {size:,} bytes of JSON, and result_max_size is {limit:,}"
        if context.option("result_overflow") == "drop":
            logger.warning("The result of %s is not stored: %s.", context.job, told)
            return None
        raise InvalidResult(f"The task's result cannot be stored: {told}.")


def _is_size(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0)
