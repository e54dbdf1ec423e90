"""Departure: how the process of a worker ends within a bounded time, whatever its jobs have left behind.

Python waits at its end for every thread that is no daemon, and for the threads of each ``ThreadPoolExecutor``. A job
may have left one that never ends; what it does is void once the worker has stopped.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from concurrent.futures import thread as executors
from typing import NoReturn

from .copies import flush

logger = logging.getLogger(__name__)

#: Seconds that threads get for their end, once the worker has stopped.
THREADS = 1.0
#: And that functions registered with ``atexit`` get after that: some send what they have collected.
LAST_WORDS = 3.0


def depart(code: int) -> None:
    """Call it in the main thread, right before that ends the process: see to it that the process does end."""
    waited = threading.Event()
    atexit.register(waited.set)  # what was registered last is called first, when no thread is waited for any more
    threading.Thread(target=_watch, args=[code, waited], name="jobqueue-departure", daemon=True).start()


def _watch(code: int, waited: threading.Event) -> None:
    if waited.wait(THREADS):
        waited = threading.Event()  # it never comes: this thread goes with the process, if that ends
        waited.wait(LAST_WORDS)
        flush(1.0)
        os._exit(code)
    names = ", ".join(sorted(thread.name for thread in left_behind()))
    logger.warning("The process ends; it does not wait for threads that jobs have left: %s.", names)
    depart_now(code)


def left_behind() -> list[threading.Thread]:
    """The threads that Python would wait for at its end: those of executors too, which may be daemons."""
    of_executors = getattr(executors, "_threads_queues", {})  # what Python itself goes through; private, to be sure
    return [
        thread
        for thread in threading.enumerate()
        if not is_main(thread) and (not thread.daemon or thread in of_executors)
    ]


def is_main(thread: threading.Thread) -> bool:
    return thread is threading.main_thread()


def depart_now(code: int) -> NoReturn:
    """End the process without waiting for any thread. What is registered with ``atexit`` runs, within bounds."""
    try:
        last = threading.Thread(target=atexit._run_exitfuncs, name="jobqueue-last-words", daemon=True)
        last.start()
        last.join(LAST_WORDS)
        flush(1.0)
    finally:
        os._exit(code)
