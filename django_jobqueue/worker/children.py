"""Children: worker processes as their supervisor sees them, and its ends of the pipes to them (see ``link``)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from .link import ENVIRONMENT, LISTENING, RECYCLE, REGISTERED, SIGNED_OFF, STOP, STOP_AT_ONCE

#: A worker that has worked for so many seconds has settled: that it ends says nothing against the next one.
SETTLED = 5.0
#: A worker has this many seconds after it has signed off.
LEAVING = 10.0
#: And may be silent for a lease, but for no less than this.
SHORTEST_SILENCE = 5.0


def command_line() -> list[str]:
    """What started this process, with all that stood before the script."""
    return [sys.executable, *sys.orig_argv[1:]]


class Child:
    """A worker process, and the supervisor's ends of the two pipes to it."""

    def __init__(self, command: Sequence[str]) -> None:
        orders, self._orders = os.pipe()
        self.reports, reports = os.pipe()
        try:
            self.process = subprocess.Popen(  # noqa: S603
                command,
                env={**os.environ, ENVIRONMENT: f"{orders},{reports}"},
                pass_fds=(orders, reports),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C in the terminal is for the supervisor, which passes it on
            )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(orders)
            os.close(reports)
        os.set_blocking(self._orders, False)
        os.set_blocking(self.reports, False)
        #: The number of its worker, once it has registered.
        self.worker_id: int | None = None
        self.settles_at = float("inf")
        self.listening = self.signed_off = False
        #: Has it been killed for not stopping in time?
        self.killed = False
        self._heard = b""
        #: When it was last heard of; the supervisor moves it on for times in which it did not listen itself.
        self.heard_at = time.monotonic()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def code(self) -> int | None:
        """The exit code, or the number of the signal that ended it below zero; None while it runs."""
        return self.process.poll()

    @property
    def ended_well(self) -> bool:
        """It had nothing in hand, and said so."""
        if self.worker_id is None:
            return self.code in (0, -signal.SIGTERM)
        return self.signed_off and self.code in (0, RECYCLE, -signal.SIGTERM)

    def silent_at(self, lease: float) -> float | None:
        """When it has been silent for too long, if nothing more is heard of it. None before it has registered: what
        it imports may take its time.
        """
        if self.worker_id is None or self.killed:
            return None
        return self.heard_at + (LEAVING if self.signed_off else max(lease, SHORTEST_SILENCE))

    @property
    def is_settled(self) -> bool:
        return time.monotonic() >= self.settles_at

    def listen(self) -> bool:
        """Take in what the child has told. False: it tells nothing more."""
        try:
            while data := os.read(self.reports, 4096):
                self.heard_at = time.monotonic()
                *lines, self._heard = (self._heard + data).split(b"\n")
                for line in lines:
                    self._hear(line.decode())
        except BlockingIOError:
            return True
        return False

    def _hear(self, line: str) -> None:
        word, _, number = line.partition(" ")
        if word == LISTENING:
            self.listening = True
        elif word == REGISTERED:
            # Under a new number if it was given up: what the old one held has been given back then.
            self.worker_id, self.signed_off = int(number), False
            self.settles_at = min(self.settles_at, time.monotonic() + SETTLED)
        elif word == SIGNED_OFF:
            self.signed_off = True

    def stop(self, *, at_once: bool = False) -> None:
        """Not by a signal: whoever sends us one may send it to all processes, and a second one would mean haste."""
        with suppress(BrokenPipeError, BlockingIOError):
            os.write(self._orders, STOP_AT_ONCE if at_once else STOP)
        if not self.listening:  # it has no jobs yet, and may never come so far as to listen
            self.process.terminate()

    def kill(self) -> None:
        """With all that its jobs have started."""
        self.killed = True
        with suppress(ProcessLookupError, PermissionError):  # macOS says so of one that has just ended
            os.killpg(self.pid, signal.SIGKILL)

    def bury(self) -> None:
        self.listen()
        self._close()

    def _close(self) -> None:
        os.close(self._orders)
        os.close(self.reports)

    def is_held(self) -> bool:
        """Has somebody stopped it, with SIGSTOP or a debugger? Then it can say nothing, and that is meant."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except OSError:  # not Linux, or it has just ended
            told = subprocess.run(  # noqa: S603
                ["/bin/ps", "-o", "stat=", "-p", str(self.pid)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            state = told.stdout.strip()[:1]
        return state in (b"T", b"t")

    def __str__(self) -> str:
        worker = f", worker #{self.worker_id}" if self.worker_id is not None else ""
        return f"process {self.pid}{worker}"


def how_it_ended(child: Child) -> str:
    code = child.code
    assert code is not None
    if code == RECYCLE:
        return "asked to be replaced"
    if code >= 0:
        return f"ended with exit code {code}" + ("" if code or child.ended_well else " in the middle of its work")
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"
