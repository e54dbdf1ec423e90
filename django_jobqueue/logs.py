"""Logs: loggers that never raise. A project's filter or handler that fails must end no thread and lose no outcome."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from traceback import format_exception
from typing import Any

#: What has been reported: each kind of failure once for each process, and no more than so many kinds.
_reported: set[str] = set()
MANY = 50


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that reports an exception of a filter or a handler on the standard error stream, once, and goes on."""

    def log(self, level: int, msg: object, *args: Any, **kwargs: Any) -> None:
        if not self.isEnabledFor(level):
            return
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # a record names the caller, not this line
        try:
            self.logger.log(level, msg, *args, **kwargs)
        except Exception as error:
            _report(error, self.logger.name)


def get_logger(name: str) -> SafeLogger:
    """``logging.getLogger`` for code that has to go on whatever the project's logging does."""
    return SafeLogger(logging.getLogger(name), {})


def _report(error: Exception, name: str) -> None:
    kind = f"{name} {type(error).__module__}.{type(error).__qualname__}"
    if kind in _reported or len(_reported) >= MANY:
        return
    _reported.add(kind)
    with suppress(Exception):
        what = f"A filter or handler of the logger {name!r} raised. The queue goes on, and reports this once.\n"
        sys.stderr.write(what + "".join(format_exception(error)))
