"""Signatures: do the arguments of a call fit the task's function? Asked where the job is enqueued, not in the worker.

To bind arguments to a signature takes some microseconds. So it is done once for each pattern of calls, the number of
positional arguments and the names of the others, and what fits is remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from inspect import Parameter, signature
from typing import Any, NamedTuple

from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from .compat import AnyTask
from .conf import middleware_paths
from .options import NOT_YET
from .registry import declared_function

POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
#: Patterns that are remembered for a function; one with ``**kwargs`` may be called in any number of ways.
PATTERNS = 250


def fitting(task: AnyTask) -> set[Any]:
    """The patterns of calls that are known to fit the task; ``pattern`` makes one of a call."""
    return _fitting(declared_function(task), task.takes_context, getattr(task, "middleware", ()))


@lru_cache(maxsize=4096)
def _fitting(func: Callable[..., Any], takes_context: bool, own_middleware: tuple[Any, ...]) -> set[Any]:
    return set()


def pattern(args: Sequence[Any], kwargs: Mapping[str, Any], handed: int = 0) -> Any:
    return (len(args) + handed, *kwargs) if kwargs else len(args) + handed


def check_arguments(task: AnyTask, args: Sequence[Any], kwargs: Mapping[str, Any], handed: int = 0) -> None:
    """Raise ``TypeError``, in Python's words, if the task's function cannot be called with these arguments.

    ``handed`` arguments are put in front of them later. Arguments that middleware provides may be missing. A function
    whose signature Python does not know takes anything.
    """
    known = fitting(task)
    this = pattern(args, kwargs, handed)
    if this in known:
        return
    if (parameters := _parameters(task)) is not None:
        for problem in _problems(parameters, len(args) + handed, kwargs, task):
            raise TypeError(f"{task.module_path}() {problem}")
    if len(known) >= PATTERNS:
        known.clear()
    known.add(this)


def _parameters(task: AnyTask) -> list[Parameter] | None:
    """What the function takes, without the context. None: Python does not know."""
    try:
        parameters = list(signature(declared_function(task)).parameters.values())
    except (TypeError, ValueError):
        return None
    return parameters[1:] if task.takes_context and parameters and parameters[0].kind in POSITIONAL else parameters


class Room(NamedTuple):
    """What a function takes, sorted."""

    positional: list[Parameter]
    names: set[str]
    takes_more: bool
    takes_any_name: bool


def _room(parameters: list[Parameter]) -> Room:
    kinds = {parameter.kind for parameter in parameters}
    return Room(
        [parameter for parameter in parameters if parameter.kind in POSITIONAL],
        {parameter.name for parameter in parameters if parameter.kind in BY_NAME},
        Parameter.VAR_POSITIONAL in kinds,
        Parameter.VAR_KEYWORD in kinds,
    )


def _problems(parameters: list[Parameter], number: int, kwargs: Mapping[str, Any], task: AnyTask) -> Iterator[str]:
    """What Python would say of a call with so many positional arguments and these names."""
    room = _room(parameters)
    taken = {one.name for one in room.positional[:number]} & room.names
    unknown = [] if room.takes_any_name else [name for name in kwargs if name not in room.names]
    if only := [one.name for one in room.positional if one.name in unknown]:
        yield f"got some positional-only arguments passed as keyword arguments: '{', '.join(only)}'"
    for name in kwargs:
        if name in unknown:
            yield f"got an unexpected keyword argument {name!r}"
        elif name in taken:
            yield f"got multiple values for argument {name!r}"
    if number > len(room.positional) and not room.takes_more:
        yield _too_many(room, number)
    empty = Parameter.empty
    missing = [one.name for one in room.positional[number:] if one.default is empty and not _is_given(one, kwargs)]
    named = [one.name for one in parameters if one.kind is Parameter.KEYWORD_ONLY]
    unnamed = [one.name for one in parameters if one.name in named and one.default is empty and one.name not in kwargs]
    provided = (
        provided_by_middleware(getattr(task, "middleware", ()), {*missing, *unnamed}) if missing or unnamed else set()
    )
    for what, names in (("positional", missing), ("keyword-only", unnamed)):
        if names := [name for name in names if name not in provided]:
            yield f"missing {len(names)} required {what} argument{'s' * (len(names) > 1)}: {_listed(names)}"


def _is_given(parameter: Parameter, kwargs: Mapping[str, Any]) -> bool:
    return parameter.kind is not Parameter.POSITIONAL_ONLY and parameter.name in kwargs


def _too_many(room: Room, number: int) -> str:
    most = len(room.positional)
    least = sum(parameter.default is Parameter.empty for parameter in room.positional)
    takes = str(most) if least == most else f"from {least} to {most}"
    were = "was" if number == 1 else "were"
    return f"takes {takes} positional argument{'s' * (most != 1)} but {number} {were} given"


def _listed(names: Sequence[str]) -> str:
    *others, last = map(repr, names)
    if not others:
        return last
    return f"{', '.join(others)}{',' * (len(others) > 1)} and {last}"


def provided_by_middleware(own_middleware: tuple[Any, ...], missing: set[str]) -> set[str]:
    """Those of the missing arguments that middleware provides, or may provide while it cannot be imported yet."""
    try:
        found = [import_string(one) if isinstance(one, str) else one for one in (*middleware_paths(), *own_middleware)]
    except NOT_YET:
        return missing
    return {name for one in found for name in getattr(one, "provides", ())}


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    """Settings change in tests only."""
    if setting == "JOBQUEUE_MIDDLEWARE":
        _fitting.cache_clear()
