"""Executors: slot threads for sync tasks, one event loop for async ones."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, SimpleQueue
from typing import Any

from asgiref.sync import SyncToAsync

from ..compat import AnyTask
from ..lifecycle import Run
from ..logs import get_logger
from . import copies
from .connections import Keeper
from .execution import Execution, fail
from .shared_threads import Lease, SharedThreads, lease_here

logger = get_logger(__name__)

#: Async jobs that are started one right after the other.
AT_ONCE = 50

Done = Callable[[Run], None]
Work = tuple[Run, AnyTask]


class Threads:
    """``slots`` threads that run sync jobs one after another. What is submitted beyond them waits here."""

    def __init__(
        self,
        slots: int,
        execution: Execution,
        done: Done,
        may_start: Callable[[Run], bool] = lambda run: True,
        lifespan: Callable[[], AbstractContextManager[Any]] = nullcontext,
        fault: Callable[[], None] = lambda: None,
        max_age: float | None = 60.0,
    ) -> None:
        """``lifespan`` is around each thread's life; ``fault`` is called if its beginning raises; ``max_age`` is that
        of the threads' connections, as ``Keeper`` has it.
        """
        self.max_age = max_age
        self.slots, self.execution, self.done, self.may_start = slots, execution, done, may_start
        self.lifespan, self.fault = lifespan, fault
        self.running: dict[int, Run] = {}  # by thread
        self._here: dict[int, Run] = {}  # from the submission until its end has been told
        self._moved = time.monotonic()
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._live, name=f"jobqueue-slot-{number + 1}", daemon=True)
            for number in range(slots)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, run: Run, task: AnyTask) -> None:
        if not self.waiting:
            self._moved = time.monotonic()
        self._here[id(run)] = run
        self._work.put((run, task))

    def stuck_for(self) -> float:
        """For how many seconds jobs have been waiting here without one starting; 0 while a slot is free."""
        if not self.waiting or len(self.running) < self.slots:
            return 0.0
        return time.monotonic() - self._moved

    @property
    def waiting(self) -> int:
        return self._work.qsize()

    @property
    def load(self) -> int:
        """Jobs here that have not ended."""
        return len(self._here)

    def take_back(self) -> list[Run]:
        """The runs that have not started; they will not start here any more."""
        runs: list[Run] = []
        while True:
            try:
                work = self._work.get_nowait()
            except Empty:
                return runs
            if work is not None:
                runs.append(work[0])
                self._here.pop(id(work[0]), None)

    def close(self) -> None:
        """Let each thread end after the job that it runs."""
        for _ in self._threads:
            self._work.put(None)

    def let_go_in_copy(self) -> None:
        """In a process that a job has forked: there is one thread, and no job for it."""
        self._work = SimpleQueue()
        self.close()
        self._here.clear()
        self.running.clear()

    def _live(self) -> None:
        keeper = Keeper(self.max_age)
        try:
            with self.lifespan():
                self._serve(keeper)
        except Exception:
            logger.critical("A thread for jobs cannot begin; the worker stops.", exc_info=True)
            self.fault()
        keeper.close()

    def _serve(self, keeper: Keeper) -> None:
        me = threading.get_ident()
        context = contextvars.copy_context()  # a job starts from here, not from what another one has set
        while (work := self._next(keeper)) is not None:
            run, task = work
            if not self.may_start(run):
                del self._here[id(run)]
                continue
            self.running[me] = run
            self._moved = time.monotonic()
            try:
                keeper.before()
                context.copy().run(self.execution.run, run, task)
            except BaseException as error:
                if copies.is_copy:
                    copies.leave(error)
                fail(run, error)
            finally:
                if copies.is_copy:
                    copies.leave()
                keeper.after(run.job)
                run.ended = run.ended or time.monotonic()
                del self.running[me], self._here[id(run)]
                self.done(run)

    def _next(self, keeper: Keeper) -> Work | None:
        while keeper.kept:
            try:
                return self._work.get(timeout=keeper.expires_in())
            except Empty:
                keeper.close_expired()
        return self._work.get()


class EventLoop:
    """One event loop in a thread of its own, for up to ``slots`` async jobs at once. It starts with its first job."""

    def __init__(
        self,
        slots: int,
        execution: Execution,
        done: Done,
        is_ours: Callable[[Run], bool | None] = lambda run: True,
        threads: int = 8,
        max_age: float | None = 60.0,
    ) -> None:
        """``threads`` are for the sync code of all jobs, ``max_age`` is that of their connections."""
        self.threads = SharedThreads(threads, max_age)
        self.slots, self.execution, self.done, self.is_ours = slots, execution, done, is_ours
        self.running: dict[int, Run] = {}  # by run: the next attempt of a job may come before the last one has left
        self._waiting: deque[Work] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._called = self._filling = self._closing = False
        self._moved = time.monotonic()

    def submit(self, run: Run, task: AnyTask) -> None:
        if self._loop is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=self._serve, args=[loop], name="jobqueue-loop", daemon=True).start()
            self._loop = loop  # now: what cannot be started serves nobody
        with self._lock:
            if not self._waiting:
                self._moved = time.monotonic()
            self._waiting.append((run, task))
            called, self._called = self._called, True
        if not called:  # each call writes to a pipe
            self._loop.call_soon_threadsafe(self._fill)

    @property
    def load(self) -> int:
        return len(self._waiting) + len(self.running)

    def stuck_for(self) -> float:
        """For how many seconds jobs have been waiting here without one starting; 0 while a slot is free."""
        if not self._waiting or len(self.running) < self.slots:
            return 0.0
        return time.monotonic() - self._moved

    def take_back(self) -> list[Run]:
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        return [run for run, _ in waiting]

    def close(self) -> None:
        self._closing = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def let_go_in_copy(self) -> None:
        """In a process that a job has forked: if that was an async job, the loop must not go on with the other ones."""
        self._waiting = deque()
        if self._loop is not None:
            if isinstance(ready := getattr(self._loop, "_ready", None), deque):
                ready.clear()  # a loop that finds nothing there where it has seen something is left at once
            self._loop.stop()

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        self.threads.loop = loop
        SyncToAsync.thread_sensitive_context.set(self.threads.context)
        self._context = contextvars.copy_context()  # a job starts from here, not from what another one has set
        while not self._closing:
            try:
                loop.run_forever()
            except BaseException:
                if copies.is_copy:
                    break
                # A job left something behind that tried to end the process. The other jobs go on.
                logger.exception("The event loop was left by an exception; it goes on.")
        if copies.is_copy:
            copies.leave(RuntimeError("A process that an async job has forked cannot await: the loop is its parent's."))
        # Jobs that were interrupted still hold on to it: they have been written off, and get a moment to let go.
        left = list(self._tasks)  # one may be gone from there before the wait for it has begun
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=1.0))
        loop.close()
        self.threads.close()

    def _fill(self) -> None:
        """Start what waits, while there are slots, but let the running jobs have their turn in between."""
        self._called = False
        if self._filling:  # a job that has ended at once, within this very loop
            return
        self._filling = True
        try:
            for _ in range(AT_ONCE):
                if len(self.running) >= self.slots or not self._start_one():
                    return
            self._called = True
            asyncio.get_running_loop().call_soon(self._fill)
        finally:
            self._filling = False

    def _start_one(self) -> bool:
        """False: there is none, or it is not known whether it is still ours."""
        with self._lock:
            if not self._waiting:
                return False
            ours = self.is_ours(self._waiting[0][0])
            if ours is None:
                asyncio.get_running_loop().call_later(0.05, self._fill)
                return False
            run, task = self._waiting.popleft()
        if ours:
            self._moved = time.monotonic()
            self.running[id(run)] = run
            running = make_task(self._run(run, task), asyncio.get_running_loop(), self._context.copy())
            if not running.done():
                self._tasks.add(running)  # the loop itself keeps only a weak reference
                running.add_done_callback(self._tasks.discard)
        return True

    async def _run(self, run: Run, task: AnyTask) -> None:
        lease = Lease(run.job)
        lease_here.set(lease)
        try:
            await self.execution.arun(run, task)
        except BaseException as error:
            if copies.is_copy:
                copies.leave(error)
            fail(run, error)
        finally:
            if copies.is_copy:
                copies.leave()
            if lease.thread is not None or lease.calls:
                self.threads.end(lease)
            del self.running[id(run)]
            self.done(run)
            if not self._filling:
                self._fill()


def make_task(
    coroutine: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop, context: contextvars.Context
) -> asyncio.Task[None]:
    """A task that begins at once, where Python can: a short job is then through before the loop has heard of it."""
    if sys.version_info >= (3, 12):
        return asyncio.Task(coroutine, loop=loop, eager_start=True, context=context)
    return loop.create_task(coroutine, context=context)
