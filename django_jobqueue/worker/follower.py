"""Follower: lets jobs come in line that have waited for the ends of others, or for slots of their concurrency keys."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping

from django.db import DatabaseError, InterfaceError

from ..dialects import Lane, get_dialect
from ..lifecycle import admit, follow_up, waiting_keys
from ..logs import get_logger
from .recovery import Recovery

logger = get_logger(__name__)

#: Seconds until the next try when something went wrong.
RETRY = 1.0
#: Looks at all keys take at most one in so many seconds. None waits longer than the second number for its turn, or than
#: the third if the last one has found any.
SHARE, PATIENCE, SOON = 20, 1.0, 0.25
#: With more keys than this it looks at all of them.
MANY = 10_000


class Follower(threading.Thread):
    """A thread and a connection of its own: what waits for ten thousand jobs must not hold up their outcomes."""

    def __init__(
        self,
        using: str,
        ready: Callable[[Collection[Lane]], None],
        floors: Callable[[], Mapping[Lane, int]],
        recovery: Recovery | None = None,
    ) -> None:
        """``ready`` is called with the lanes in which jobs are in line now; with none too: a drain waits for that.
        ``floors`` tells from which places on the claimer looks.
        """
        super().__init__(name="jobqueue-follower", daemon=True)
        self.using, self.ready, self.floors = using, ready, floors
        self.recovery = recovery or Recovery(using)
        self._changed = threading.Condition()
        self._ended = self._all = self._busy = self._stopping = False
        self._freed: set[str] = set()
        self._not_before = 0.0  # by the monotonic clock: the next look at all keys

    def look(self) -> None:
        """There may be an end to tell of. Callable from any thread."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def free(self, keys: Collection[str]) -> None:
        """These keys may have slots again. Callable from any thread."""
        with self._changed:
            self._freed.update(keys)
            if len(self._freed) > MANY:
                self._freed, self._all = set(), True
            self._changed.notify()

    def look_at_keys(self) -> None:
        """Any key may have slots. Callable from any thread."""
        with self._changed:
            self._all = True
            self._changed.notify()

    @property
    def is_at_rest(self) -> bool:
        """Has it done all that it was asked for?"""
        with self._changed:
            return not (self._busy or self._ended or self._all or self._freed)

    def stop(self) -> None:
        """Have a last look, and end."""
        with self._changed:
            self._stopping = self._ended = True
            self._changed.notify()

    def run(self) -> None:
        with get_dialect(self.using).session():
            while (wanted := self._next()) is not None:
                try:
                    self._do(*wanted)
                except (DatabaseError, InterfaceError) as error:
                    logger.error("Jobs that wait cannot be told yet: %s", str(error).strip())
                    get_dialect(self.using).connection.close()
                    self._try_again(*wanted)
                except Exception:
                    logger.exception("The follower stumbled; it goes on.")
                    self._try_again(*wanted)

    def _next(self) -> tuple[bool, bool, set[str]] | None:
        """What to do, once there is anything: tell of ends, look at all keys, look at these. None: end."""
        with self._changed:
            self._busy = False
            while True:
                wait = max(0.0, self._not_before - time.monotonic()) if self._all else None
                if self._ended or self._freed or wait == 0.0:
                    break
                if self._stopping:
                    return None
                self._changed.wait(wait)
            wanted = self._ended, wait == 0.0, self._freed
            self._ended, self._all, self._freed = False, self._all and not wanted[1], set()
            self._busy = True
            return wanted

    def _do(self, ended: bool, everything: bool, freed: set[str]) -> None:
        lanes: set[Lane] = set()
        try:
            if ended:
                lanes |= follow_up(self.using)
            if everything:
                lanes |= self._admit_all()
            elif freed:
                lanes |= admit(freed, self.using, self.floors())
        finally:
            self.ready(lanes)  # what is in line is there, whatever has come after

    def _admit_all(self) -> set[Lane]:
        began = time.monotonic()
        admitted = admit(waiting_keys(self.using), self.using, self.floors())
        now = time.monotonic()
        self._not_before = now + min(SOON if admitted else PATIENCE, SHARE * (now - began))
        return admitted

    def _try_again(self, ended: bool, everything: bool, freed: set[str]) -> None:
        self.recovery.pause(RETRY, lambda: self._stopping)
        with self._changed:
            if not self._stopping:
                self._ended, self._all = self._ended or ended, self._all or everything
                self._freed |= freed
