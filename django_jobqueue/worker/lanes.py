"""Lanes: what the claimer knows of the lines: which have jobs, in what order to take from them, and where to begin.

PostgreSQL keeps the index entries of jobs that are gone until a vacuum may remove them, and an old transaction anywhere
holds the vacuum up. Whoever reads a line from its beginning reads all of them, each time. So between two looks a claim
begins where the one before has ended, at the floor; a look is rare enough to take little of the time, however long it
takes. What came back in line below the floor is found by the next look.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence

from django.db import DatabaseError, InterfaceError
from django.db.models import QuerySet

from ..dialects import ANY, Filter, Lane
from ..lifecycle import QueueSelector, in_order, lanes_in_order, notify, peek, promote
from ..lifecycle.claim import narrowed, note_queues
from ..models import Job

logger = logging.getLogger(__name__)

NEVER = float("-inf")

#: Seconds between two looks while there are jobs.
INTERVAL = 0.25
#: A look takes at most one in so many seconds, but one that may find something waits no longer than this for its turn.
SHARE, PATIENCE = 20, 1.0


class Lanes:
    """For the claimer's thread; only ``tell`` is for others."""

    def __init__(self, selector: QueueSelector, using: str) -> None:
        self.selector, self.using = selector, using
        #: Leaves out jobs that this worker shall not claim, if anybody wants that.
        self.narrow: Callable[[QuerySet[Job]], QuerySet[Job]] | None = None
        #: What is to be claimed of the jobs in the lanes.
        self.only: Filter = ANY
        #: Lanes that may have jobs, the best first.
        self.order: list[Lane] = []
        #: Had a job ended, at the last look, and those who wait for it had not been told?
        self.ended = False
        self._floors: dict[Lane, int] = {}
        self._told: set[Lane] = set()
        self._lock = threading.Lock()
        self._stale = True  # is it likely that there is something else than what we know?
        self._fresh = False  # has nothing been claimed since the last look?
        # all by the monotonic clock
        self._looked_at = self._not_before = NEVER
        self._look_at: float | None = None
        self._due_at: float | None = None  # the next scheduled job
        self._put_off = False  # has a look waited for a claim already?
        self._turn = 0
        self._known_queues: set[str] = set()

    # -- what others say -------------------------------------------------------------------------

    def tell(self, lanes: Collection[Lane]) -> None:
        """These lanes got jobs, or, if there are none, some lane or other; callable from any thread."""
        if lanes:
            with self._lock:
                self._told.update(lanes)
        else:
            self._stale = True

    def _listen(self) -> bool:
        with self._lock:
            told, self._told = self._told, set()
        if told.difference(self.order):
            self.order = in_order(self.selector, told.union(self.order), self._turn)
            self._note_queues()
        return bool(told)

    # -- looking ---------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look again, if it is time to. Not when we are told where to claim: then that comes first."""
        if self._listen() and not self._put_off:
            self._stale = self._put_off = True  # once: where jobs come without end, it would be for ever
        elif self.seconds_to_look() <= 0:
            self.look()

    def seconds_to_look(self, pause: Callable[[], float] = lambda: 0.0) -> float:
        """In how many seconds to look again. ``pause`` says how long to wait with a look that nobody asked for."""
        now = time.monotonic()
        if self._stale:
            moment = now
        elif self.order:
            moment = self._looked_at + INTERVAL
        else:
            if self._look_at is None:
                self._look_at = now + pause()
            moment = self._look_at
        if self._due_at is not None:
            moment = min(moment, self._due_at)
        earliest = self._not_before
        if self._stale or not self.order or (self._due_at is not None and self._due_at <= now):
            earliest = min(earliest, self._looked_at + PATIENCE)
        return max(moment, earliest) - now

    def look(self) -> None:
        """Put in line what is due, and find the lanes that have jobs."""
        began = time.monotonic()
        self._stale = False  # now: what is told meanwhile counts for the next look
        in_line, due_in, self.ended = peek(self.using)
        if due_in is not None and due_in <= 0 and (promoted := promote(self.using)):
            in_line, due_in = True, 0.0  # there may be more
            if promoted > 1:
                notify.look(self.using)  # other workers may have looked in the same moment, and gone to sleep
        self._turn += 1
        in_line = in_line and self._narrow()
        self.order = lanes_in_order(self.selector, self.using, self._turn) if in_line else []
        if in_line:
            self._floors.clear()  # what has been left behind is taken along now
            self._note_queues()
        self._looked_at = now = time.monotonic()
        self._due_at = None if due_in is None else now + due_in
        self._look_at, self._fresh, self._put_off = None, True, False
        self._not_before = now + SHARE * (now - began)

    def _narrow(self) -> bool:
        """Ask what to claim; False: nothing, for now."""
        if self.narrow is None:
            return True
        try:
            only = narrowed(self.narrow, self.using)
        except (DatabaseError, InterfaceError):
            raise
        except Exception:
            logger.exception("filter_claim raised; nothing is claimed for a moment.")
            return False
        self.only = ANY if only is None else only
        return only is not None

    def _note_queues(self) -> None:
        if new := {lane.queue_name for lane in self.order} - self._known_queues:
            note_queues(new, self.using)
            self._known_queues |= new

    # -- claiming --------------------------------------------------------------------------------

    @property
    def floors(self) -> list[int]:
        return [self._floors.get(lane, 0) for lane in self.order]

    def learn(self, jobs: Sequence[Job], wanted: int, took: float) -> None:
        """``took``: how many seconds the claim took that brought these jobs."""
        for job in jobs:
            lane = Lane(job.queue_name, job.priority)
            if job.place is not None and job.place > self._floors.get(lane, 0):
                self._floors[lane] = job.place
        if len(jobs) < wanted and not self._fresh:
            self._stale = True
        if self._fresh:
            self._not_before += SHARE * took  # it had no floor
        self._fresh = False
