"""Lifespans: what layers set up when a worker, or one of its threads, begins, and tear down when it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, contextmanager
from inspect import isgeneratorfunction
from types import TracebackType
from typing import Any

from ..logs import get_logger
from .chain import hooks
from .context import WorkerHandle

logger = get_logger(__name__)


class Lifespan:
    """All hooks of one name, entered in the layers' order and left in the reverse.

    What raises on the way in reaches the caller, after all that was entered has been left. What raises on the way out
    is logged.
    """

    def __init__(self, layers: Iterable[Any], name: str, worker: WorkerHandle) -> None:
        self.hooks, self.worker = hooks(layers, name), worker
        self._entered: list[AbstractContextManager[Any]] = []

    def __enter__(self) -> None:
        try:
            for hook in self.hooks:
                manager = as_manager(hook)(self.worker)
                manager.__enter__()
                self._entered.append(manager)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._entered:
            manager = self._entered.pop()
            try:
                manager.__exit__(None, None, None)
            except Exception:
                logger.exception("The end of %r raised.", manager)


def as_manager(hook: Callable[..., Any]) -> Callable[..., AbstractContextManager[Any]]:
    """A generator function may stand for a context manager: the decorator is easily forgotten."""
    return contextmanager(hook) if isgeneratorfunction(hook) else hook
