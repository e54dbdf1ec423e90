"""Schedules as the code has them: what stands in ``@task(schedule=…)``."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta, tzinfo
from functools import partial
from typing import Any, TypedDict, Unpack

from .arguments import normalise_call
from .compat import InvalidTask
from .signatures import provided_by_middleware
from .timing import DAY, Cron, Every, Timing, default_zone

#: What may become of a tick while the job of the one before is unfinished.
OVERLAPS = ("allow", "skip", "queue", "cancel")
#: So many missed ticks can be made up for at once.
MOST_CAUGHT_UP = 1000
CATCH_UPS = {"none": 0, "last": 1}


@dataclass(frozen=True, slots=True)
class Entry:
    """One schedule of a task: when, with which arguments, and what to do when things do not go as planned."""

    timing: Timing
    args: tuple[Any, ...] = field(default=(), hash=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    #: Seconds; each job is put off by some of them.
    jitter: float = 0.0
    overlap: str = "allow"
    #: How many missed ticks are made up for: the latest.
    catch_up: int = 1
    name: str = ""
    queue_name: str = ""
    priority: int | None = None

    def __str__(self) -> str:
        return self.timing.describe()

    def fingerprint(self, task_path: str) -> str:
        """Tells one definition from another."""
        said = {**asdict(self), "timing": [self.timing.text, self.timing.zone], "task": task_path}
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:40]


class Options(TypedDict, total=False):
    """What ``cron`` and ``every`` take besides the times."""

    #: What the task is called with.
    args: Sequence[Any]
    kwargs: Mapping[str, Any] | None
    #: Each job is put off by up to so many seconds.
    jitter: float | timedelta
    #: What becomes of a tick while the last job is unfinished: ``"allow"`` it, ``"skip"`` it, ``"queue"`` it behind
    #: that job, or ``"cancel"`` that job.
    overlap: str
    #: Which missed ticks are made up for: ``"none"``, the ``"last"``, or the latest N of them.
    catch_up: str | int
    #: Tells it from others; by default it is the task's path, with a number from the second on.
    name: str
    #: Instead of the task's.
    queue_name: str
    priority: int | None


def cron(expression: str, *, tz: str | tzinfo | None = None, **options: Unpack[Options]) -> Entry:
    """A schedule by the clock: ``@task(schedule=cron("30 2 * * *", tz="Europe/Berlin"))``.

    The expression has five fields, or six with seconds in front. ``tz`` is a time zone or its name, ``TIME_ZONE`` if
    left out; the other options are those of ``Options``. Raise ``InvalidTask`` for what cannot be.
    """
    return _entry(f"cron({expression!r})", lambda: Cron(expression, _zone_name(tz)), options)


def every(period: timedelta, **options: Unpack[Options]) -> Entry:
    """A schedule of equal distances, ``@task(schedule=every(timedelta(minutes=5)))``, from the moment on at which a
    worker first sees it. The options are those of ``Options``. Raise ``InvalidTask`` for what cannot be.
    """
    return _entry(f"every({period!r})", lambda: Every(period), options)


def _entry(what: str, timing: Callable[[], Timing], options: Mapping[str, Any]) -> Entry:
    for name in options:
        if name not in CHECKS:
            raise TypeError(f"schedule={what} has no option {name!r}; there are {', '.join(CHECKS)}.")
    try:
        return Entry(timing(), **{name: CHECKS[name](value) for name, value in options.items()})
    except ValueError as error:
        raise InvalidTask(f"schedule={what}: {error}.") from None


def _zone_name(tz: str | tzinfo | None) -> str:
    if tz is None:
        return default_zone()
    return tz if isinstance(tz, str) else str(getattr(tz, "key", tz))


def _checked_args(args: Any) -> tuple[Any, ...]:
    if isinstance(args, str | bytes) or not isinstance(args, Sequence):
        raise ValueError(f"args must be a list of arguments, not {args!r}")
    return tuple(args)


def _checked_kwargs(kwargs: Any) -> dict[str, Any]:
    if kwargs is not None and not (isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs)):
        raise ValueError(f"kwargs must be a dictionary of arguments, not {kwargs!r}")
    return dict(kwargs or {})


def _checked_jitter(jitter: Any) -> float:
    seconds = jitter.total_seconds() if isinstance(jitter, timedelta) else jitter
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= DAY.total_seconds():
        raise ValueError(f"jitter must be from 0 seconds to a day, not {jitter!r}")
    return float(seconds)


def _checked_overlap(overlap: Any) -> str:
    if overlap not in OVERLAPS:
        raise ValueError(f"overlap must be one of {', '.join(OVERLAPS)}, not {overlap!r}")
    return str(overlap)


def _checked_catch_up(catch_up: Any) -> int:
    if isinstance(catch_up, str) and catch_up in CATCH_UPS:
        return CATCH_UPS[catch_up]
    if isinstance(catch_up, bool) or not isinstance(catch_up, int) or not 0 <= catch_up <= MOST_CAUGHT_UP:
        raise ValueError(f"catch_up must be 'none', 'last' or a number up to {MOST_CAUGHT_UP}, not {catch_up!r}")
    return catch_up


def _checked_text(option: str, longest: int, text: Any) -> str:
    if not isinstance(text, str) or len(text) > longest:
        raise ValueError(f"{option} must be a string of up to {longest} characters, not {text!r}")
    return text


def _checked_priority(priority: Any) -> int | None:
    if priority is not None and (isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > 100):
        raise ValueError(f"priority must be a whole number between -100 and 100, not {priority!r}")
    return priority


CHECKS: dict[str, Callable[[Any], Any]] = {
    "args": _checked_args,
    "kwargs": _checked_kwargs,
    "jitter": _checked_jitter,
    "overlap": _checked_overlap,
    "catch_up": _checked_catch_up,
    "name": partial(_checked_text, "name", 200),
    "queue_name": partial(_checked_text, "queue_name", 100),
    "priority": _checked_priority,
}


def check_call(
    func: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    takes_context: bool = False,
    own_layers: tuple[Any, ...] = (),
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments as they will travel. Raise ``ValueError`` if they are not JSON, or not those of the function.

    What a layer hands in need not be given. While a layer cannot be imported nothing is missed; a system check asks
    again.
    """
    try:
        signature = inspect.signature(func)
        bound = signature.bind_partial(*([None] if takes_context else []), *args, **kwargs)
        missing = {
            name
            for name, item in signature.parameters.items()
            if item.default is item.empty and item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)
        } - bound.arguments.keys()
        if missing and (missing := missing - provided_by_middleware(own_layers, missing)):
            raise ValueError(f"the task needs {', '.join(sorted(missing))}: give it with args=[…] or kwargs={{…}}")
        return normalise_call(func, args, kwargs, takes_context=takes_context)
    except (TypeError, ValueError) as error:
        raise ValueError(str(error).rstrip(".")) from None
