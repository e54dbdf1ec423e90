"""Gathering: the step between two groups, so that not each job of the second one waits for each job of the first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

from .compat import AnyTask
from .task import JobTask


def _task(func: Callable[..., Any]) -> AnyTask:
    """A task without the validation that comes with making one: the project's backends may be of any kind."""
    made: Any = object.__new__(JobTask)
    values = {"func": func, "priority": 0, "backend": "default", "queue_name": "default", "run_after": None}
    for field in fields(JobTask):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        object.__setattr__(made, field.name, values.get(field.name, default))
    object.__setattr__(made, "takes_context", False)
    return made  # type: ignore[no-any-return]


@_task
def gather(results: list[Any]) -> list[Any]:
    """Return the results of a group's jobs. No worker runs such a job: ``follow_up`` ends it when it has them all."""
    return results


GATHER: str = gather.module_path
