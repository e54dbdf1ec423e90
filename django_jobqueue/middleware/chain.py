"""The chain: all layers in order around a call, composed once for each task and process.

Layers and tasks come in two kinds, sync and async. The chain is built from the inside out; where the kinds of two
neighbours differ, asgiref adapts the inner one, so that no layer is ever left out for its kind.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial, reduce
from inspect import isclass, iscoroutinefunction
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured, MiddlewareNotUsed
from django.utils.module_loading import import_string

from ..conf import middleware_paths
from ..exceptions import MiddlewareError
from ..outcomes import Outcome
from ..task import declared, observers
from .base import Middleware
from .context import JobContext, WorkerHandle

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from ..models import Job

logger = logging.getLogger(__name__)

Handler = Callable[[JobContext], Any]
#: Django's transactions are sync, and so is what has to do with them or with threads.
SYNC_HOOKS = (
    "task_declared process_enqueue filter_claim applies process_prepare completes process_complete outcome_written "
    "job_finished worker_lifespan thread_lifespan"
).split()
Save = Callable[[list["Job"]], list["Job"]]


def make_layer(entry: Any) -> Any | None:
    """The layer for one entry of a middleware list; None if it does not want to be used.

    Raise ``ImproperlyConfigured`` if the path does not import or is no layer.
    """
    layer = entry
    if isinstance(entry, str):
        try:
            layer = import_string(entry)
        except ImportError as error:
            raise ImproperlyConfigured(f"The job middleware {entry!r} does not import: {error}.") from error
    if isclass(layer):
        try:
            layer = layer()
        except MiddlewareNotUsed:
            return None
    elif not callable(layer) and not isinstance(layer, Middleware):
        raise ImproperlyConfigured(f"The job middleware {entry!r} is neither a class nor a callable.")
    for name in SYNC_HOOKS:
        if is_coroutine_callable(hook(layer, name)):
            raise ImproperlyConfigured(f"{name} of the job middleware {entry!r} must not be a coroutine function.")
    return layer


@lru_cache(maxsize=64)
def layers(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    """The layers for these entries, one instance of each for the process."""
    return tuple(layer for layer in map(make_layer, entries) if layer is not None)


def project_layers() -> tuple[Any, ...]:
    return _project(middleware_paths())


@lru_cache(maxsize=64)
def _project(entries: tuple[Any, ...]) -> tuple[Any, ...]:
    """The layers, each told of all tasks: of those that are there already now, of others when they are declared."""
    found = layers(entries)
    for tell in hooks(found, "task_declared"):
        for task in tuple(declared.values()):
            tell(task)
        observers.append(tell)
    return found


#: The project's layers as they were last, and those of them that see jobs before they are saved.
_enqueueing: tuple[tuple[Any, ...], tuple[Any, ...]] = ((), ())


def enqueue_layers() -> tuple[Any, ...]:
    """The project's layers that see jobs before they are saved. Each enqueue asks."""
    global _enqueueing
    found, with_hook = _enqueueing
    if found is not (now := project_layers()):
        with_hook = tuple(layer for layer in now if hook(layer, "process_enqueue"))
        _enqueueing = now, with_hook
    return with_hook


def hook(layer: Any, name: str) -> Callable[..., Any] | None:
    """The layer's own hook of this name, or None if it leaves it out."""
    own = getattr(type(layer), name, None)
    if own is None or own is getattr(Middleware, name):
        return None
    found: Callable[..., Any] = getattr(layer, name)
    return found


# -- around a job ---------------------------------------------------------------------------------

#: What a layer is not asked for a job to which it does not apply.
AROUND = ("process_job", "aprocess_job", "process_prepare", "process_complete", "outcome_written", "job_finished")


def may_not_apply(layer: Any) -> bool:
    """Does the layer say by ``applies`` to which jobs it applies?"""
    return knows(layer, "applies", AROUND)


def knows(layer: Any, method: str, names: Iterable[str]) -> bool:
    """Does the layer's own ``method`` speak for all of these hooks that it has?

    Not if a subclass overrides one of them and inherits the method: that knows nothing of the new hook.
    """
    if hook(layer, method) is None:
        return False
    cls = type(layer)
    order = cls.__mro__.index
    return all(order(_definer(cls, method)) <= order(_definer(cls, name)) for name in names if hook(layer, name))


def _definer(cls: type, name: str) -> type:
    return next(each for each in cls.__mro__ if name in vars(each))


def applies(layer: Any, option: Callable[[str], Any]) -> bool:
    try:
        return bool(layer.applies(option))
    except Exception:
        logger.exception("applies() of %r raised; the layer is taken to apply.", layer)
        return True


class Next:
    """``call_next``, which must be called exactly once."""

    __slots__ = ("call", "context", "used")

    def __init__(self, context: JobContext, call: Handler) -> None:
        self.context, self.call, self.used = context, call, False

    def __call__(self, **injected: Any) -> Any:
        if self.used:
            raise MiddlewareError("A middleware called call_next() twice; the task ran once.")
        self.used = True
        return self.call(self.context.inject(injected) if injected else self.context)


def compose(layers: Sequence[Any], handler: Handler, *, is_async: bool) -> Handler:
    """One callable of the handler's kind that runs the handler inside all layers."""
    call, kind = handler, is_async
    for layer in reversed(layers):
        around = hook_for(layer, want_async=kind)
        if around is None:
            continue
        if is_coroutine_callable(around) != kind:
            call, kind = adapt(call, kind), not kind
        call = link(around, call, kind)
    return call if kind == is_async else adapt(call, kind)


def hook_for(layer: Any, *, want_async: bool) -> Callable[..., Any] | None:
    """The layer's hook around a job: of the wanted kind if it has one, else its other one."""
    names = ("aprocess_job", "process_job") if want_async else ("process_job", "aprocess_job")
    for name in names:
        if found := hook(layer, name):
            return found
    return layer if callable(layer) and not isinstance(layer, Middleware) else None


def adapt(call: Handler, is_async: bool) -> Handler:
    return async_to_sync(call) if is_async else sync_to_async(call, thread_sensitive=True)


def link(around: Callable[..., Any], call: Handler, is_async: bool) -> Handler:
    def layer(context: JobContext) -> Any:
        step = Next(context, call)
        result = around(context, step)
        return result if step.used else unused()

    async def alayer(context: JobContext) -> Any:
        step = Next(context, call)
        result = await around(context, step)
        return result if step.used else unused()

    return alayer if is_async else layer


def unused() -> NoReturn:
    raise MiddlewareError("A middleware returned without call_next(); raise Skip to skip the job.")


def is_coroutine_callable(function: Any) -> bool:
    while isinstance(function, partial):
        function = function.func
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(type(function), "__call__", None))  # noqa: B004


# -- around the transactions of an attempt --------------------------------------------------------


def hooks(layers: Iterable[Any], name: str) -> tuple[Callable[..., Any], ...]:
    """The layers' own hooks of this name, outermost first."""
    return tuple(own for layer in layers if (own := hook(layer, name)))


def prepare_through(hooks: Sequence[Callable[..., Any]], context: JobContext) -> JobContext:
    """Run ``process_prepare`` of all layers; the context with what they inject."""
    innermost: JobContext | None = None

    def end(context: JobContext) -> None:
        nonlocal innermost
        innermost = context

    call: Handler = end
    for around in reversed(hooks):
        call = link(around, call, is_async=False)
    call(context)
    if innermost is None:  # the task would run unprepared, and without what outer layers inject
        raise MiddlewareError("A middleware hid that process_prepare of an inner one raised: the task did not run.")
    return innermost


def complete_through(
    hooks: Sequence[Callable[..., Any]], context: JobContext, outcome: Outcome, write: Callable[[Outcome], Any]
) -> None:
    """``write(outcome)`` inside the ``process_complete`` of all layers."""
    call = write
    for around in reversed(hooks):
        call = _complete_link(around, context, call)
    call(outcome)


def _complete_link(
    around: Callable[..., Any], context: JobContext, call: Callable[[Outcome], Any]
) -> Callable[[Outcome], Any]:
    def layer(outcome: Outcome) -> Any:
        used = False

        def call_next(changed: Outcome | None = None) -> Any:
            nonlocal used
            if used:
                raise MiddlewareError("A middleware called call_next() twice in process_complete.")
            used = True
            return call(outcome if changed is None else changed)

        result = around(context, outcome, call_next)
        if not used:
            raise MiddlewareError("A middleware returned from process_complete without call_next().")
        return result

    return layer


# -- after the commit -----------------------------------------------------------------------------


class Follower(NamedTuple):
    """A layer that is told of outcomes. Each hook is None if it leaves it out."""

    written: Callable[..., Any] | None
    finished: Callable[..., Any] | None
    #: Is it only told of those of which ``written`` says so?
    chooses: bool

    def wants(self, job: Job, outcome: Outcome) -> bool:
        """Tell it that the outcome has been written; is its ``job_finished`` to be called?"""
        wanted = True
        if self.written is not None:
            try:
                wanted = bool(self.written(job, outcome))
            except Exception:
                logger.exception("outcome_written() raised for %s; nothing is changed by that.", job)
        return self.finished is not None and (wanted or not self.chooses)


def followers(layers: Iterable[Any]) -> tuple[Follower, ...]:
    """The layers that are told of outcomes, innermost first."""
    found = [
        Follower(
            hook(layer, "outcome_written"),
            hook(layer, "job_finished"),
            knows(layer, "outcome_written", ("job_finished",)),
        )
        for layer in layers
    ]
    return tuple(each for each in reversed(found) if each.written or each.finished)


# -- around claims --------------------------------------------------------------------------------


def narrowing(layers: Iterable[Any], worker: WorkerHandle) -> Callable[[QuerySet[Job]], QuerySet[Job]] | None:
    """``filter_claim`` of all layers, one after the other; None if there is none."""
    filters = hooks(layers, "filter_claim")
    if not filters:
        return None
    return lambda jobs: reduce(lambda left, narrow: narrow(left, worker), filters, jobs)


# -- around enqueueing ----------------------------------------------------------------------------


def enqueue_through(layers: Iterable[Any], save: Save) -> Save:
    """``save`` inside the ``process_enqueue`` hooks of all layers; ``save`` itself if there are none."""
    for layer in reversed(tuple(layers)):
        if around := hook(layer, "process_enqueue"):
            save = _enqueue_link(around, save)
    return save


def _enqueue_link(around: Callable[..., Any], save: Save) -> Save:
    def layer(jobs: list[Job]) -> list[Job]:
        used = False

        def call_next(jobs: list[Job]) -> list[Job]:
            nonlocal used
            if used:
                raise MiddlewareError("A middleware called call_next() twice in process_enqueue.")
            used = True
            return save(list(jobs))

        return list(around(jobs, call_next) or ())

    return layer
