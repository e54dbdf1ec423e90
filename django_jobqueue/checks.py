"""System checks: each names the setting, what is wrong with it, and what to write instead."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from inspect import isfunction
from itertools import groupby
from typing import Any

import django
from django.apps import AppConfig, apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from . import conf
from .backend import check_findable
from .compat import BaseTaskBackend, InvalidTask, task_backends
from .conf import BACKEND_PATH, backend_aliases, middleware_paths, option_defaults
from .dialects import get_dialect
from .discovery import HOW_TO_EXCLUDE, discover, overlooked
from .lifecycle.synchronise import definitions
from .middleware.chain import make_layer
from .options import checked
from .task import JobTask, declared, problems_of_schedules

SQLITE_OPTIONS = (
    '"OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20, '
    '"init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}'
)
#: Options of the drivers of which one is enough to notice that a server has fallen silent.
NOTICE_SILENCE = {
    "postgresql": ("tcp_user_timeout", "keepalives_idle"),
    "mysql": ("read_timeout",),
}
NOTICE_SILENCE_HINT = {
    "postgresql": '"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60000',
    "mysql": '"read_timeout": 60, "write_timeout": 60',
}
#: Hosts between which and us there is no firewall.
LOCAL = ("", "localhost", "127.0.0.1", "::1")
SERVERS = {"postgresql": (14, 0), "mysql": (8, 0, 11), "mariadb": (10, 6)}


@register
def check_installation(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    return [
        *_backend(),
        *_backport(),
        *_middleware(),
        *_defaults(),
        *_task_modules(),
        *_tasks(),
        *_schedules(),
        *_time_zones(),
    ]


@register(Tags.database)
def check_databases(
    app_configs: Sequence[AppConfig] | None = None, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """What asks the server: Django runs it with ``migrate`` and ``check --database``."""
    named = [alias for alias in conf.databases() if alias in (databases or ())]
    return [message for alias in named for message in (*_server(alias), *_clock(alias))]


@register
def check_settings_of_databases(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    return [message for alias in conf.databases() for message in (*_sqlite(alias), *_psycopg(alias))]


def _backend() -> Iterator[CheckMessage]:
    if not backend_aliases():
        yield Warning(
            "'django_jobqueue' is installed, but no entry of TASKS uses it: nothing will be enqueued here.",
            hint=f'Set TASKS = {{"default": {{"BACKEND": "{BACKEND_PATH}"}}}}.',
            id="jobqueue.W003",
        )


def _backport() -> Iterator[CheckMessage]:
    """Beside Django's own framework the backport may be imported, as some packages do. Only its tasks are not ours."""
    if django.VERSION >= (6, 0):
        for alias in _aliases_of_the_backport():
            yield Warning(
                f"TASKS[{alias!r}] names a backend of the backport django_tasks, and Django {django.get_version()} has "
                "django.tasks of its own: tasks declared for this alias are not Django's, and no worker runs them.",
                hint="Name the backend of the same name in django.tasks.backends.",
                id="jobqueue.W004",
            )
    elif not apps.is_installed("django_tasks"):
        yield Error(
            "'django_tasks' is not in INSTALLED_APPS; on Django 5.2 the task framework is this backport.",
            hint="Add 'django_tasks' to INSTALLED_APPS, in front of 'django_jobqueue'.",
            id="jobqueue.E005",
        )


def _aliases_of_the_backport() -> Iterator[str]:
    backport: Any = getattr(sys.modules.get("django_tasks.backends.base"), "BaseTaskBackend", None)
    for alias in task_backends if backport is not None else ():
        try:
            kind = type(task_backends[alias])
        except Exception:  # noqa: S112 - Django's own check says so
            continue
        if issubclass(kind, backport) and not issubclass(kind, BaseTaskBackend):
            yield alias


def _middleware() -> Iterator[CheckMessage]:
    value = getattr(settings, "JOBQUEUE_MIDDLEWARE", ())
    if not _is_a_list(value):
        yield Error(
            f"JOBQUEUE_MIDDLEWARE must be a list of dotted paths, not {value!r}.",
            hint="Write JOBQUEUE_MIDDLEWARE = [...].",
            id="jobqueue.E006",
        )
        return
    layers: list[Any] = []
    for path in middleware_paths():
        try:
            layers.append(make_layer(path))
        except ImproperlyConfigured as error:
            yield Error(str(error), hint="Correct the path in JOBQUEUE_MIDDLEWARE.", id="jobqueue.E006")
        except Exception as error:
            yield Error(
                f"The job middleware {path!r} cannot be made: {type(error).__name__}: {error}",
                hint="Raise MiddlewareNotUsed in its __init__ if it does not want to be used.",
                id="jobqueue.E006",
            )
    yield from _requirements(layers)
    for what in ("provides", "options"):
        yield from _claimed_twice(layers, what)


def _is_a_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _requirements(layers: Sequence[Any]) -> Iterator[CheckMessage]:
    before: set[str] = set()
    for layer in layers:
        name = _path_of(layer)
        for path in getattr(layer, "requires", ()):
            if path not in before:
                yield Error(
                    f"The job middleware {name!r} requires {path!r} to stand before it in JOBQUEUE_MIDDLEWARE.",
                    hint=f"Put {path!r} in front of it.",
                    id="jobqueue.E013",
                )
        before.add(name)


def _claimed_twice(layers: Sequence[Any], what: str) -> Iterator[CheckMessage]:
    owners: dict[str, str] = {}
    for layer in layers:
        for name in getattr(layer, what, ()):
            first = owners.setdefault(name, _path_of(layer))
            if first != _path_of(layer):
                yield Error(
                    f"The job middlewares {first!r} and {_path_of(layer)!r} both have {name!r} in their {what}.",
                    hint="Rename one of the two, or leave one of the layers out of JOBQUEUE_MIDDLEWARE.",
                    id="jobqueue.E014",
                )


def _path_of(layer: Any) -> str:
    kind = layer if isfunction(layer) else type(layer)
    return f"{kind.__module__}.{kind.__qualname__}"


def _defaults() -> Iterator[CheckMessage]:
    value = option_defaults()
    hint = 'Write JOBQUEUE_DEFAULTS = {"option": value} with options of the layers in JOBQUEUE_MIDDLEWARE.'
    if not isinstance(value, Mapping):
        yield Error(f"JOBQUEUE_DEFAULTS must be a dictionary, not {value!r}.", hint=hint, id="jobqueue.E015")
        return
    for name, default in value.items():
        try:
            checked({name: default}, where="JOBQUEUE_DEFAULTS: ")
        except (TypeError, ValueError) as error:
            yield Error(str(error), hint=hint, id="jobqueue.E015")


def _task_modules() -> Iterator[CheckMessage]:
    """Modules that workers cannot import, and schedules that they do not see."""
    try:
        conf.task_modules(), conf.task_modules_excluded()
    except ImproperlyConfigured as error:
        yield Error(str(error), hint='Write names such as "tasks" or "shop.jobs".', id="jobqueue.E031")
        return
    if not (apps.is_installed("django_jobqueue") and backend_aliases()):
        return
    found = discover(log=False)  # the messages say it
    for failure in found.failures:
        yield Warning(
            f"{failure}. Workers pass it over: jobs of its tasks wait, and its schedules enqueue nothing.",
            hint=f"Correct it. {HOW_TO_EXCLUDE.format(failure.module)}",
            id="jobqueue.W032",
        )
    for module, paths in groupby(overlooked(found), key=lambda path: path.rpartition(".")[0]):
        yield Warning(
            f"Nothing is enqueued for the schedules of {', '.join(paths)}: workers do not import {module}.",
            hint=f"JOBQUEUE_TASK_MODULES is {list(conf.task_modules())}: add {module!r}, or move the tasks.",
            id="jobqueue.W033",
        )
    for name in found.unused:
        if hasattr(settings, "JOBQUEUE_TASK_MODULES"):
            yield Warning(
                f"JOBQUEUE_TASK_MODULES names {name!r}, and no installed app has a module of that name.",
                hint="Correct it, or leave it out. A module that is in no app is named with its whole path.",
                id="jobqueue.W034",
            )


def _tasks() -> Iterator[CheckMessage]:
    """Tasks that were declared before their layers could be imported: what they say is looked at now."""
    if not _is_a_list(getattr(settings, "JOBQUEUE_MIDDLEWARE", ())):
        return  # E006 says so
    for task in tuple(declared.values()):
        options = getattr(task, "options", {})
        try:
            checked(options, getattr(task, "middleware", ()), f"{task.module_path}: ")
        except (TypeError, ValueError) as error:
            yield Error(
                str(error),
                hint="Take the option out of @task(…), or put its layer into JOBQUEUE_MIDDLEWARE.",
                id="jobqueue.E016",
            )


def _schedules() -> Iterator[CheckMessage]:
    """Schedules that no worker could ever enqueue, as far as the tasks' modules have been imported."""
    if not (apps.is_installed("django_jobqueue") and _is_a_list(getattr(settings, "JOBQUEUE_MIDDLEWARE", ()))):
        return  # others say so
    tasks = [task for task in tuple(declared.values()) if isinstance(task, JobTask) and task.schedule]
    for task in tasks:
        for problem in (*problems_of_schedules(task), *_not_findable(task)):
            yield Error(
                f"{task.module_path} has a schedule that can enqueue nothing: {problem.removesuffix('.')}.",
                hint="Correct @task(schedule=…), or the function.",
                id="jobqueue.E017",
            )
    counted = Counter(definition.name.casefold() for definition in definitions(tasks))  # MariaDB tells no case
    for name in sorted(name for name, number in counted.items() if number > 1):
        yield Error(
            f"There are {counted[name]} schedules named {name!r}; only one of them would be kept.",
            hint="Give each a name of its own: cron(…, name=…).",
            id="jobqueue.E018",
        )


def _not_findable(task: JobTask[..., Any]) -> Iterator[str]:
    try:
        check_findable(task)
    except InvalidTask as error:
        yield str(error)


def _time_zones() -> Iterator[CheckMessage]:
    for alias in conf.databases():
        if get_dialect(alias).name == "postgresql":
            continue
        if not settings.USE_TZ:
            yield Error(
                f"USE_TZ is False, and DATABASES[{alias!r}] compares times with UTC: leases and scheduled jobs would "
                "be off by the difference to local time.",
                hint="Set USE_TZ = True, or keep the jobs in PostgreSQL.",
                id="jobqueue.E010",
            )
        elif connections[alias].settings_dict.get("TIME_ZONE"):
            yield Error(
                f"DATABASES[{alias!r}] has a TIME_ZONE of its own: scheduled jobs would run too early or too late.",
                hint="Leave TIME_ZONE out, or keep the jobs in another database with OPTIONS['DATABASE'].",
                id="jobqueue.E010",
            )


@register(deploy=True)
def check_silent_connections(app_configs: Sequence[AppConfig] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """A worker's own sessions end when nothing is heard of the server; jobs' are the project's."""
    return [message for alias in connections for message in _silence(alias)]


def _silence(alias: str) -> Iterator[CheckMessage]:
    settings_dict = connections[alias].settings_dict
    host, options = settings_dict.get("HOST") or "", settings_dict.get("OPTIONS", {})
    names = NOTICE_SILENCE.get(connections[alias].vendor)
    if names is None or host in LOCAL or host.startswith("/") or "service" in options or any(map(options.get, names)):
        return
    yield Warning(
        f"DATABASES[{alias!r}] leads to another machine, and its OPTIONS do not say how long to wait for one that says "
        "nothing: a job whose connection a firewall has forgotten waits for the operating system, up to hours.",
        hint=f'Set "OPTIONS": {{{NOTICE_SILENCE_HINT[connections[alias].vendor]}}}.',
        id="jobqueue.W040",
    )


def _sqlite(alias: str) -> Iterator[CheckMessage]:
    if get_dialect(alias).name != "sqlite":
        return
    options = connections[alias].settings_dict.get("OPTIONS", {})
    where = f"DATABASES[{alias!r}]['OPTIONS']"
    missing = []
    if str(options.get("transaction_mode") or "").upper() not in ("IMMEDIATE", "EXCLUSIVE"):
        missing.append(
            "no transaction_mode 'IMMEDIATE': an enqueue in atomic() after a read fails while a worker writes"
        )
    if "wal" not in str(options.get("init_command") or "").lower():
        missing.append("no journal_mode WAL: readers and the one writer stop each other")
    if float(options.get("timeout", 5)) < 10:
        missing.append("a timeout under 10 seconds: 'database is locked' comes early under load")
    if missing:
        yield Warning(
            f"{where} has {'; '.join(missing)}.",
            hint=f"Set {SQLITE_OPTIONS}.",
            id="jobqueue.W008",
        )


def _psycopg(alias: str) -> Iterator[CheckMessage]:
    driver: Any = connections[alias]
    if get_dialect(alias).name == "postgresql" and not driver.Database.__version__.startswith("3"):
        yield Error(
            f"DATABASES[{alias!r}] is used through psycopg2; jobs are enqueued and claimed with psycopg 3.",
            hint="pip install 'psycopg[binary]', and uninstall psycopg2: Django prefers version 3 where it finds it.",
            id="jobqueue.E011",
        )


def _server(alias: str) -> Iterator[CheckMessage]:
    connection: Any = connections[alias]
    kind = "mariadb" if getattr(connection, "mysql_is_mariadb", False) else get_dialect(alias).name
    least = SERVERS.get(kind)
    if least is None:
        return
    version = connection.get_database_version()
    if tuple(version) < least:
        yield Error(
            f"DATABASES[{alias!r}] is {kind} {'.'.join(map(str, version))}; jobs need at least "
            f"{'.'.join(map(str, least))}, for SKIP LOCKED.",
            hint="Upgrade the server, or keep the jobs in another database with OPTIONS['DATABASE'].",
            id="jobqueue.E009",
        )


def _clock(alias: str) -> Iterator[CheckMessage]:
    if get_dialect(alias).name != "mysql":
        return
    with connections[alias].cursor() as cursor:
        cursor.execute("SELECT TIMESTAMPDIFF(MINUTE, UTC_TIMESTAMP(), NOW())")
        ((minutes,),) = cursor.fetchall()
    if minutes:
        yield Error(
            f"DATABASES[{alias!r}]: the clock of its sessions is {minutes:+d} minutes off UTC, in which times are "
            "stored: scheduled jobs would run too early or too late.",
            hint="""Set "OPTIONS": {"init_command": "SET time_zone = '+00:00'"} there.""",
            id="jobqueue.E012",
        )
