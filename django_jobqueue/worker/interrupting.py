"""Interrupting: how a running task is stopped from outside, and how nothing but the task is.

An attempt gets one interrupt at most, and only while its chain runs: it is *armed* from just before the chain to just
after it. Whoever wants to interrupt a thread first takes the attempt out of the table of the armed, which only one can
do. If that is the thread itself, at the end of the chain, there will be no interrupt. If it is somebody else, there
will be one, and the thread waits for it before it leaves: it surfaces neither in the outcome nor in the next job.
"""

from __future__ import annotations

import asyncio
import ctypes
import time
from contextlib import suppress
from threading import get_ident
from typing import Any

from asgiref.sync import AsyncToSync
from django.db import connections

from ..exception_groups import meaning_of
from ..exceptions import Control
from ..interrupts import Interrupt, JobCancelled, JobTimeout, WorkerShutdown
from ..lifecycle import Run
from ..logs import get_logger
from ..middleware.chain import Handler
from ..middleware.context import JobContext

logger = get_logger(__name__)

#: Which reason outdoes which: a job that is lost is no longer ours to cancel, a cancelled one is not retried.
RANK = (None, "shutdown", "timeout", "cancel", "lost")
_MISSING: Any = object()


class Target:
    """What an interrupt of one attempt has to hit: a thread, or an asyncio task and its loop."""

    #: The interrupt, once somebody has decided on it, and whether it has been raised.
    kind: type[Interrupt] | None = None
    raised = False
    loop: asyncio.AbstractEventLoop | None = None

    def __init__(self, where: Any) -> None:
        self.where = where
        #: Under a sync task: the asyncio tasks of async layers, in loops of their own.
        self.inner: tuple[asyncio.Task[Any], ...] = ()


#: The attempts that may be interrupted now, by the identity of their job: it is what a layer knows of the run.
_armed: dict[int, Target] = {}


def ask_to_stop(run: Run, reason: str) -> bool:
    """Let the task know, if it asks: ``context.should_stop()``. False: it has been told as much before."""
    if RANK.index(run.stop_reason) >= RANK.index(reason):
        return False
    run.stop_reason = reason
    return True


def interrupt(run: Run, kind: type[Interrupt]) -> bool:
    """Raise ``kind`` in the running task. False: it runs no longer, or not yet, or has been interrupted before."""
    ask_to_stop(run, kind.reason)
    key = id(run.job)
    target = _armed.get(key)
    if target is None:
        return False
    if target.loop is not None:
        return _interrupt_on_loop(target, target.loop, kind)
    if _armed.pop(key, None) is None:  # this decides who has it: see above
        return False
    target.kind = kind
    for task in target.inner:
        _cancel_from_outside(task)
    _set_async_exception(target.where, kind)
    target.raised = True
    return True


# -- sync tasks, in a slot thread -----------------------------------------------------------------


def call(handler: Handler, context: JobContext, run: Run) -> Any:
    """The chain of a sync task. Once this has returned or raised, no interrupt of this attempt is to come."""
    key = id(context.job)
    target = Target(get_ident())
    result: Any = _MISSING
    error: BaseException | None = None
    try:
        try:
            _armed[key] = target
            if run.stop_reason == "cancel":
                raise JobCancelled  # while it waited here for its turn
            result = handler(context)
        except BaseException as raised:
            error = raised
        if _armed.pop(key, None) is None:
            _wait_for(target)
    except BaseException as late:
        # It came when the chain was through; what that came to holds.
        if result is _MISSING and error is None:
            error = late
    if target.kind is not None:
        _clean_up()
    if error is None:
        return result
    try:
        raise _meaning(error, target)
    finally:
        del error  # its traceback holds this frame


def _wait_for(target: Target) -> None:
    """Until the interrupt that somebody has decided on has come, here at the latest."""
    while not target.raised:
        time.sleep(0)
    _set_async_exception(get_ident(), None)


def _set_async_exception(thread: int, kind: type[Interrupt] | None) -> None:
    """None: take back what has been raised there and has not surfaced yet."""
    exception = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)


def _clean_up() -> None:
    """Drop what an interrupt may have left half done in this thread: in the midst of a query, or of asgiref."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:  # others are rolled back with all leftovers
            try:
                connection.close()
            except Exception:
                logger.exception("The connection %r of an interrupted job cannot be closed.", connection.alias)
    if getattr(AsyncToSync.executors, "current", None) is not None:
        AsyncToSync.executors.current = None


# -- async tasks, on the event loop ---------------------------------------------------------------


async def acall(handler: Handler, context: JobContext, run: Run) -> Any:
    """The chain of an async task."""
    key = id(context.job)
    task = asyncio.current_task()
    assert task is not None
    target = Target(task)
    target.loop = task.get_loop()
    _armed[key] = target
    try:
        if run.stop_reason == "cancel":
            raise JobCancelled
        return await handler(context)
    except BaseException as error:
        meant = _meaning(error, target)
        if meant is error:
            raise
        raise meant from meant.__cause__
    finally:
        # In the same step of the loop in which the chain ended: no cancellation comes in between.
        del _armed[key]
        target.where = None


def _interrupt_on_loop(target: Target, loop: asyncio.AbstractEventLoop, kind: type[Interrupt]) -> bool:
    if target.kind is not None:
        return False
    target.kind = kind
    try:
        loop.call_soon_threadsafe(_cancel, target)
    except RuntimeError:  # the loop has been closed
        return False
    return True


def _cancel(target: Target) -> None:
    if target.where is not None:
        target.raised = True
        target.where.cancel()


# -- async layers around a sync task --------------------------------------------------------------


async def watched(context: JobContext, call_next: Any) -> Any:
    """A layer around async layers of a sync task. They run in a loop of their own, while the slot thread waits for
    them where no interrupt reaches it.
    """
    key, task = id(context.job), asyncio.current_task()
    assert task is not None
    target = _armed.get(key)
    if target is not None:
        target.inner = (*target.inner, task)
    if key not in _armed:  # in this order: whoever takes it out of the table looks for us after that
        raise BY_REASON.get(context.should_stop() or "", WorkerShutdown)
    return await call_next()


def _cancel_from_outside(task: asyncio.Task[Any]) -> None:
    with suppress(RuntimeError):  # its loop has ended, and the layer with it
        task.get_loop().call_soon_threadsafe(task.cancel)


BY_REASON: dict[str, type[Interrupt]] = {kind.reason: kind for kind in (JobTimeout, JobCancelled, WorkerShutdown)}


def _meaning(error: BaseException, target: Target) -> BaseException:
    """What an error that comes out of an interrupted chain is: the interrupt, whatever asyncio or the task made of it.

    But a task may well decide how its attempt ends, with a control exception.
    """
    error = meaning_of(error)
    if not target.raised or target.kind is None or isinstance(error, Control | target.kind):
        return error
    meant = target.kind().with_traceback(error.__traceback__)
    if not isinstance(error, Interrupt | asyncio.CancelledError):
        meant.__cause__ = error
    return meant
