"""The names of the task framework; the suite takes them from here, on every version of Django."""

from __future__ import annotations

import inspect
from importlib import import_module

from django_jobqueue.compat import (
    BaseTaskBackend,
    InvalidTask,
    Task,
    TaskContext,
    TaskError,
    TaskResult,
    TaskResultDoesNotExist,
    TaskResultMismatch,
    TaskResultStatus,
    checks,
    task_backends,
    task_enqueued,
    task_finished,
    task_started,
)

#: ``django.tasks``, or ``django_tasks`` with the backport. Its logger has the same name.
PACKAGE = Task.__module__.rpartition(".")[0]

IMMEDIATE = f"{PACKAGE}.backends.immediate.ImmediateBackend"

#: The framework's own decorator.
task = import_module(PACKAGE).task

#: Does it hand options on to the backend's task class? Django 6.0 does not.
DECORATOR_TAKES_OPTIONS = "kwargs" in inspect.signature(task).parameters

__all__ = [
    "DECORATOR_TAKES_OPTIONS",
    "IMMEDIATE",
    "PACKAGE",
    "BaseTaskBackend",
    "InvalidTask",
    "Task",
    "TaskContext",
    "TaskError",
    "TaskResult",
    "TaskResultDoesNotExist",
    "TaskResultMismatch",
    "TaskResultStatus",
    "checks",
    "task",
    "task_backends",
    "task_enqueued",
    "task_finished",
    "task_started",
]
