"""Registry: tasks by their paths, and what may be asked of any task, ours or Django's plain one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from importlib import import_module
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.apps import apps
from django.conf import settings

from .compat import AnyTask, Task
from .conf import task_modules
from .exception_groups import failures_in
from .exceptions import Fail, InvalidResult, Retry, UnknownTask


@lru_cache(maxsize=4096)
def resolve(path: str) -> AnyTask:
    """The task with this dotted path. Raise ``UnknownTask`` if this process knows none.

    A row of the database must not make a worker import whatever it names. So only a module that has been imported
    already counts, or one in an installed app or in the project's own package; and what stands there must be a task.
    """
    module_path, _, name = path.rpartition(".")
    module = sys.modules.get(module_path)
    found = getattr(module, name, None)
    if not isinstance(found, Task) and (module or is_ours(module_path)):
        # One that is there may be half of what it will be, while another thread imports it: then this waits for that.
        try:
            module = import_module(module_path)
        except Exception as error:
            raise UnknownTask(f"No task {path!r}: {error}.") from error
        found = getattr(module, name, None)
    if not isinstance(found, Task):
        hint = "" if module else f" ({module_path} is not imported, nor in an installed app or the project's package)"
        if is_of_the_backport(found):
            hint = f" ({IS_OF_THE_BACKPORT})"
        raise UnknownTask(f"No task {path!r} in this process{hint}.")
    return found


IS_OF_THE_BACKPORT = (
    "it is a task of the backport django_tasks, and Django has a task framework of its own: import task from "
    "django.tasks or django_jobqueue"
)


def is_of_the_backport(task: Any) -> bool:
    """Is it a task of the backport, where that is not the framework that we work for?"""
    return not isinstance(task, Task) and any(kind.__module__ == "django_tasks.base" for kind in type(task).__mro__)


def is_ours(module_path: str) -> bool:
    """Is it in an installed app, in the project's own package, or in a module that JOBQUEUE_TASK_MODULES names?"""
    packages = {config.name for config in apps.get_app_configs()}
    packages.add(str(getattr(settings, "ROOT_URLCONF", "")).partition(".")[0])
    packages.update(name for name in task_modules() if "." in name)
    parents = module_path.split(".")
    return any(".".join(parents[: length + 1]) in packages for length in range(len(parents)))


def copy_of(task: AnyTask, **changes: Any) -> AnyTask:
    """``dataclasses.replace`` without the validation that comes with making a task."""
    made = object.__new__(type(task))
    for field in fields(task):
        object.__setattr__(made, field.name, changes.get(field.name, getattr(task, field.name)))
    return made


#: Where a task whose function is mocked keeps the real one.
DECLARED = "_declared_func"


def declared_function(task: AnyTask) -> Callable[..., Any]:
    """The function that the task was declared with, also while a test has put a mock in its place: a mock does not know
    which arguments the task takes.
    """
    function: Callable[..., Any] = getattr(task, DECLARED, task.func)
    return function


def is_async(task: AnyTask) -> bool:
    return _is_coroutine_function(task.func)


_is_coroutine_function = lru_cache(maxsize=4096)(iscoroutinefunction)  # asked for each job


def effective(task: AnyTask, name: str, default: Any) -> Any:
    """The task's option if it has one, else ``default``: a plain Django task has none of ours."""
    value = getattr(task, name, None)
    return default if value is None else value


def is_retried(error: BaseException, task: AnyTask) -> bool:
    """Does the task want another attempt after this exception, if it has any left?

    After a group only if it wants one after each failure in the group.
    """
    if isinstance(error, Retry):
        return True
    failures, retry_on = failures_in(error), effective(task, "retry_on", ())
    if any(isinstance(one, (Fail, InvalidResult, *effective(task, "give_up_on", ()))) for one in (error, *failures)):
        return False
    return not retry_on or isinstance(error, retry_on) or all(isinstance(failure, retry_on) for failure in failures)
