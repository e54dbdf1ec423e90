"""Shared threads: a few threads, each with its own connections, run what all async jobs do in sync code.

Django's ``await X.objects.aget()`` is sync code that asgiref runs in a thread. A job gets a thread of the few for each
such call, not for its whole life, for most of that it awaits something else. It keeps the thread only while it has
something there that it needs again: an open transaction, a cursor, a setting or a lock of the session. Such threads are
not counted among the few: the others must not have to wait for jobs that may be waiting for them.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import ContextVar
from queue import Empty, SimpleQueue
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext

from . import copies
from .connections import Keeper

Result = tuple["asyncio.Future[Any]", Any, BaseException | None]
Call = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class Lease:
    """What an async job has of the threads."""

    __slots__ = ("calls", "culprit", "has_ended", "is_apart", "is_busy", "thread")

    def __init__(self, culprit: object) -> None:
        self.culprit = culprit
        #: It has a thread for as long as it lives, and none of the few.
        self.is_apart = False
        #: They run one after another, as in one thread.
        self.calls: deque[Call] = deque()
        self.is_busy = False  # is one of them at work, or in line?
        self.has_ended = False
        #: Where it has to go on, or is at work.
        self.thread: Shared | None = None

    async def __aenter__(self) -> Lease:
        return self

    async def __aexit__(self, *error: Any) -> None:
        """The job does not end before its code does, or its next attempt would run beside it. An interrupted job may
        have left a call that nothing can end.
        """
        pause = 0.001
        while self.is_busy:
            await asyncio.sleep(pause)
            pause = min(0.05, pause * 2)


lease_here: ContextVar[Lease | None] = ContextVar("django_jobqueue_lease", default=None)


class Shared:
    """One of the threads."""

    def __init__(self) -> None:
        self.orders: SimpleQueue[Lease | None] = SimpleQueue()
        self.is_counted = False
        self.is_held = False


class SharedThreads(Executor):
    """At most ``bound`` threads for the calls of jobs that hold nothing; they start when they are needed.

    What a job is to have stands in ``lease_here``, and its code runs inside ``context``.
    """

    def __init__(self, bound: int, max_age: float | None) -> None:
        """``max_age`` of their connections, as ``Keeper`` has it."""
        self.bound, self.max_age = bound, max_age
        self.context = ThreadSensitiveContext()
        SyncToAsync.context_to_thread_executor[self.context] = self
        self._lock = threading.Lock()
        self._free: list[Shared] = []  # the one that was used last is used next
        self._counted = self._started = 0
        self._waiting: deque[Lease] = deque()
        self._is_closed = False
        #: What calls have come to, until the loop hears of it: it is woken once for all that is here by then.
        self._results: deque[Result] = deque()
        self._is_told = False
        #: That of the jobs. Sync code may run another loop in its thread, whose calls come here too.
        self.loop: asyncio.AbstractEventLoop | None = None

    # -- for the event loop ----------------------------------------------------------------------

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """A future of the event loop that is running: ``run_in_executor``, which asks, takes such a one as it is. A
        future for threads costs as much again, and a wake of the loop for each call.
        """
        future = asyncio.get_running_loop().create_future()
        if (lease := lease_here.get()) is None:
            lease = Lease("Code outside of any job")
            lease.has_ended = True
        with self._lock:
            lease.calls.append((future, function, args, kwargs))
            if not lease.is_busy:
                lease.is_busy = True
                if lease.thread is None:
                    lease.thread = self._find(lease)
                if lease.thread is not None:
                    lease.thread.orders.put(lease)
        return future

    def end(self, lease: Lease) -> None:
        """The job has ended. If a call of it still runs, the thread comes back when that has ended."""
        with self._lock:
            lease.has_ended = True
            if (thread := lease.thread) is None:
                return
            if lease.is_busy:
                self._uncount(thread)
            else:
                lease.is_busy = True
                thread.orders.put(lease)  # to see to what is left there

    def close(self) -> None:
        """Let each thread end after the call that it runs."""
        with self._lock:
            self._is_closed = True
            free, self._free = self._free, []
        for thread in free:
            thread.orders.put(None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """asgiref's word for the end of one job, as it does without us."""

    def _deliver(self) -> None:
        """In the event loop."""
        self._is_told = False  # first: who comes from now on tells it again
        while self._results:
            resolve(self._results.popleft())

    # -- with the lock ---------------------------------------------------------------------------

    def _find(self, lease: Lease) -> Shared | None:
        """A thread for a job that has none. None: it waits for one."""
        if self._free:
            thread = self._free.pop()
        elif lease.is_apart or self._counted < self.bound:
            thread = self._start()
        else:
            self._waiting.append(lease)
            return None
        if lease.is_apart:
            self._uncount(thread)
        return thread

    def _start(self) -> Shared:
        thread = Shared()
        self._started += 1
        name = f"jobqueue-async-{self._started}"
        threading.Thread(target=self._serve, args=[thread], name=name, daemon=True).start()
        thread.is_counted = True
        self._counted += 1
        return thread

    def _uncount(self, thread: Shared) -> None:
        """A job has the thread for itself from now on: another one may take its place."""
        if not thread.is_counted:
            return
        thread.is_counted = False
        self._counted -= 1
        if self._waiting and self._counted < self.bound:
            lease = self._waiting.popleft()
            lease.thread = self._start()
            lease.thread.orders.put(lease)

    def _take_back(self, thread: Shared) -> Lease | None:
        """The thread is free. Return the next job for it."""
        if self._is_closed or not (thread.is_counted or self._counted < self.bound):
            self._counted -= thread.is_counted
            thread.orders.put(None)
            return None
        self._counted += not thread.is_counted
        thread.is_counted = True
        if self._waiting:
            lease = self._waiting.popleft()
            lease.thread = thread
            return lease
        self._free.append(thread)
        return None

    def _next(self, thread: Shared, lease: Lease) -> Lease | None:
        """The job to go on with after a call of this one; None: wait for an order."""
        with self._lock:
            if lease.calls and (thread.is_held or not self._waiting):
                return lease
            if thread.is_held:
                if lease.has_ended:
                    return lease  # it has no call; what it holds is seen to
                lease.is_busy = False
                self._uncount(thread)
                return None
            if lease.calls:  # others have their turn first
                lease.thread = None
                self._waiting.append(lease)
            else:
                lease.thread, lease.is_busy = None, False
            return self._take_back(thread)

    # -- in a thread -----------------------------------------------------------------------------

    def _serve(self, thread: Shared) -> None:
        keeper = Keeper(self.max_age, with_cursors=True)
        while (lease := self._order(thread, keeper)) is not None:
            while lease is not None:
                lease = self._run(keeper, thread, lease)
        keeper.close()

    def _order(self, thread: Shared, keeper: Keeper) -> Lease | None:
        while True:
            try:
                return thread.orders.get(timeout=None if thread.is_held else keeper.expires_in())
            except Empty:
                keeper.close_expired()

    def _run(self, keeper: Keeper, thread: Shared, lease: Lease) -> Lease | None:
        """One call of the job, if there is one. Return the job to go on with; None: wait for an order."""
        if not lease.calls:
            keeper.after(lease.culprit)
            thread.is_held = False
            return self._next(thread, lease)
        future, function, args, kwargs = lease.calls.popleft()
        if future.cancelled():
            return self._next(thread, lease)
        if not thread.is_held:
            keeper.before()
        # The job may go on, and end, as soon as it has the result: all is in order before that.
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            if copies.is_copy:
                copies.leave(error)
            following = self._settle(keeper, thread, lease)
            self._tell(future, None, error)
            del error, future  # its traceback holds this frame
        else:
            if copies.is_copy:
                copies.leave()
            following = self._settle(keeper, thread, lease)
            self._tell(future, result, None)
        return following

    def _tell(self, future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        loop, result = future.get_loop(), (future, value, error)
        try:
            if loop is not self.loop:
                loop.call_soon_threadsafe(resolve, result)
                return
            self._results.append(result)
            if not self._is_told:
                self._is_told = True
                loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:  # the loop is closed: nobody waits any more
            self._is_told = False

    def _settle(self, keeper: Keeper, thread: Shared, lease: Lease) -> Lease | None:
        thread.is_held = not keeper.is_clean()
        if not thread.is_held:
            keeper.after(lease.culprit)
        return self._next(thread, lease)


def resolve(result: Result) -> None:
    """In the future's loop: it hears what its call has come to."""
    future, value, error = result
    if future.done():  # the job was interrupted
        return
    if error is None:
        future.set_result(value)
    elif isinstance(error, StopIteration):  # which no future takes
        future.set_exception(RuntimeError("The code has raised StopIteration."))
    else:
        future.set_exception(error)
