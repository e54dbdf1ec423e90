"""Discovery: which modules have tasks. All who must know every task of the project ask here, and get the same answer.

A worker imports these modules when it starts, and so do the system checks, the admin's form for schedules and
``manage.py jobqueue``. A module that cannot be imported is named and passed over: it may be meant for another task
queue, and it must not keep the others from running.
"""

from __future__ import annotations

import ast
import logging
import sys
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from types import FunctionType, ModuleType
from typing import Any

from django.apps import AppConfig, apps
from django.utils.module_loading import module_has_submodule

from .compat import Task
from .conf import task_modules, task_modules_excluded
from .task import JobTask, declared

logger = logging.getLogger(__name__)

#: Modules in packages of tasks, and files of apps, that are never looked at: tests, and what runs when it is imported.
PASSED_OVER = ("tests", "conftest", "__main__", "migrations")
HOW_TO_EXCLUDE = "If it is not meant for this job queue, put {!r} into JOBQUEUE_TASK_MODULES_EXCLUDE."
#: How often a file is parsed while other threads are in the way.
TRIES = 5
_parsing = threading.Lock()
#: The modules that were there when the apps were loaded: every process has these.
loaded_with_apps: set[str] = set()


@dataclass(frozen=True, slots=True)
class Failure:
    """A module that could not be imported."""

    module: str
    error: BaseException

    def __str__(self) -> str:
        return f"{self.module} cannot be imported: {type(self.error).__name__}: {self.error}".rstrip(": ").rstrip(".")

    @property
    def file(self) -> str:
        """Where the module is; empty if that cannot be told."""
        try:
            spec = find_spec(self.module)
        except Exception:
            return ""
        return (spec.origin if spec else None) or ""

    @property
    def is_foreign(self) -> bool:
        """Is it in an app that the project has installed, and not of its own?"""
        return not is_projects_own(self.module)


@dataclass(slots=True)
class Discovery:
    """What came of importing the modules with tasks."""

    modules: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    #: Names in the setting that no app has a module of.
    unused: list[str] = field(default_factory=list)


_told: set[str] = set()


def discover(*, log: bool = True) -> Discovery:
    """Import all modules with tasks. A failure is logged, once in a process, and raises nothing.

    Raise ``ImproperlyConfigured`` for a setting that cannot be.
    """
    found = Discovery()
    for name in task_modules():
        modules = [name] if "." in name else _in_apps(name)
        if not modules:
            found.unused.append(name)
        for module in modules:
            _import(module, found)
    for failure in found.failures if log else ():
        _log(failure)
    return found


def _in_apps(name: str) -> list[str]:
    with_it = [config for config in apps.get_app_configs() if module_has_submodule(config.module, name)]
    return [f"{config.name}.{name}" for config in with_it]


def _import(name: str, found: Discovery) -> None:
    if is_excluded(name) or name in found.modules:
        return
    try:
        module = import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may also call sys.exit()
        found.failures.append(Failure(name, error))
        _forget_declared(name)
        return
    found.modules.append(name)
    for inner in iter_modules(getattr(module, "__path__", ()), f"{name}."):
        if not _is_passed_over(inner.name.rpartition(".")[2]):
            _import(inner.name, found)


def is_excluded(module: str) -> bool:
    """Does JOBQUEUE_TASK_MODULES_EXCLUDE name the module, or a package that it is in?"""
    return any(module == name or module.startswith(f"{name}.") for name in task_modules_excluded())


def _is_passed_over(name: str) -> bool:
    return name in PASSED_OVER or name.startswith("test_")


def _forget_declared(module: str) -> None:
    """Of a module that failed halfway the tasks before that can be found by nobody, so nothing may be enqueued."""
    for func in tuple(declared):
        if func.__module__ == module and module not in sys.modules:
            del declared[func]


def _log(failure: Failure) -> None:
    """A fault in the project's own code comes with its traceback; one line says which package is missing."""
    if (text := str(failure)) in _told:
        return
    _told.add(text)
    hint = HOW_TO_EXCLUDE.format(failure.module)
    trace = None if isinstance(failure.error, ModuleNotFoundError) else failure.error
    if failure.is_foreign:
        logger.warning("%s. It is passed over. %s", failure, hint)
    else:
        logger.error("%s. Its tasks are not known here: their jobs wait. %s", failure, hint, exc_info=trace)


# -- schedules that no worker would see -----------------------------------------------------------


def overlooked(found: Discovery) -> list[str]:
    """The paths of tasks with a schedule, in the project's own apps, in modules that no worker imports for itself."""
    known = loaded_with_apps | _reached(found.modules)
    failed = {failure.module for failure in found.failures}
    paths = {
        task.module_path: task.func.__module__
        for task in tuple(declared.values())
        if isinstance(task, JobTask) and task.schedule and is_projects_own(task.func.__module__)
    }
    for config in apps.get_app_configs():
        if config.label != "django_jobqueue" and is_projects_own(config.name):
            paths |= _with_schedules(config, known | failed)
    return sorted(path for path, module in paths.items() if module not in known | failed and not is_excluded(module))


def is_imported(path: str) -> bool:
    """Is the module of this task there, in this process?"""
    return path.rpartition(".")[0] in sys.modules


def is_projects_own(module: str) -> bool:
    """Is it code of the project itself, and of no distribution that is installed?"""
    try:
        spec = find_spec(module) if module not in sys.modules else sys.modules[module].__spec__
    except Exception:  # a package around it raises, and says so elsewhere
        return True
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    return not any({"site-packages", "dist-packages"} & set(Path(place).parts) for place in places)


def _reached(modules: Collection[str]) -> set[str]:
    """These modules, and those of the project's own that they have imported something from."""
    own: dict[str, bool] = {}
    seen: set[str] = set()
    left = list(modules)
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for other in _imported_by(sys.modules.get(name)):
            if other not in own:
                own[other] = is_projects_own(other)
            if own[other]:
                left.append(other)
    return seen


def _imported_by(module: ModuleType | None) -> set[str]:
    """Asks for types only: what is lazy must stay so."""
    found: set[Any] = set()
    for value in tuple(vars(module).values()) if module else ():
        kind = type(value)
        if issubclass(kind, ModuleType):
            found.add(value.__name__)
        elif issubclass(kind, Task):
            found.add(value.func.__module__)
        elif issubclass(kind, type | FunctionType):
            found.add(value.__module__)
    return {name for name in found if isinstance(name, str) and name in sys.modules}


def _with_schedules(config: AppConfig, known: Collection[str]) -> dict[str, str]:
    """Tasks with a schedule in the app's files, and their modules, told from the text: nothing is imported."""
    found: dict[str, str] = {}
    for module, file in files_of(Path(config.path), config.name):
        if module not in known:
            found |= {f"{module}.{name}": module for name in _scheduled_in(file)}
    return found


def files_of(folder: Path, package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _is_passed_over(path.stem):
            continue
        if path.suffix == ".py":
            yield package if path.stem == "__init__" else f"{package}.{path.stem}", path
        elif (path / "__init__.py").exists():
            yield from files_of(path, f"{package}.{path.name}")


def _scheduled_in(file: Path) -> list[str]:
    try:
        stat = file.stat()
        return _scheduled_by_text_of(file, stat.st_mtime_ns, stat.st_size)
    except OSError:
        return []


@lru_cache(maxsize=1000)
def _scheduled_by_text_of(file: Path, changed: int, size: int) -> list[str]:
    text = file.read_bytes()
    if b"django_jobqueue" not in text or b"schedule" not in text or (tree := _parse(text)) is None:
        return []
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [node.name for node in functions if any(map(_has_schedule, node.decorator_list))]


def _parse(text: bytes) -> ast.Module | None:
    """No text keeps a worker from its start: without a tree there is just no hint. Deep code makes Python's parser
    raise ``RecursionError`` or ``MemoryError``, and two threads that parse at once ``SystemError`` before Python 3.12.
    """
    for _ in range(TRIES):
        try:
            with _parsing:
                return ast.parse(text)
        except SystemError:  # a thread that is not ours was in the parser too
            continue
        except Exception:
            return None
    return None


def _has_schedule(decorator: ast.expr) -> bool:
    """``@task(schedule=…)``, or ``@jobs.task(schedule=…)``."""
    if not isinstance(decorator, ast.Call) or all(keyword.arg != "schedule" for keyword in decorator.keywords):
        return False
    called = decorator.func
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) == "task"
