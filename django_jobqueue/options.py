"""Options that layers add to those of a task: which there are, what their values may be, and whose value counts.

A layer names its options with their defaults, as Dramatiq's middlewares do: ``options = {"expires": None}``. They are
then legal in ``@task(…)``, in ``.using(…)`` and in the setting ``JOBQUEUE_DEFAULTS``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.core.exceptions import AppRegistryNotReady, ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from .compat import AnyTask, Task
from .conf import middleware_paths, option_defaults

if TYPE_CHECKING:
    from .models import Job

#: Stands for "nobody has said anything", which None does not.
MISSING: Any = object()


@lru_cache(maxsize=512)
def owners(entries: tuple[Any, ...]) -> Mapping[str, Any]:
    """The options of these layers, each with the layer that understands it. Raise ``ImportError`` as it comes."""
    found: dict[str, Any] = {}
    for entry in entries:
        layer = import_string(entry) if isinstance(entry, str) else entry
        for name in getattr(layer, "options", {}):
            found.setdefault(name, layer)
    return found


def owner_of(name: str, own_layers: tuple[Any, ...] = ()) -> Any | None:
    """The layer that understands the option, among the project's and a task's own; None if there is none."""
    for entries in (middleware_paths(), own_layers):
        if (layer := owners(entries).get(name)) is not None:
            return layer
    return None


@lru_cache(maxsize=4096)
def default_of(name: str, own_layers: tuple[Any, ...] = ()) -> Any:
    """What counts where neither the job nor its task says anything. ``MISSING``: there is no such option."""
    defaults = option_defaults()
    if name in defaults:
        return defaults[name]
    layer = owner_of(name, own_layers)
    return MISSING if layer is None else layer.options[name]


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    """Settings change in tests only; asking them for each option of each job takes longer than to run a short one."""
    if setting in ("JOBQUEUE_MIDDLEWARE", "JOBQUEUE_DEFAULTS"):
        default_of.cache_clear()


def in_force(job: Job, task: AnyTask, name: str, default: Any = None) -> Any:
    """The value that counts for this job of this task; ``default`` if nobody knows the option."""
    given = job.option(name, MISSING)
    return of_task(task, name, default) if given is MISSING else given


def of_task(task: AnyTask, name: str, default: Any = None) -> Any:
    """The value that counts for jobs of this task that say nothing of the option."""
    declared: Mapping[str, Any] = getattr(task, "options", {})
    if name in declared:
        return declared[name]
    own = getattr(task, name, None)
    if own is not None:
        return own
    found = default_of(name, getattr(task, "middleware", ()))
    return default if found is MISSING else found


#: What may be raised by a layer that cannot be imported yet: tasks are often declared before their layers can be.
NOT_YET = (ImportError, AppRegistryNotReady, ImproperlyConfigured)


def checked(options: Mapping[str, Any], own_layers: tuple[Any, ...] = (), where: str = "") -> dict[str, Any]:
    """The options with their values as the layers want them.

    Raise ``TypeError`` for a name that no layer knows and ``ValueError`` for a value that its layer refuses. While a
    layer cannot be imported nothing is refused; an enqueue asks again.
    """
    checked_names(options, own_layers, where)
    return {name: _checked(name, plain(value), own_layers, where) for name, value in options.items()}


def checked_names(names: Iterable[str], own_layers: tuple[Any, ...] = (), where: str = "") -> None:
    """Raise ``TypeError`` for a name that no layer knows."""
    with suppress(*NOT_YET):
        for name in names:
            if owner_of(name, own_layers) is None:
                raise TypeError(f"{where}there is no option {name!r}. {known_names(own_layers)}")


def _checked(name: str, value: Any, own_layers: tuple[Any, ...], where: str) -> Any:
    try:
        clean = getattr(owner_of(name, own_layers), "clean_option", None)
    except NOT_YET:
        return value
    try:
        return value if clean is None else clean(name, value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}the option {name!r} cannot be {value!r}: {error}") from error


def known_names(own_layers: tuple[Any, ...] = ()) -> str:
    """A sentence for error messages."""
    names = sorted({*owners(middleware_paths()), *owners(own_layers)})
    if names:
        return f"The layers in JOBQUEUE_MIDDLEWARE add {', '.join(names)}."
    return "No layer in JOBQUEUE_MIDDLEWARE adds any."


def plain(value: Any) -> Any:
    """What people write, as data: a task by its path, a timedelta in seconds, a time as ISO text."""
    if isinstance(value, Task):
        return value.module_path
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat()
    return value


def as_data(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options that travel with the job. Raise ``TypeError`` or ``ValueError`` for what JSON cannot hold."""
    for name, value in options.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"{where}the option {name!r} cannot travel with the job: {error}. Give it in @task(…)."
            ) from error
    return dict(options)
