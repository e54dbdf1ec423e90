"""Lanes: what the claimer knows of the lines: which have jobs, in what order to take from them, and where to begin.

PostgreSQL keeps the index entries of jobs that are gone until a vacuum may remove them, and an old transaction anywhere
holds the vacuum up. Whoever reads a line from its beginning reads all of them, each time. So between two looks a claim
begins where the one before has ended, at the floor; a look is rare enough to take little of the time, however long it
takes. What came back in line below the floor is found by the next look.

Jobs of a paused task stay in line, and no index knows the task. So while one is paused a look reads over them, without
a lock on any, to the first job of each lane that may be claimed: there the next claim begins, and the next look. Only
now and then a look begins at the front again; that takes little of the time too.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

from django.db import DatabaseError, InterfaceError
from django.db.models import QuerySet

from ..dialects import ANY, Filter, Lane
from ..lifecycle import QueueSelector, in_order, lanes_in_order, notify, paused_tasks, peek, promote
from ..lifecycle.claim import first_place, isolated_waiting, narrowed, next_place, note_queues
from ..logs import get_logger
from ..models import Job

logger = get_logger(__name__)

NEVER = float("-inf")

#: Seconds between two looks while there are jobs.
INTERVAL = 0.25
#: Looks take at most one second in so many, but one that may find something waits no longer than this for its turn.
SHARE, PATIENCE = 20, 1.0
#: The quickest of so many looks tells what one takes: another may have been held up, by the machine or by a lock.
TELLING = 2


class Lanes:
    """For the claimer's thread; only ``tell`` is for others."""

    def __init__(self, selector: QueueSelector, using: str) -> None:
        self.selector, self.using = selector, using
        #: Leaves out jobs that this worker shall not claim, if anybody wants that.
        self.narrow: Callable[[QuerySet[Job]], QuerySet[Job]] | None = None
        #: What is to be claimed of the jobs in the lanes.
        self.only: Filter = ANY
        #: The tasks that are paused.
        self.paused: tuple[str, ...] = ()
        #: Lanes that may have jobs, the best first.
        self.order: list[Lane] = []
        #: Had a job ended, at the last look, and those who wait for it had not been told?
        self.ended = False
        #: Did any jobs wait for slots of their keys at the last look?
        self.limited = False
        self._floors: dict[Lane, int] = {}
        self._passed: dict[Lane, int] = {}  # in front of these all was paused
        self._told: set[Lane] = set()
        self._lock = threading.Lock()
        self._stale = True  # is it likely that there is something else than what we know?
        self._fresh = False  # has nothing been claimed since the last look?
        # all by the monotonic clock
        self._looked_at = self._not_before = NEVER
        self._took: deque[float] = deque(maxlen=TELLING)  # seconds, the last looks with the claims that followed
        self._look_at: float | None = None
        self._due_at: float | None = None  # the next scheduled job
        self._put_off = False  # has a look waited for a claim already?
        #: How many looks there were.
        self.turn = 0
        self._known_queues: set[str] = set()
        self._asked_at = NEVER  # what is paused
        self._front_at = NEVER  # from then on a look may begin at the front again, while something is paused

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
            self.order = in_order(self.selector, told.union(self.order), self.turn)
            self._note_queues()
        return bool(told)

    # -- looking ---------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Look again, if it is time to. Not when we are told where to claim: then that comes first."""
        busy = bool(self.order)
        told = self._listen()
        if busy and self._has_changed():
            self.look()
        elif told and not self._put_off:
            self._stale = self._put_off = True  # once: where jobs come without end, it would be for ever
        elif self.seconds_to_look() <= 0:
            self.look()

    def _has_changed(self) -> bool:
        """Is something else paused than at the last look? Looks may be long apart: that is asked between them. Not by
        an idle worker that is told of jobs: it would have been told of a pause too.
        """
        if time.monotonic() - self._asked_at < PATIENCE:
            return False
        self._asked_at = time.monotonic()
        return paused_tasks(self.using) != self.paused

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
        in_line, due_in, paused, self.ended, self.limited = peek(self.using)
        changed = self._note_pauses(paused_tasks(self.using) if paused else ())
        if due_in is not None and due_in <= 0 and (promoted := promote(self.using)):
            in_line, due_in = True, 0.0  # there may be more
            if promoted > 1:
                notify.look(self.using)  # other workers may have looked in the same moment, and gone to sleep
        self.turn += 1
        if in_line or changed:  # an idle worker that is told of a lane claims from it without another look
            in_line = self._narrow() and in_line
        self.order = lanes_in_order(self.selector, self.using, self.turn) if in_line else []
        if in_line:
            self._floors.clear()  # what has been left behind is taken along now
            self._note_queues()
            if self.paused:
                self._pass_over_paused()
        self._looked_at = now = time.monotonic()
        self._due_at = None if due_in is None else now + due_in
        self._look_at, self._fresh, self._put_off = None, True, False
        self._took.append(now - began)
        self._take_turns()

    def _take_turns(self) -> None:
        self._not_before = self._looked_at + SHARE * min(self._took)

    def look_from_the_front(self) -> None:
        """Poll every lane from its start, skipping only what is paused."""
        self._front_at = NEVER
        self.look()

    def _pass_over_paused(self) -> None:
        """Begin at the first job of each lane that may be claimed, and leave out the lanes that have none."""
        began = time.monotonic()
        if from_front := began >= self._front_at:
            self._passed.clear()
        end = next_place(self.using)  # what comes in line now is behind it
        lanes, self.order = self.order, []
        for lane in lanes:
            first = first_place(lane, self._passed.get(lane, 0), self.paused, self.using)
            self._passed[lane] = end if first is None else first
            if first is not None or isolated_waiting([lane], self.using):
                self.order.append(lane)
        self._floors.update(self._passed)
        if from_front:
            now = time.monotonic()
            self._front_at = now + SHARE * (now - began)

    @property
    def is_narrowed(self) -> bool:
        """May there be jobs in line that are not to be claimed?"""
        return self.narrow is not None or bool(self.paused)

    def _note_pauses(self, paused: tuple[str, ...]) -> bool:
        """True: they are others than before."""
        if changed := paused != self.paused:
            self._front_at = NEVER
        self.paused, self._asked_at = paused, time.monotonic()
        return changed

    def _narrow(self) -> bool:
        """Ask what to claim; False: nothing, for now."""
        if not self.is_narrowed:
            self.only = ANY
            return True
        try:
            only = narrowed(self._wanted, self.using)
        except (DatabaseError, InterfaceError):
            raise
        except Exception:
            logger.exception("filter_claim raised; nothing is claimed for a moment.")
            return False
        self.only = ANY if only is None else only
        return only is not None

    def _wanted(self, jobs: QuerySet[Job]) -> QuerySet[Job]:
        jobs = Job.objects.using(self.using).of_other_tasks(self.paused) if self.paused else jobs
        return jobs if self.narrow is None else self.narrow(jobs)

    def _note_queues(self) -> None:
        if new := {lane.queue_name for lane in self.order} - self._known_queues:
            note_queues(new, self.using)
            self._known_queues |= new

    # -- claiming --------------------------------------------------------------------------------

    @property
    def floors(self) -> list[int]:
        return [self._floors.get(lane, 0) for lane in self.order]

    @property
    def reached(self) -> dict[Lane, int]:
        """The floors by their lanes; for any thread to ask."""
        return self._floors.copy()

    def learn(self, jobs: Sequence[Job], wanted: int, took: float) -> None:
        """``took``: how many seconds the claim took that brought these jobs."""
        for job in jobs:
            lane = Lane(job.queue_name, job.priority)
            if job.place is not None and job.place > self._floors.get(lane, 0):
                self._floors[lane] = job.place
        if len(jobs) < wanted and not self._fresh:
            self._stale = True
        if self._fresh:
            self._took[-1] += took  # it had no floor
            self._take_turns()
        self._fresh = False
