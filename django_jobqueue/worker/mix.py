"""Mix: how many jobs to claim when it shows only afterwards which of them are sync and which async."""

from __future__ import annotations

import time
from collections.abc import Mapping

from .pace import Pace

#: So many jobs are looked through for those of the kind that there is room for.
PROBE = 100
#: Seconds between two such looks.
PROBE_INTERVAL = 1.0


class Mix:
    """``paces`` are those of sync (False) and async (True) jobs."""

    def __init__(self, paces: Mapping[bool, Pace]) -> None:
        self.paces = paces
        #: The part of the jobs claimed of late that was async.
        self.share: float | None = None
        #: Of the next claim, only so many jobs of this kind are to be kept; None: all.
        self.only: tuple[bool, int] | None = None
        self._served_at = dict.fromkeys((False, True), time.monotonic())

    def room(self) -> int:
        """How many jobs to claim: as many of both kinds as there were of late."""
        self.only = None
        sync, coroutine = self.paces[False].room(), self.paces[True].room()
        if self.share is None:
            room = min(sync, coroutine)
        else:
            parts = ((sync, 1 - self.share), (coroutine, self.share))
            room = int(min(room / part for room, part in parts if part > 0))
        return room or self._room_to_probe({False: sync, True: coroutine})

    def _room_to_probe(self, rooms: Mapping[bool, int]) -> int:
        """One kind has no room: see now and then whether jobs of the other stand behind it in line."""
        now = time.monotonic()
        for kind, room in rooms.items():
            if room > 0 and now - self._served_at[kind] > PROBE_INTERVAL:
                self._served_at[kind] = now
                self.only = kind, room
                return PROBE
        return 0

    def keeps(self, kind: bool) -> bool:
        """Is the next job of the claim, which is of this kind, to be kept?"""
        if self.only is not None:
            wanted, room = self.only
            if kind is not wanted or room < 1:
                return False
            self.only = wanted, room - 1
        return True

    def note(self, sync: int, coroutines: int) -> None:
        """So many jobs of each kind have been claimed."""
        for kind, number in ((False, sync), (True, coroutines)):
            if number:
                self._served_at[kind] = time.monotonic()
        if self.only is None and sync + coroutines:
            new = coroutines / (sync + coroutines)
            share = new if self.share is None else (self.share + new) / 2
            self.share = 0.0 if share < 0.01 else 1.0 if share > 0.99 else share
