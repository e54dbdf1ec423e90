"""Task: a function and its defaults. Django's ``Task`` with our options, and our spelling of ``@task``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

from . import foreign
from .backoff import Backoff, check_backoff
from .compat import (
    DEFAULT_TASK_BACKEND_ALIAS,
    DEFAULT_TASK_PRIORITY,
    DEFAULT_TASK_QUEUE_NAME,
    AnyResult,
    AnyTask,
    InvalidTask,
    Task,
    task_backends,
)
from .conf import is_count
from .keys import problems_of
from .options import MISSING, as_data, checked, checked_names
from .outcomes import is_period, seconds
from .registry import DECLARED, declared_function, is_async
from .retention import Keep, as_kept
from .schedules import Entry, check_call

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:
    from django.tasks.base import Task as _Task

    from .results import JobResult

    #: Of other backends too: their results are given the same methods.
    AnyJobResult: TypeAlias = JobResult[..., Any]
else:
    AnyJobResult = AnyResult

    class _Task:
        """Only the stubs' Task takes parameters; at run time ``_Task[P, R]`` is Django's Task itself."""

        def __class_getitem__(cls, parameters: Any) -> type:
            return Task


class Patchable:
    """Has no ``__slots__``, so that a task has a ``__dict__`` for the methods that tests replace."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTask(Patchable, _Task[P, R]):
    """A task with this package's options. What is left at None comes from the backend's OPTIONS."""

    #: How many attempts may fail before the job does.
    max_attempts: int | None = None
    #: Seconds before the next attempt: a number, a timedelta, or ``(exception, task_result) -> seconds | None``.
    backoff: Backoff | None = None
    #: Seconds that one attempt may take.
    timeout: float | None = None
    #: Only these exceptions are retried; empty: all are.
    retry_on: tuple[type[BaseException], ...] = ()
    #: These exceptions are never retried.
    give_up_on: tuple[type[BaseException], ...] = ()
    #: Inner layers for this task alone: classes, dotted paths, or callables ``(context, call_next)``.
    middleware: tuple[Any, ...] = ()
    #: Run, with its outcome, in one transaction of the jobs' database.
    atomic: bool = False
    #: The numbers of jobs that must end before this one starts; for ``using``, not for ``@task``.
    after: tuple[Any, ...] = ()
    #: What becomes of the job if one of those has not succeeded: ``"cancel"``, ``"fail"`` or ``"run"`` it.
    if_failed: str = "cancel"
    #: When workers enqueue it by themselves: what ``cron`` and ``every`` make, one or a list.
    schedule: tuple[Entry, ...] = ()
    #: Only one job at a time has the same key: True for all arguments, a template over them, or a callable of them.
    unique: bool | str | Callable[..., Any] | None = None
    #: How long a job has its key: until it has finished, or started, or for so many seconds from the enqueue.
    unique_until: Literal["finished", "started"] | float = "finished"
    #: What an enqueue does that finds another job there: return it, change it, or follow it.
    on_conflict: Literal["return", "replace", "debounce", "follow"] = "return"
    #: Seconds from the first call after which ``debounce`` moves a job no further.
    max_debounce: float | None = None
    #: How long its finished jobs are kept: seconds, a timedelta, None for ever; or that by status. Empty: as all are.
    keep: Keep = field(default_factory=dict, hash=False)
    #: What was declared for options that layers add; they are written beside the others, ``@task(expires=60)``.
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    #: What ``using`` was given for them, for ``timeout`` and for ``keep``: it travels with the job.
    given: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("retry_on", "give_up_on", "middleware", "schedule"):
            # tuples, so that a task given lists can still be hashed
            object.__setattr__(self, name, _as_tuple(getattr(self, name)))
        for name in ("timeout", "unique_until", "max_debounce"):
            if isinstance(value := getattr(self, name), timedelta):
                object.__setattr__(self, name, seconds(value))
        if self.keep != {}:
            object.__setattr__(self, "keep", _kept(self.keep, self))
        if self.options:
            object.__setattr__(self, "options", _checked(self.options, self.middleware, self))
        check_options(self)
        backend = self.get_backend()
        if is_ours(backend):
            backend.validate_task(self)
        else:
            foreign.validate(backend, self)
        note_declared(self)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def using(
        self,
        *,
        priority: int | None = None,
        queue_name: str | None = None,
        run_after: datetime | timedelta | None = None,
        backend: str | None = None,
        max_attempts: int | None = None,
        timeout: float | timedelta | None = None,
        after: Any = None,
        if_failed: str | None = None,
        unique: bool | str | None = None,
        unique_until: Literal["finished", "started"] | float | timedelta | None = None,
        on_conflict: Literal["return", "replace", "debounce", "follow"] | None = None,
        max_debounce: float | timedelta | None = None,
        keep: Keep = MISSING,
        **options: Any,
    ) -> JobTask[P, R]:
        """The same task with other values for what is enqueued next; None leaves a value as it is.

        ``run_after`` is an aware datetime, or a timedelta that counts from the moment of ``enqueue``; ``timeout`` is
        seconds or a timedelta. ``after`` is a result of an earlier enqueue, or several: the job waits until they have
        ended, and ``if_failed`` says what becomes of it if one has not succeeded: ``"cancel"``, ``"fail"`` or ``"run"``
        it. ``unique=False`` is for a call that shall have no unique key. ``keep`` is for how long the finished job is
        kept, by status where that is meant, and None for ever. ``options`` are those that layers add: they travel with
        the job, so they must be data, and None is a value like another. Raise ``TypeError`` for one that no layer
        knows, ``InvalidTask`` for a value that its layer refuses.
        """
        if callable(unique):
            raise InvalidTask(
                f"{self.module_path}: unique can be a callable in @task(…) only; here it is the key itself."
            )
        changes: dict[str, Any] = {
            "priority": priority,
            "queue_name": queue_name,
            "run_after": run_after,
            "backend": backend,
            "max_attempts": max_attempts,
            "timeout": timeout,
            "after": None if after is None else job_numbers(after),
            "if_failed": if_failed,
            "unique": unique,
            "unique_until": unique_until,
            "on_conflict": on_conflict,
            "max_debounce": max_debounce,
        }
        changes = {name: value for name, value in changes.items() if value is not None}
        if "timeout" in changes or keep is not MISSING or options:
            options = _checked(options, self.middleware, self)
            if isinstance(timeout, timedelta):
                changes["timeout"] = seconds(timeout)
            if timeout is not None:
                options["timeout"] = changes["timeout"]
            if keep is not MISSING:
                said = _kept(keep, self)
                changes["keep"] = {**_kept(self.keep, self), **said}
                options["keep"] = {**self.given.get("keep", {}), **said}
            changes["given"] = {**self.given, **as_data(options, f"{self.module_path}: ")}
        return replace(self, func=declared_function(self), **changes)

    if TYPE_CHECKING:
        #: Of an async task it returns a coroutine, and not R.
        func: Callable[..., Any]

        def enqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobResult[P, R]: ...
        async def aenqueue(self, *args: P.args, **kwargs: P.kwargs) -> JobResult[P, R]: ...
        def get_result(self, result_id: str) -> JobResult[P, R]: ...
        async def aget_result(self, result_id: str) -> JobResult[P, R]: ...

    else:

        def enqueue(self, *args, **kwargs):
            """Enqueue one job, in the caller's transaction; its ``TaskResult``."""
            backend = self.get_backend()
            if is_ours(backend):
                return backend.enqueue(self, args, kwargs)
            return foreign.enqueue(backend, self, args, kwargs)

        async def aenqueue(self, *args, **kwargs):
            """``enqueue`` for coroutines."""
            backend = self.get_backend()
            if is_ours(backend):
                return await backend.aenqueue(self, args, kwargs)
            return await foreign.aenqueue(backend, self, args, kwargs)

        # super() does not work in a dataclass with slots: the class is made twice.

        def get_result(self, result_id):
            return foreign.adopt(Task.get_result(self, result_id))

        async def aget_result(self, result_id):
            return foreign.adopt(await Task.aget_result(self, result_id))

        def call(self, *args, **kwargs):
            return Task.call(self, *foreign.with_our_context(self, args), **kwargs)

        async def acall(self, *args, **kwargs):
            return await Task.acall(self, *foreign.with_our_context(self, args), **kwargs)

    def s(self, *args: Any, **kwargs: Any) -> Call:
        """A call that is not enqueued yet: for ``enqueue_many``, ``chain`` and ``group``. Behind others, the task gets
        their result in front of these arguments.
        """
        return Call(self, args, kwargs)

    def si(self, *args: P.args, **kwargs: P.kwargs) -> Call:
        """The same, and the task gets no result of those before it: these arguments are all there is."""
        return Call(self, args, kwargs, takes_result=False)


def is_ours(backend: Any) -> bool:
    """Is it our backend, or a subclass?"""
    return backend.task_class is JobTask or issubclass(backend.task_class, JobTask)


def _checked(options: Mapping[str, Any], own_layers: tuple[Any, ...], task: JobTask[..., Any]) -> dict[str, Any]:
    try:
        return checked(options, own_layers, f"{task.module_path}: ")
    except ValueError as error:
        raise InvalidTask(str(error)) from error


def _kept(keep: Keep, task: JobTask[..., Any]) -> dict[str, float | None]:
    try:
        return as_kept(keep)
    except (TypeError, ValueError) as error:
        raise InvalidTask(f"{task.module_path}: keep {error}.") from error


def taking_any_option(cls: type[JobTask[..., Any]]) -> None:
    """Let the class be made with the options of layers beside its own, as Django's ``@task`` hands them on."""
    init, names = cls.__init__, frozenset(item.name for item in fields(cls))

    def __init__(self: JobTask[..., Any], *args: Any, **values: Any) -> None:  # noqa: N807
        if not names.issuperset(values):
            added = {name: values.pop(name) for name in list(values) if name not in names}
            values["options"] = {**values.get("options", {}), **added}
        init(self, *args, **values)

    cls.__init__ = __init__  # type: ignore[method-assign]


taking_any_option(JobTask)


def allowing_mocks(cls: type[JobTask[..., Any]]) -> None:
    """Let tests replace methods of a task, with ``mock.patch.object(task, "enqueue")`` and its like, and ``func`` by a
    mock. Fields stay frozen for all other purposes.
    """
    names = frozenset(item.name for item in fields(cls))

    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807
        patched = self.__dict__
        if name == "func" and (is_mock(value) or value is patched.get(DECLARED)):
            _replace_func(self, value)
        elif name in names or not hasattr(cls, name):
            raise FrozenInstanceError(f"cannot assign to field {name!r}")
        elif getattr(value, "__self__", None) is self and value == getattr(cls, name).__get__(self):
            patched.pop(name, None)  # the method itself comes back
        else:
            patched[name] = value

    def __delattr__(self: Any, name: str) -> None:  # noqa: N807
        patched = self.__dict__
        if name == "func" and DECLARED in patched:
            _replace_func(self, patched[DECLARED])
        elif name in names or name not in patched:
            raise FrozenInstanceError(f"cannot delete field {name!r}")
        else:
            del patched[name]

    cls.__setattr__ = __setattr__  # type: ignore[method-assign]
    cls.__delattr__ = __delattr__  # type: ignore[method-assign]


def is_mock(value: Any) -> bool:
    """Has ``unittest.mock`` made it? Its ``autospec`` makes functions, which have the mock as an attribute."""
    if (module := sys.modules.get("unittest.mock")) is None:
        return False
    kind = module.NonCallableMock
    return isinstance(value, kind) or isinstance(getattr(value, "mock", None), kind)


def _replace_func(task: Any, func: Any) -> None:
    patched = task.__dict__
    real = patched.setdefault(DECLARED, task.func)
    if func is real:
        del patched[DECLARED]
    else:  # workers find the task by these names
        for name in ("__module__", "__name__", "__qualname__"):
            setattr(func, name, getattr(real, name))
    object.__setattr__(task, "func", func)


allowing_mocks(JobTask)

#: Tasks as they were declared, by their functions, for those who want to see each one.
declared: dict[Callable[..., Any], AnyTask] = {}
#: Called with each task that is declared from now on.
observers: list[Callable[[AnyTask], None]] = []


def note_declared(task: JobTask[..., Any]) -> None:
    """Copies that ``using`` makes have the function of a task that is known."""
    if task.func not in declared:
        declared[task.func] = task
        for observer in observers:
            observer(task)


@dataclass(frozen=True, slots=True, init=False)
class Call:
    """A task with its arguments, not yet enqueued."""

    task: AnyTask
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: Behind others: does it get their result?
    takes_result: bool = True

    def __init__(self, task: AnyTask, args: tuple[Any, ...], kwargs: dict[str, Any], takes_result: bool = True) -> None:
        # a bulk makes thousands of them, and what a frozen dataclass generates takes twice as long
        _set_task(self, task)
        _set_args(self, args)
        _set_kwargs(self, kwargs)
        _set_takes_result(self, takes_result)


_set_task, _set_args, _set_kwargs, _set_takes_result = (getattr(Call, item.name).__set__ for item in fields(Call))


@dataclass(frozen=True, slots=True)
class Step:
    """One call of a composition, and what it waits for."""

    call: Call
    #: The places of the steps that must end before this one, all smaller than its own.
    after: tuple[int, ...] = ()
    rule: str = "cancel"
    #: Does it get the results of those before it, and as a list?
    takes_result: bool = False
    listed: bool = False
    #: Those of ``after`` whose results it does not get.
    silent: frozenset[int] = frozenset()


#: What may become of a job that waits for one that has not succeeded.
IF_FAILED = ("cancel", "fail", "run")


def job_numbers(after: Any) -> tuple[Any, ...]:
    """The numbers of these jobs: a result, a job or a number, or several of them. Results of foreign backends, which
    give no numbers, stay as they are. Raise ``TypeError`` for others, and ``ValueError`` for a result of what was not
    enqueued.
    """
    several = isinstance(after, Iterable) and not isinstance(after, str)
    return tuple(dict.fromkeys(_job_number(one) for one in (after if several else [after])))


def _job_number(one: Any) -> Any:
    if isinstance(one, foreign.ForeignResult):
        return one
    number = getattr(one, "id", one)
    if number in ("", None):
        raise ValueError(f"after: {one!r} was not enqueued, so nothing can wait for it.")
    if isinstance(number, bool) or not (isinstance(number, int) or (isinstance(number, str) and number.isdecimal())):
        raise TypeError(f"after takes results, jobs or their numbers, not {one!r}.")
    return int(number)


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if not value:
        return ()
    is_one = isinstance(value, type | str) or callable(value) or not isinstance(value, Iterable)
    return (value,) if is_one else tuple(value)


def check_options(task: JobTask[..., Any]) -> None:
    """Raise ``InvalidTask`` for an option value that cannot be; the message names the option and the task."""

    def complain(message: str) -> None:
        raise InvalidTask(f"{task.module_path}: {message}")

    if task.max_attempts is not None and not is_count(task.max_attempts):
        complain(f"max_attempts must be a whole number from 1 to 32767, not {task.max_attempts!r}.")
    if task.timeout is not None and not is_period(task.timeout):
        complain(f"timeout must be a positive number of seconds, not {task.timeout!r}.")
    if task.backoff is not None:
        try:
            check_backoff(task.backoff)
        except (TypeError, ValueError) as error:
            complain(f"{error}.")
    if task.atomic and is_async(task):
        complain("atomic=True is for sync tasks: Django has no transactions in coroutines.")
    if task.if_failed not in IF_FAILED:
        complain(f"if_failed must be one of {IF_FAILED}, not {task.if_failed!r}.")
    for name in ("retry_on", "give_up_on"):
        for item in getattr(task, name):
            if not (isinstance(item, type) and issubclass(item, BaseException)):
                complain(f"{name} must list exception classes, but has {item!r}.")
    for problem in problems_of_schedules(task):
        complain(f"{problem}.")
    for problem in problems_of(task):
        complain(problem)


def problems_of_schedules(task: JobTask[..., Any]) -> Iterable[str]:
    """What is wrong with ``schedule``, a sentence each."""
    for entry in task.schedule:
        if not isinstance(entry, Entry):
            yield f"schedule must be what cron() or every() makes, or a list of that, but has {entry!r}"
            continue
        try:
            check_call(
                task.func,
                entry.args,
                entry.kwargs,
                takes_context=task.takes_context,
                own_layers=task.middleware,
            )
        except ValueError as error:
            yield f"schedule={entry.timing.text!r}: {error}"


class Declares(Protocol):
    """What ``@task(…)`` returns. The result of an async function is what its coroutine returns."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> JobTask[P, R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> JobTask[P, R]: ...


class DeclaresWithContext(Protocol):
    """The same for ``takes_context=True``: callers do not see the first parameter."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> JobTask[P, R]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> JobTask[P, R]: ...


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> JobTask[P, R]: ...


@overload
def task(function: Callable[P, R], /) -> JobTask[P, R]: ...


@overload
def task(
    *,
    takes_context: Literal[True],
    priority: int = ...,
    queue_name: str = ...,
    backend: str = ...,
    max_attempts: int | None = ...,
    backoff: Backoff | None = ...,
    timeout: float | timedelta | None = ...,
    retry_on: Iterable[type[BaseException]] = ...,
    give_up_on: Iterable[type[BaseException]] = ...,
    middleware: Iterable[Any] = ...,
    atomic: bool = ...,
    if_failed: str = ...,
    schedule: Entry | Iterable[Entry] = ...,
    unique: bool | str | Callable[..., Any] | None = ...,
    unique_until: Literal["finished", "started"] | float | timedelta = ...,
    on_conflict: Literal["return", "replace", "debounce", "follow"] = ...,
    max_debounce: float | timedelta | None = ...,
    keep: Keep = ...,
    **options: Any,
) -> DeclaresWithContext: ...


@overload
def task(
    *,
    takes_context: Literal[False] = ...,
    priority: int = ...,
    queue_name: str = ...,
    backend: str = ...,
    max_attempts: int | None = ...,
    backoff: Backoff | None = ...,
    timeout: float | timedelta | None = ...,
    retry_on: Iterable[type[BaseException]] = ...,
    give_up_on: Iterable[type[BaseException]] = ...,
    middleware: Iterable[Any] = ...,
    atomic: bool = ...,
    if_failed: str = ...,
    schedule: Entry | Iterable[Entry] = ...,
    unique: bool | str | Callable[..., Any] | None = ...,
    unique_until: Literal["finished", "started"] | float | timedelta = ...,
    on_conflict: Literal["return", "replace", "debounce", "follow"] = ...,
    max_debounce: float | timedelta | None = ...,
    keep: Keep = ...,
    **options: Any,
) -> Declares: ...


def task(
    function: Callable[..., Any] | None = None,
    /,
    *,
    priority: int = DEFAULT_TASK_PRIORITY,
    queue_name: str = DEFAULT_TASK_QUEUE_NAME,
    backend: str = DEFAULT_TASK_BACKEND_ALIAS,
    takes_context: bool = False,
    **options: Any,
) -> Any:
    """Make a function a task: Django's ``@task`` with this package's options, alike on every version of Django.

    Where the backend is a foreign one (Django's Immediate or Dummy in a test's settings, say), the same code runs, and
    the options that only we understand have no effect. Raise ``TypeError`` for an option that does not exist and
    ``InvalidTask`` for a value that cannot be.
    """
    for name, what in (("run_after", "a time to start at"), ("after", "jobs to wait for")):
        if name in options:
            raise TypeError(f"@task has no option {name!r}. Use .using({name}=…) for {what}.")
    added = {name: value for name, value in options.items() if name not in OWN_OPTIONS}
    if added:
        checked_names(added, _as_tuple(options.get("middleware")), f"@task has {', '.join(TASK_OPTIONS)}; ")

    def declare(func: Callable[..., Any]) -> AnyTask:
        cls = task_backends[backend].task_class
        if cls is Task:
            cls = JobTask
        own = options if issubclass(cls, JobTask) else {}  # a package may have a class of its own
        return cls(
            func=func,
            priority=priority,
            queue_name=queue_name,
            backend=backend,
            takes_context=takes_context,
            run_after=None,
            **own,
        )

    return declare(function) if function is not None else declare


_DJANGOS = {item.name for item in fields(Task)}
OWN_OPTIONS = tuple(
    item.name
    for item in fields(JobTask)
    if item.name not in _DJANGOS and item.name not in ("options", "given", "after")
)
TASK_OPTIONS = ("priority", "queue_name", "backend", "takes_context", *OWN_OPTIONS)


def enqueue_many(calls: Iterable[Call]) -> Sequence[AnyJobResult]:
    """Enqueue many calls at once: ``enqueue_many([send.s(1), send.s(2)])``. The results stand in the calls' order.

    Everything is checked before anything is inserted, and the insert is one transaction for each backend named.
    Raise what ``enqueue`` would for the first call that cannot be enqueued.
    """
    calls = list(calls)
    for call in calls:
        if not isinstance(call, Call):
            raise TypeError(f"enqueue_many takes calls such as task.s(1), not {call!r}.")
    aliases = {call.task.backend: None for call in calls}
    if len(aliases) == 1:
        return _enqueue_with(next(iter(aliases)), calls)
    results: dict[int, AnyJobResult] = {}
    for alias in aliases:
        own = [place for place, call in enumerate(calls) if call.task.backend == alias]
        results.update(zip(own, _enqueue_with(alias, [calls[place] for place in own]), strict=True))
    return [results[place] for place in range(len(calls))]


def _enqueue_with(alias: str, calls: Sequence[Call]) -> Sequence[AnyJobResult]:
    backend = cast(Any, task_backends[alias])
    if not is_ours(backend):
        return cast("Sequence[AnyJobResult]", foreign.enqueue_many(backend, calls))
    made: Sequence[AnyJobResult] = backend.enqueue_many(calls)
    return made
