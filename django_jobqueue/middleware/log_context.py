"""LogContext: each log record says which job it is of, and each attempt keeps its own."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from math import inf
from typing import Any, ClassVar

from .base import Middleware
from .context import JobContext, WorkerHandle, current_job

#: How much of a longer log is kept from its beginning, and as much from its end: there one sees what happened.
KEPT = 8_000

NOTHING: Mapping[str, Any] = dict.fromkeys(("job_id", "job_task", "job_queue", "job_attempt", "job_worker"))


class LogContext(Middleware):
    """Gives log records ``job_id``, ``job_task``, ``job_queue``, ``job_attempt`` and ``job_worker``, and keeps what a
    job logs as ``Attempt.log``: from the level of the option ``log_level`` on, nothing if that is None.
    """

    options: ClassVar[Mapping[str, Any]] = {"log_level": "INFO"}

    @classmethod
    def clean_option(cls, name: str, value: Any) -> Any:
        if value is None:
            return None
        if str(value).upper() not in logging.getLevelNamesMapping():
            raise ValueError("it must be None or the name of a level, as 'WARNING' is.")
        return str(value).upper()

    @contextmanager
    def worker_lifespan(self, worker: WorkerHandle) -> Iterator[None]:
        """All handlers that there are get the filter, and the root logger one more handler.

        A record factory would reach handlers that are added later, too; but with one, a project's own
        ``logger.info(…, extra={"job_id": …})`` is a KeyError.
        """
        found = handlers()
        own = None
        if not any(isinstance(handler, JobLogHandler) for handler in found):
            own = JobLogHandler()
            logging.getLogger().addHandler(own)
        add = JobFilter()
        for handler in found:
            handler.addFilter(add)
        try:
            yield
        finally:
            for handler in found:
                handler.removeFilter(add)
            if own is not None:
                logging.getLogger().removeHandler(own)

    def applies(self, option: Callable[[str], Any]) -> bool:
        return option("log_level") is not None

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        with recording(context):
            return call_next()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        with recording(context):
            return await call_next()


def handlers() -> list[logging.Handler]:
    """Of all loggers."""
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    found = (handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers)
    return list(dict.fromkeys(found))


# -- which job a record is of ---------------------------------------------------------------------


class JobFilter(logging.Filter):
    """For ``"filters"`` in ``LOGGING``: gives records the attributes, outside of jobs with None."""

    #: It rejects no record: see ``django_jobqueue.signals``.
    passes_all = True

    def filter(self, record: logging.LogRecord) -> bool:
        context = current_job()
        for name, value in (NOTHING if context is None else attributes(context)).items():
            record.__dict__.setdefault(name, value)  # what the project has put there with extra= holds
        return True


def attributes(context: JobContext) -> dict[str, Any]:
    """What log records say of the job."""
    job = context.job
    values = (job.pk, job.task_path, job.queue_name, context.attempt, context.worker.name)
    return dict(zip(NOTHING, values, strict=True))


# -- what a job has logged ------------------------------------------------------------------------


class Recording:
    """The log of one attempt. Its beginning goes on record at once: a task that hangs may never come to its end.

    One is made for each job, and most jobs log nothing: so what it needs for that is only found out then.
    """

    end, left_out, is_over = "", False, False

    def __init__(self, context: JobContext) -> None:
        self.context, self.room = context, KEPT

    def __enter__(self) -> None:
        self._token = _recording.set(self)

    def __exit__(self, *error: object) -> None:
        _recording.reset(self._token)
        self.close()

    @cached_property
    def level(self) -> float:
        """From which level on records are kept."""
        level = self.context.option("log_level")
        return inf if level is None else logging.getLevelNamesMapping()[str(level).upper()]

    def add(self, line: str) -> None:
        if self.is_over:  # a thread that the job has left behind
            return
        text = f"{line}\n"
        if self.room:
            self.context.keep_log(text[: self.room])
        self.end += text[self.room :]
        self.room = max(0, self.room - len(text))
        if len(self.end) > KEPT:
            self.end, self.left_out = self.end[-KEPT:], True

    def close(self) -> None:
        self.is_over = True
        if self.end:
            self.context.keep_log(f"\n[…]\n{self.end}" if self.left_out else self.end)


_recording: ContextVar[Recording | None] = ContextVar("django_jobqueue_recording", default=None)


def recording(context: JobContext) -> Recording:
    """What is logged in a ``with`` block goes on record with the attempt."""
    return Recording(context)


class JobLogHandler(logging.Handler):
    """Puts what a job logs on record with its attempt.

    ``LogContext`` adds one to the root logger of a worker, unless ``LOGGING`` has one already, with a formatter or
    with filters of the project's own.
    """

    #: It ignores records that are made outside of jobs: see ``django_jobqueue.signals``.
    only_in_jobs = True

    def __init__(self, level: int | str = logging.NOTSET) -> None:
        super().__init__(level)
        self.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        log = _recording.get()
        try:
            if log is not None and record.levelno >= log.level:
                log.add(self.format(record))
        except Exception:
            self.handleError(record)
        # Python prints warnings that no handler takes. That this one looks at them must not be the end of it.
        last = logging.lastResort
        if last is not None and record.levelno >= last.level and self._is_alone(record):
            last.handle(record)

    def _is_alone(self, record: logging.LogRecord) -> bool:
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            if any(handler is not self for handler in logger.handlers):
                return False
            logger = logger.parent if logger.propagate else None
        return True
