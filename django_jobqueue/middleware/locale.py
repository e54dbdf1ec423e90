"""Locale: a task speaks the language, and lives in the time zone, of the request that enqueued it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar
from datetime import timedelta
from datetime import timezone as fixed_timezone
from functools import cache, partial
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils import timezone, translation

from ..options import NOT_YET
from ..registry import resolve
from .base import Middleware
from .context import JobContext

if TYPE_CHECKING:
    from ..models import Job


class Locale(Middleware):
    """``language`` and ``time_zone``: what is active around the task.

    Where neither the job nor its task says anything, it is what was active where the job was enqueued.
    """

    options = {"language": None, "time_zone": None}

    @classmethod
    def clean_option(cls, name: str, value: Any) -> Any:
        if value is None:
            return None
        if name == "time_zone":
            return zone(value).key
        if not isinstance(value, str):
            raise TypeError("it must be a language code, such as 'de'")
        with suppress(*NOT_YET):  # which languages there are is known once the apps are
            try:
                translation.get_supported_language_variant(value)
            except LookupError:
                raise ValueError("it must be one of the setting LANGUAGES") from None
        return value

    # -- where it is enqueued --------------------------------------------------------------------

    def process_enqueue(self, jobs: list[Job], call_next: Callable[[list[Job]], list[Job]]) -> list[Job]:
        if here := active():
            for job in jobs:
                declared = getattr(resolve(job.task_path), "options", {})
                new = {name: value for name, value in here.items() if name not in declared}
                if new:
                    job.options = {**new, **(job.options or {})}
        return call_next(jobs)

    # -- where it runs ---------------------------------------------------------------------------

    def process_job(self, context: JobContext, call_next: Callable[..., Any]) -> Any:
        language, time_zone = context.option("language"), context.option("time_zone")
        if language or time_zone or not nothing_is_activated():
            with activated(language, time_zone):
                return call_next()
        try:
            return call_next()
        finally:
            deactivate()

    async def aprocess_job(self, context: JobContext, call_next: Callable[..., Awaitable[Any]]) -> Any:
        language, time_zone = context.option("language"), context.option("time_zone")
        if language or time_zone or not nothing_is_activated():
            with activated(language, time_zone):
                return await call_next()
        try:
            return await call_next()
        finally:
            deactivate()


def active() -> dict[str, str]:
    """What is active here and is not what the settings say."""
    found = {}
    language = translation.get_language()
    if language is not None and language != settings.LANGUAGE_CODE:
        found["language"] = language
    name = timezone.get_current_timezone_name()
    if name != settings.TIME_ZONE:
        with suppress(ValueError):  # a fixed offset has no name that others know
            found["time_zone"] = zone(name).key
    return found


@contextmanager
def activated(language: str | None, time_zone: Any) -> Iterator[None]:
    """Both in force, or the settings': what the task before has activated in this thread does not count."""
    with (
        translation.override(language or settings.LANGUAGE_CODE),
        timezone.override(zone(time_zone) if time_zone else None),
    ):
        yield


# -- is anything activated? -----------------------------------------------------------------------

# Where nothing is, the settings are in force, and nearly all jobs want them. To ask Django takes longer than to run a
# short job, to look at the variables in which it keeps what is activated does not; it does not say which they are.


def nothing_is_activated() -> bool:
    """False also where that is not known."""
    language, time_zone = variables()
    return language is not None and time_zone is not None and language.get(None) is time_zone.get(None) is None


def deactivate() -> None:
    """Undo what the task has activated, where nothing was before."""
    if not nothing_is_activated():
        translation.deactivate()
        timezone.deactivate()


@cache
def variables() -> tuple[ContextVar[Any] | None, ContextVar[Any] | None]:
    """The variables in which Django keeps the language and the time zone that are activated."""
    probe = fixed_timezone(timedelta(minutes=7))
    return (
        variable_of(translation.deactivate_all, lambda: translation.get_language() is None),
        variable_of(partial(timezone.activate, probe), lambda: timezone.get_current_timezone() == probe),
    )


def variable_of(change: Callable[[], None], is_changed: Callable[[], bool]) -> ContextVar[Any] | None:
    """The variable of the context that the change is in; None if it is in none, or in several."""
    context = Context()
    context.run(change)
    found = list(context)
    is_it = len(found) == 1 and context.run(is_changed) and not Context().run(is_changed)
    return found[0] if is_it else None


def zone(name: Any) -> ZoneInfo:
    """Raise ``TypeError`` or ``ValueError`` if there is no such time zone."""
    if not isinstance(name, str):
        raise TypeError("it must be the name of a time zone, such as 'Europe/Berlin'")
    try:
        return ZoneInfo(name)
    except (LookupError, OSError):
        raise ValueError("there is no such time zone") from None
