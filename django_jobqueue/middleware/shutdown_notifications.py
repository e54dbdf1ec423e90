"""ShutdownNotifications: tasks that want to know at once that their worker stops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from .base import Middleware
from .context import JobContext


class ShutdownNotifications(Middleware):
    """``notify_shutdown``: the task is interrupted when its worker begins to stop, rather than at the end of the grace.

    It may catch ``WorkerShutdown`` (``CancelledError`` in an async task), put things in order and return: then it has
    succeeded. If it lets the interrupt pass, the job runs again and the attempt does not count.
    """

    options = {"notify_shutdown": False}

    @classmethod
    def clean_option(cls, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError("it must be True or False")
        return value

    def applies(self, option: Callable[[str], Any]) -> bool:
        return bool(option("notify_shutdown"))

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        if context.option("notify_shutdown"):
            context.interrupt_on_stop()
        return call_next()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        if context.option("notify_shutdown"):
            context.interrupt_on_stop()
        return await call_next()
