"""Settings: every default, and the errors for what cannot be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver
from django.utils.module_loading import import_string

from .backoff import DEFAULT_BACKOFF, Backoff, check_backoff
from .compat import task_backends
from .outcomes import seconds
from .retention import STATUSES, Kept, as_kept

BACKEND_PATH = "django_jobqueue.backend.JobQueueBackend"

#: The layers around every job, first is outermost, for projects that do not set JOBQUEUE_MIDDLEWARE.
DEFAULT_MIDDLEWARE = ("django_jobqueue.middleware.database_connections.DatabaseConnections",)

#: The modules of each app that workers import for their tasks, in projects that do not set JOBQUEUE_TASK_MODULES.
DEFAULT_TASK_MODULES = ("tasks",)

#: A job that was lost this often fails: it is likely what kills its workers.
LOSSES_TO_FAIL = 5
#: From this many losses on, a job runs alone in its worker, so that it cannot take others with it.
LOSSES_TO_ISOLATE = 2

DAY = 86_400.0
#: How long finished jobs are kept where nothing is said.
DEFAULT_RETENTION = 7 * DAY


@dataclass(frozen=True, slots=True)
class Options:
    """``TASKS[alias]["OPTIONS"]``, checked. All times are seconds."""

    #: The alias in DATABASES where the jobs are.
    database: str = "default"
    #: How long a worker is believed without a heartbeat.
    lease: float = 30.0
    #: How many attempts a task gets that does not say; 1 means that nothing is retried.
    max_attempts: int = 1
    #: The pause between attempts, for tasks that do not say.
    backoff: Backoff = DEFAULT_BACKOFF
    #: How long a task may run that does not say; None: as long as it likes.
    timeout: float | None = None
    #: How long finished jobs are kept; None: for ever. Or that by status; what is left out has the default.
    retention: float | Kept | None = DEFAULT_RETENTION
    #: How long a worker keeps the connection of a thread that runs jobs; None: for ever; 0: as DATABASES says.
    conn_max_age: float | None = 60.0
    #: How many threads, with a connection each, the sync calls of all async jobs of a worker share.
    async_threads: int = 8
    #: Called with finished jobs before they are deleted, a dotted path; None: nobody is.
    archive: str | None = None

    @classmethod
    def read(cls, options: Mapping[str, Any]) -> Options:
        """The options as given in TASKS. Raise ``ValueError`` naming the first that cannot be."""
        problems = list(problems_of(options))
        if problems:
            raise ValueError(problems[0])
        values = {name.lower(): value for name, value in options.items()}
        for name in ("lease", "timeout", "retention", "conn_max_age"):
            if isinstance(values.get(name), Mapping):
                values[name] = as_kept(values[name])
            elif values.get(name) is not None:
                values[name] = seconds(values[name])
        return cls(**values)

    @property
    def retentions(self) -> Kept:
        """How long finished jobs are kept that say nothing themselves, by status."""
        if isinstance(self.retention, Mapping):
            return dict.fromkeys(STATUSES, DEFAULT_RETENTION) | dict(self.retention)
        return dict.fromkeys(STATUSES, self.retention)


def problems_of(options: Any) -> Iterable[str]:
    """What is wrong with these OPTIONS, a sentence each: the name, the value, what is expected."""
    if not isinstance(options, Mapping):
        yield f"OPTIONS is {options!r}, but must be a dict."
        return
    known = [field.name.upper() for field in fields(Options)]
    for name in options:
        if name not in known:
            yield f"OPTIONS has no key {name!r}; the keys are {', '.join(known)}."
    if "DATABASE" in options and options["DATABASE"] not in settings.DATABASES:
        aliases = ", ".join(map(repr, settings.DATABASES)) or "empty"
        yield f"OPTIONS['DATABASE'] is {options['DATABASE']!r}, but DATABASES has only {aliases}."
    for name, optional in (("LEASE", False), ("TIMEOUT", True), ("RETENTION", True)):
        value = options.get(name, 1)
        if name == "RETENTION" and isinstance(value, Mapping):
            yield from _problems_of_retention(value)
        elif not (value is None and optional) and not _is_positive(value):
            yield f"OPTIONS[{name!r}] is {value!r}, but must be a positive number of seconds or a timedelta."
    age = options.get("CONN_MAX_AGE", 1)
    if age is not None and (isinstance(age, bool) or not (age == 0 or _is_positive(age))):
        yield (
            f"OPTIONS['CONN_MAX_AGE'] is {age!r}, but must be a number of seconds or a timedelta, None to keep "
            "connections for ever, or 0 to keep them as DATABASES says."
        )
    threads = options.get("ASYNC_THREADS", 1)
    if not is_count(threads):
        yield f"OPTIONS['ASYNC_THREADS'] is {threads!r}, but must be a whole number from 1 to 32767."
    attempts = options.get("MAX_ATTEMPTS", 1)
    if not is_count(attempts):
        yield f"OPTIONS['MAX_ATTEMPTS'] is {attempts!r}, but must be a whole number from 1 to 32767."
    try:
        check_backoff(options.get("BACKOFF", 1))
    except (TypeError, ValueError) as error:
        yield f"OPTIONS['BACKOFF']: {error}."
    archive = options.get("ARCHIVE")
    if archive is not None and not isinstance(archive, str):
        yield f"OPTIONS['ARCHIVE'] is {archive!r}, but must be the dotted path of a function."


def _problems_of_retention(value: Mapping[str, Any]) -> Iterable[str]:
    try:
        as_kept(value)
    except (TypeError, ValueError) as error:
        yield f"OPTIONS['RETENTION'] is {value!r}: it {error}."


def is_count(value: Any) -> bool:
    """Is it a whole number that ``max_attempts`` can be?"""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 32_767


def _is_positive(value: Any) -> bool:
    if isinstance(value, timedelta):
        return value > timedelta(0)
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


@cache
def middleware_paths() -> tuple[str, ...]:
    """``JOBQUEUE_MIDDLEWARE``, or its default."""
    return tuple(getattr(settings, "JOBQUEUE_MIDDLEWARE", DEFAULT_MIDDLEWARE))


@receiver(setting_changed)
def _forget(*, setting: str, **kwargs: Any) -> None:
    """Settings change in tests only, and each enqueue asks. To learn that a setting is not there takes longest."""
    if setting == "JOBQUEUE_MIDDLEWARE":
        middleware_paths.cache_clear()


def task_modules() -> tuple[str, ...]:
    """``JOBQUEUE_TASK_MODULES``: the modules with tasks. Raise ``ImproperlyConfigured`` unless they are names."""
    return _module_names("JOBQUEUE_TASK_MODULES", DEFAULT_TASK_MODULES)


def task_modules_excluded() -> tuple[str, ...]:
    """``JOBQUEUE_TASK_MODULES_EXCLUDE``: those of them that are left alone. Raise ``ImproperlyConfigured`` likewise."""
    return _module_names("JOBQUEUE_TASK_MODULES_EXCLUDE", ())


def _module_names(setting: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = getattr(settings, setting, default)
    if not isinstance(value, list | tuple | set | frozenset):
        raise ImproperlyConfigured(f"{setting} must be a list of names of modules, not {value!r}.")
    for name in value:
        if not (isinstance(name, str) and all(part.isidentifier() for part in name.split("."))):
            raise ImproperlyConfigured(f"{setting} has {name!r}, which is no name of a module.")
    return tuple(value)


def option_defaults() -> Mapping[str, Any]:
    """``JOBQUEUE_DEFAULTS``: values for the options of layers, for tasks that do not say."""
    defaults: Mapping[str, Any] = getattr(settings, "JOBQUEUE_DEFAULTS", {})
    return defaults


def backend_aliases() -> list[str]:
    """The aliases in TASKS whose backend is ours, or a subclass of it."""
    tasks = getattr(settings, "TASKS", None) or {}
    return [alias for alias, entry in tasks.items() if isinstance(entry, Mapping) and _is_ours(entry.get("BACKEND"))]


def _is_ours(path: Any) -> bool:
    """A class says so itself: this module is below the backend. One that does not import is no one's."""
    if not isinstance(path, str):
        return False
    try:
        return bool(getattr(import_string(path), "keeps_jobs_in_database", False))
    except Exception:  # whatever the module raises; who asks for the backend learns of it
        return False


def config_of(alias: str) -> Options:
    """The options of the backend of ours that has this alias. Raise ``ImproperlyConfigured`` for one that cannot be."""
    backend: Any = task_backends[alias]
    config: Options = backend.config
    return config


def databases() -> list[str]:
    """The databases that jobs are kept in, as far as the settings can be read."""
    found = []
    for alias in backend_aliases():
        with suppress(ImproperlyConfigured):  # the backend's own check says so
            found.append(config_of(alias).database)
    return list(dict.fromkeys(found))
