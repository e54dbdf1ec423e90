"""Keys: what a template over a call's arguments, or a callable of them, makes of the call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from inspect import Parameter, signature
from string import Formatter
from typing import TYPE_CHECKING, Any, NamedTuple

from django.core.serializers.json import DjangoJSONEncoder

from .options import in_force, of_task
from .outcomes import is_period, storable
from .registry import declared_function

if TYPE_CHECKING:
    from .compat import AnyTask
    from .models import Job
    from .task import JobTask

#: A key that is longer is cut, and made unique by a hash.
KEY_LENGTH = 200

#: Options of layers that make keys.
LIMIT_KEYS = ("concurrency_key", "rate_key")
UNTIL = ("finished", "started")
ON_CONFLICT = ("return", "replace", "debounce", "follow")

_signature = lru_cache(maxsize=4096)(signature)  # asked for each job that has a key


# -- of any kind ----------------------------------------------------------------------------------


def filled(template: str, option: str, task: AnyTask, job: Job) -> str:
    """The template with the call's arguments, by name or number. Raise ``ValueError`` if it does not fit the call."""
    try:
        return template.format(*job.args, **{**(_arguments(task, job) or {}), **job.kwargs})
    except (LookupError, AttributeError, ValueError, TypeError) as error:
        problem = f"{type(error).__name__} {error}"
        raise ValueError(f"The {option} {template!r} does not fit the call {job.call}: {problem}.") from error


def shortened(text: str) -> str:
    if len(text) <= KEY_LENGTH:
        return text
    return f"{text[: KEY_LENGTH - 41]}~{_digest(text)}"


def key_text(made: Any, option: str, task: AnyTask, job: Job) -> str | None:
    """The key that a template or a callable has made of the call, as text; None for a callable's None: no key.

    What is no text is written as JSON. Raise ``TypeError`` for what cannot be, and ``ValueError`` for a blank text.
    """
    if made is None:
        return None
    if not isinstance(made, str):
        try:
            made = json.dumps(made, sort_keys=True, ensure_ascii=False, cls=DjangoJSONEncoder)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{option} of {task.module_path} made no data of {job.call}: {error}.") from error
        if made[:1] == '"':  # an id, a date, a decimal number
            made = json.loads(made)
    if not made.strip():
        raise ValueError(
            f"{option} of {task.module_path} made a blank key of {job.call}. For a call without a key let a callable "
            "return None."
        )
    return shortened(storable(made))


def clean_key(value: Any) -> Any:
    """Raise ``TypeError`` or ``ValueError`` for what cannot make a key."""
    if isinstance(value, str) and value.strip():
        list(Formatter().parse(value))
    elif value is not None and not callable(value):
        raise TypeError("it must be a template such as 'tenant-{tenant_id}', or a callable that gets the arguments")
    return value


def _arguments(task: AnyTask, job: Job) -> dict[str, Any] | None:
    """The call's arguments by the names of the parameters, defaults too; None for a call that the function refuses."""
    args = [None, *job.args] if task.takes_context else job.args
    try:
        bound = _signature(declared_function(task)).bind_partial(*args, **job.kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    found = dict(bound.arguments)
    if task.takes_context and found:
        del found[next(iter(found))]
    return found


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=20).hexdigest()


# -- keys of limits -------------------------------------------------------------------------------


class Slots(NamedTuple):
    """What is said of the jobs of a concurrency key: the options of the layer ``Concurrency``."""

    #: How many may run at the same time; None: any number.
    concurrency: int | None = None
    #: In the order of their enqueue, one after another.
    in_order: bool = False
    #: Does a job that gets a slot go to the end of the line, so that the keys take turns?
    fair: bool = False

    @property
    def most(self) -> int | None:
        return 1 if self.in_order else self.concurrency

    def but(self, given: Any) -> Slots:
        """With what a job says for itself; options that are no object say nothing."""
        if not given or not isinstance(given, Mapping):
            return self
        return self._replace(**{name: given[name] for name in self._fields if name in given})


def slots_of(task: AnyTask, job: Job | None = None) -> Slots:
    """What the task says of its concurrency key, or the job for itself."""
    given = getattr(task, "given", {}) if job is None else job.options  # with .using(…)
    return Slots(*(of_task(task, name) for name in Slots._fields)).but(given)


def limit_key(task: AnyTask, job: Job, option: str) -> str | None:
    """The key that the option makes of the call; without one, the task's path. None if the task's callable wants none
    for it.

    Raise ``ValueError`` for a template that does not fit the call or makes a blank key, and ``TypeError`` for a
    callable's answer that is no data.
    """
    made = in_force(job, task, option)
    if made is None:
        made = job.task_path
    elif callable(made):
        made = made(*job.args, **job.kwargs)
    else:
        made = filled(made, option, task, job)
    return key_text(made, option, task, job)


def name_of(key: str) -> str:
    """What people call the key of a limit, which stands in the database behind the kind of limit."""
    return key.partition(" ")[2]


# -- unique keys ----------------------------------------------------------------------------------


def unique_text(task: JobTask[..., Any], job: Job) -> str | None:
    """The unique key of the call, as people read it; None if the task's callable wants none for it.

    Raise ``ValueError`` for a template that does not fit the call or makes a blank key, and ``TypeError`` for a
    callable's answer that is no data.
    """
    made: Any = task.unique
    if made is True:
        made = _arguments(task, job)
        made = {"args": job.args, "kwargs": job.kwargs} if made is None else made
        made = _as_json(made)
    elif isinstance(made, str):
        made = filled(made, "unique", task, job)
    else:
        made = made(*job.args, **job.kwargs)
    return key_text(made, "unique", task, job)


def unique_key(task_path: str, text: str) -> str:
    """What stands in the database for this key of this task.

    A hash: the names of many databases are the same in upper and lower case, and a key's must not be.
    """
    return _digest(f"{task_path} {text}")


def _as_json(arguments: dict[str, Any]) -> str:
    """Alike for alike calls. What is no data is a default in the code: its type is enough to tell it by."""
    return json.dumps(arguments, sort_keys=True, ensure_ascii=False, default=lambda value: type(value).__qualname__)


def problems_of(task: JobTask[..., Any]) -> Iterator[str]:
    """What is wrong with the task's options for its unique key, a sentence each."""
    unique, until, conflict = task.unique, task.unique_until, task.on_conflict
    if not (unique is None or isinstance(unique, bool)):
        yield from _problems_of_maker(task)
    if not (until in UNTIL if isinstance(until, str) else is_period(until)):
        yield f"unique_until must be 'finished', 'started' or a positive number of seconds, not {until!r}."
    if conflict not in ON_CONFLICT:
        yield f"on_conflict must be one of {', '.join(map(repr, ON_CONFLICT))}, not {conflict!r}."
    elif conflict == "follow" and until != "finished":
        yield f"on_conflict='follow' is for keys that are held until their job has finished, not {until!r}."
    if task.max_debounce is not None and not is_period(task.max_debounce):
        yield f"max_debounce must be a positive number of seconds, not {task.max_debounce!r}."
    elif task.max_debounce is not None and conflict != "debounce":
        yield f"max_debounce is for on_conflict='debounce', not {conflict!r}."
    if unique is None and (until, conflict) != ("finished", "return"):
        yield "unique_until and on_conflict say what becomes of a unique key: give unique too, if only as False."
    for option in LIMIT_KEYS:
        template = task.options.get(option)
        if isinstance(template, str) and (missing := _not_taken(template, task)):
            yield _says_not_taken(option, template, missing, task)


def _problems_of_maker(task: JobTask[..., Any]) -> Iterator[str]:
    unique: Any = task.unique
    try:
        clean_key(unique)
        missing = _not_taken(unique, task) if isinstance(unique, str) else []
    except (TypeError, ValueError) as error:
        yield f"unique cannot be {unique!r}: {error}, or True for all arguments."
    else:
        if missing:
            yield _says_not_taken("unique", unique, missing, task)


def _says_not_taken(option: str, template: str, missing: list[str], task: AnyTask) -> str:
    return f"{option} {template!r} names {', '.join(missing)}: {task.func.__name__} has no such parameter."


def _not_taken(template: str, task: AnyTask) -> list[str]:
    """The names in the template that no call of the function can have."""
    parameters = list(_signature(declared_function(task)).parameters.values())[bool(task.takes_context) :]
    kinds = {parameter.kind for parameter in parameters}
    in_order = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    number = sum(parameter.kind in in_order for parameter in parameters)
    known = {parameter.name for parameter in parameters}
    fields = [field for _, field, _, _ in Formatter().parse(template) if field]
    names = [field.replace("[", ".").partition(".")[0] for field in fields]
    return [
        name
        for name in names
        if name
        and (
            int(name) >= number and Parameter.VAR_POSITIONAL not in kinds
            if name.isdecimal()
            else name not in known and Parameter.VAR_KEYWORD not in kinds
        )
    ]
