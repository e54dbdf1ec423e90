"""The signals of django.tasks: whether anything listens to one, and how it is sent.

Django connects a receiver of its own to each signal, which writes a line to the log of the task framework. A fresh
project has no handler that prints the lines of jobs that succeed. So the handlers are asked before anything is made
for them: a ``TaskResult`` and a log record take longer than a short job.
"""

from __future__ import annotations

import logging
from types import FunctionType
from typing import Any

from django.conf import settings
from django.utils.log import AdminEmailHandler, RequireDebugFalse, RequireDebugTrue

from .compat import (
    TASKS_LOGGER,
    AnyResult,
    log_task_enqueued,
    log_task_finished,
    log_task_started,
    task_enqueued,
    task_finished,
    task_started,
)
from .logs import get_logger

logger = get_logger(__name__)


class TaskSignal:
    """One signal of django.tasks, with the receiver that Django connects to it."""

    def __init__(self, signal: Any, log_receiver: Any, level: int) -> None:
        """``level`` is the one at which Django's receiver logs."""
        self.signal, self.log_receiver, self.level = signal, log_receiver, level
        self._log_receiver_key = id(log_receiver)
        self._log = logging.getLogger(TASKS_LOGGER)

    @property
    def has_receivers(self) -> bool:
        """Are there receivers besides Django's own?"""
        for key, *_ in self.signal.receivers:  # noqa: SIM110 (any() takes twice the time, and enqueue() asks this)
            if key[0] != self._log_receiver_key:
                return True
        return False

    def is_heard(self, level: int | None = None) -> bool:
        """Return whether anything listens: a receiver of the project, or a handler of Django's log line.

        ``level`` is that of the line, where it is not the usual one.
        """
        if self.has_receivers:
            return True
        return bool(self.signal.receivers) and is_taken(self._log, self.level if level is None else level)

    def send(self, sender: type, result: AnyResult) -> None:
        """Send the signal. What a receiver raises is logged: the job is stored, and that stays true."""
        try:
            if self.has_receivers:
                self._send(sender, result)
            elif self.signal.receivers:
                self.log_receiver(signal=self.signal, sender=sender, task_result=result)
        except BaseException:  # a receiver may raise SystemExit, and a handler anything
            logger.exception("A receiver or the log raised for job #%s", result.id)

    def _send(self, sender: type, result: AnyResult) -> None:
        for receiver, answer in self.signal.send_robust(sender=sender, task_result=result):
            if isinstance(answer, Exception):
                logger.error("%r raised for job #%s", receiver, result.id, exc_info=answer)


ENQUEUED = TaskSignal(task_enqueued, log_task_enqueued, logging.DEBUG)
STARTED = TaskSignal(task_started, log_task_started, logging.INFO)
FINISHED = TaskSignal(task_finished, log_task_finished, logging.INFO)


# -- would a record be taken? ---------------------------------------------------------------------

#: What tools for error reports and traces replace in order to see each record, handled or not.
_WATCHED = ("handle", "callHandlers", "makeRecord", "_log")
_LOGGING_FILE = logging.Logger.info.__code__.co_filename


def is_taken(log: logging.Logger, level: int) -> bool:
    """Return whether a record of this level would reach anything that does something with it.

    False only where that is certain: a filter, a handler or a logger of a class that is not known may do anything.
    """
    if not log.isEnabledFor(level):
        return False
    if log.filters or _is_watched(log):
        return True
    has_handlers, current = False, log
    while True:
        for handler in current.handlers:
            if _is_blind(handler):
                continue
            has_handlers = True
            if level >= handler.level and _takes(handler):
                return True
        if not current.propagate or current.parent is None:
            break
        current = current.parent
    return not has_handlers and logging.lastResort is not None and level >= logging.lastResort.level


def _is_watched(log: logging.Logger) -> bool:
    return not all(_is_pythons(getattr(type(log), name)) for name in _WATCHED)


def _is_pythons(function: Any) -> bool:
    return type(function) is FunctionType and function.__code__.co_filename == _LOGGING_FILE


def _is_blind(handler: logging.Handler) -> bool:
    """Does the handler take records of running jobs only? The signals are sent before and after a job."""
    return getattr(handler, "only_in_jobs", False)


def _takes(handler: logging.Handler) -> bool:
    """Might the handler do something with a record whose level it accepts?"""
    kind = type(handler)
    if not (_is_pythons(kind.handle) and _is_pythons(kind.filter)):
        return True
    for condition in handler.filters:
        if type(condition) is RequireDebugTrue:
            if not settings.DEBUG:
                return False
        elif type(condition) is RequireDebugFalse:
            if settings.DEBUG:
                return False
        elif not getattr(condition, "passes_all", False):
            return True
    if kind is logging.NullHandler:
        return False
    # As it says itself: without ADMINS there is nobody to send a mail to.
    return not (kind is AdminEmailHandler and not settings.ADMINS)
