"""Signals: how a process hears them in a thread that may do anything about them.

A handler in Python runs in the midst of whatever the main thread is doing, also while that holds a lock: a handler that
sets an event, or logs, may wait for its own thread for ever. So no handler here does anything. The interpreter itself
writes the number of each signal into a socket, whichever thread the system has given it to, and a thread reads there.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self

#: What asks a process to end; a second one asks it to hurry.
ENDING = (signal.SIGTERM, signal.SIGINT)
_END = 0  # no signal has this number


class SignalPipe:
    """Collects signals while it is entered, in the main thread. Any thread may read them."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self.numbers = frozenset(numbers)
        self._before: dict[int, Any] = {}
        self._formerly = -1

    def __enter__(self) -> Self:
        self._ear, self._mouth = socket.socketpair()
        self._mouth.setblocking(False)
        self._before = {number: signal.signal(number, do_nothing) for number in self.numbers}
        self._formerly = signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        return self

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._formerly)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._ear.close()
        self._mouth.close()

    def fileno(self) -> int:
        """Where a selector sees that there is something to read."""
        return self._ear.fileno()

    def read(self) -> list[int]:
        """Wait for signals; return their numbers, in order. Nothing follows a 0."""
        return [number for number in self._ear.recv(4096) if number in self.numbers or number == _END]

    def end(self) -> None:
        """Let the thread that reads read a 0."""
        self._mouth.setblocking(True)  # it takes all that is there before
        self._mouth.send(bytes([_END]))


def do_nothing(number: int, frame: FrameType | None) -> None:
    pass


def hangup() -> tuple[int, ...]:
    """SIGHUP, where a terminal that is closed would end this process; not under nohup."""
    number = getattr(signal, "SIGHUP", None)
    return () if number is None or signal.getsignal(number) is not signal.SIG_DFL else (number,)
