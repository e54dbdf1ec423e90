"""Claimer: keeps the slots filled."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from django.db import DatabaseError, InterfaceError

from ..compat import AnyTask
from ..dialects import Lane, get_dialect
from ..dialects.schema import problem_of_tables
from ..exceptions import UnknownTask
from ..keys import limit_key, slots_of
from ..lifecycle import QueueSelector, Run, claim, next_due
from ..lifecycle.admit import send_to_keys
from ..lifecycle.claim import held_by, isolated_waiting
from ..lifecycle.pauses import held_back
from ..logs import get_logger
from ..models import Job
from ..registry import is_async, resolve
from .announcer import Announcer
from .completer import Completer, human
from .desk import Desk
from .execution import fail
from .executors import EventLoop, Threads
from .follower import Follower
from .isolation import Isolation
from .lanes import Lanes
from .mix import Mix
from .recovery import Recovery
from .wakeup import Wakeup

logger = get_logger(__name__)

#: A prefetched job is given back when nothing has started for so long.
PATIENCE = 1.0
#: Ended jobs that could not be written yet; beyond that nothing is claimed.
MAX_UNWRITTEN = 2000
#: Seconds between two looks at the jobs that the worker has, while it has any or is in doubt.
BUSY_PAUSE = 0.2
#: A job whose task is not known here is looked at again after its own age, within these bounds.
UNKNOWN_DELAY = (15.0, 900.0)


@dataclass(slots=True)
class Intake:
    """What a worker takes in, and when it has had enough."""

    selector: QueueSelector
    #: Seconds between two looks at an empty queue, at most, while nothing tells the worker of new jobs.
    poll: float = 2.0
    #: Stop when nothing is left that is due within this many seconds; None: never.
    drain: float | None = None
    #: Stop after so many jobs; None: never.
    max_jobs: int | None = None


class Claimer(threading.Thread):
    """One thread, one connection: claims jobs and hands them to the executors."""

    def __init__(
        self,
        desk: Desk,
        intake: Intake,
        threads: Threads,
        loop: EventLoop,
        completer: Completer,
        wakeup: Wakeup,
        announcer: Announcer,
        recovery: Recovery | None = None,
    ) -> None:
        super().__init__(name="jobqueue-claimer", daemon=True)
        self.announcer = announcer
        self.desk, self.intake, self.using = desk, intake, desk.using
        self.threads, self.loop, self.completer, self.wakeup = threads, loop, completer, wakeup
        self.recovery = recovery or Recovery(self.using)
        self.recovery.came_back.append(self._look_anew)
        self.lanes = Lanes(intake.selector, self.using)
        self.follower = Follower(self.using, self.woken, lambda: self.lanes.reached, self.recovery)
        #: Called when it cannot go on.
        self.fault: Callable[[], None] = desk.stop
        #: Have the jobs that vanished workers held come back in line? A drain is not over before.
        self.has_reaped: Callable[[], bool] = lambda: True
        self.claimed = 0
        self.mix = Mix(completer.paces)
        self.wake = threading.Event()
        self._stopping = threading.Event()
        self.isolation = Isolation()
        self._keys_seen_at = 0  # the look after which it was last asked for which keys there are slots
        self._keys_seen = False  # has that been asked since a job was claimed, before the end of a drain?
        self._limited: dict[str, bool] = {}
        self._found_at = time.monotonic()  # when there was something to claim for the last time
        self._unsure = False  # has an error come between a claim and what it brought?

    def run(self) -> None:
        pause = 0.1
        with get_dialect(self.using).session():
            while not self._stopping.is_set():
                try:
                    if (rest := self._step()) > 0:
                        self.wake.wait(rest)
                        self.wake.clear()
                    pause = 0.1
                except (DatabaseError, InterfaceError) as error:
                    logger.error("Cannot claim jobs: %s", str(error).strip())
                    get_dialect(self.using).connection.close()
                    self._unsure = True
                    if self.intake.drain is not None and self._has_no_tables():
                        self.fault()
                    self.recovery.pause(pause * random.uniform(0.5, 1.5), self._stopping.is_set)
                    pause = min(5.0, pause * 2)
                except Exception:
                    logger.exception("The claimer stumbled; it goes on in a second.")
                    self._unsure = True
                    self._stopping.wait(1.0)

    def _has_no_tables(self) -> bool:
        """Is there nothing that could ever be drained? A database that does not answer may come back."""
        try:
            problem = problem_of_tables(self.using)
        except (DatabaseError, InterfaceError):
            return False
        if problem:
            logger.critical("%s The worker stops.", problem)
        return bool(problem)

    def stop(self) -> None:
        self._stopping.set()
        self.wake.set()

    def woken(self, lanes: Collection[Lane]) -> None:
        """There may be jobs in these lanes, or anywhere if there are none. For other threads to call."""
        self.lanes.tell(lanes)
        self.wake.set()

    def _look_anew(self) -> None:
        self.woken(())

    def _step(self) -> float:
        """One look at the queues, and for how long to rest then, unless there is news: 0 where there may be more."""
        if not self.desk.believed:
            return BUSY_PAUSE  # whatever we claimed now, others might take for orphaned
        self.desk.give_back()
        if self._unsure:
            self._release_unheard()
        self.wakeup.ping_if_due()
        self._give_back_stuck()
        self._look_for_isolated()
        if self.isolation.active:
            return 0.0 if self._serve_isolated() else BUSY_PAUSE
        room = self._room()
        if room < 1:
            return BUSY_PAUSE  # a look at the lanes may be overdue by then: it waits for room too
        self.lanes.refresh()
        if self.lanes.ended:
            self.follower.look()
        if self.lanes.limited and not self._keys_seen and self._keys_seen_at != self.lanes.turn:
            self._keys_seen_at = self.lanes.turn
            self.follower.look_at_keys()
        jobs = self._claim(room)
        if jobs:
            self._dispatch(jobs)
            return 0.0
        if self.desk.idle and not self._serve_isolated():
            self._stop_if_drained()
        return self._until_next_look()

    def _until_next_look(self) -> float:
        pause = self.lanes.seconds_to_look(lambda: self.wakeup.pause(time.monotonic() - self._found_at))
        busy = self.desk.runs or self.isolation.active or self._unsure or self._keys_seen or self.announcer.unannounced
        return min(pause, BUSY_PAUSE) if busy else pause

    def _release_unheard(self) -> None:
        """Give back what the database gave us in a claim whose answer never came."""
        held = held_by(self.desk.id, self.using)
        unheard = [job for job in held if not self.desk.is_held(job.pk, job.fence) and not self.completer.holds(job)]
        if given := self.desk.give_back([Run(job=job, worker_id=self.desk.id) for job in unheard]):
            logger.warning("Gave back %d jobs of a claim that went wrong.", given)
        self._unsure = False

    # -- how many to claim -----------------------------------------------------------------------

    def _room(self) -> int:
        """How many jobs to claim now; 0 while that would be too few to be worth a statement."""
        if self.completer.unwritten >= MAX_UNWRITTEN or self.announcer.is_behind:
            return 0
        room = self.mix.room()
        if self.intake.max_jobs is not None:
            room = min(room, self.intake.max_jobs - self.claimed)
            if room < 1 and self.desk.idle:
                self._has_had_enough()
        return room

    # -- claim and dispatch ----------------------------------------------------------------------

    def _claim(self, room: int, *, isolated: bool = False) -> list[Job]:
        if not self.lanes.order:
            return []
        began, worker_id = time.monotonic(), self.desk.id
        floors = () if isolated else self.lanes.floors
        jobs = claim(
            self.lanes.order, room, worker_id, self.using, floors=floors, isolated=isolated, only=self.lanes.only
        )
        if self.desk.id != worker_id:  # the lease was lost while the claim was on its way
            self.wake.set()
            self.desk.give_back([Run(job=job, worker_id=worker_id) for job in jobs])
            return []
        now = time.monotonic()
        if not isolated:
            self.lanes.learn(jobs, room, now - began)
        if jobs:
            self._found_at = now
        return jobs

    def _dispatch(self, jobs: Sequence[Job]) -> None:
        """Hand the jobs to the executors. What raises leaves none in between: what has not been handed on by then is
        given back at the next step.
        """
        runs = [Run(job=job, worker_id=job.worker_id or self.desk.id) for job in jobs]
        left = {id(run): run for run in runs}
        try:
            self._sort_out(runs, left)
        finally:
            self.desk.keep_to_return(left.values())
        self.desk.give_back()

    def _sort_out(self, runs: Sequence[Run], left: dict[int, Run]) -> None:
        """Take from those that are ``left`` what gets another place."""
        self._keys_seen = False
        unknown: dict[str, list[Run]] = {}
        kept = [0, 0]
        keyless: dict[Job, str] = {}
        for run in runs:
            job = run.job
            try:
                job.decode()
                task = resolve(job.task_path)
                if job.concurrency_key is None and self._is_limited(job, task):
                    key = limit_key(task, job, "concurrency_key")
                    if key is not None:
                        keyless[job] = key
                        continue
            except UnknownTask as error:
                unknown.setdefault(str(error), []).append(run)
                continue
            except Exception as error:
                fail(run, error)
                self.claimed += 1
                self.desk.hold(run)
                del left[id(run)]
                self.completer.put(run)
                continue
            run.is_async = is_async(task)
            if not self.mix.keeps(run.is_async):
                continue
            self.desk.hold(run)
            (self.loop if run.is_async else self.threads).submit(run, task)
            del left[id(run)]
            kept[run.is_async] += 1
            self.claimed += 1
        self.mix.note(*kept)
        for reason, strangers in unknown.items():
            self._put_off(strangers, reason)
            for run in strangers:
                del left[id(run)]
        if keyless:
            send_to_keys(keyless, self.using)
            for run in [run for run in left.values() if run.job in keyless]:
                del left[id(run)]
        time.sleep(0)  # the slots wait for the interpreter, and this thread has time

    def _is_limited(self, job: Job, task: AnyTask) -> bool:
        """Has its task got a limit since the job was enqueued? For most jobs the answer is their task's."""
        if job.options:
            return slots_of(task, job).most is not None
        if (limited := self._limited.get(job.task_path)) is None:
            limited = self._limited[job.task_path] = slots_of(task).most is not None
        return limited

    def _put_off(self, runs: Sequence[Run], reason: str) -> None:
        """Leave the jobs to a worker that knows their task; in a rolling deploy there soon is one."""
        least, most = UNKNOWN_DELAY
        delay = min(most, max(least, runs[-1].job.age.total_seconds()))
        names = ", ".join(f"#{run.job.pk}" for run in runs[:5]) + ", …" * (len(runs) > 5)
        logger.warning("%s Put off for %s: %d jobs (%s).", reason, human(delay), len(runs), names)
        self.desk.give_back(runs, delay)

    def _give_back_stuck(self) -> None:
        """Give back what waits behind jobs that turned out to be long."""
        for kind, executor in ((False, self.threads), (True, self.loop)):
            if executor.stuck_for() < PATIENCE:
                continue
            taken = executor.take_back()
            self.claimed -= len(taken)
            self.mix.paces[kind].hold(PATIENCE)
            if given := self.desk.give_back(taken):
                logger.info("Gave back %d jobs that waited behind long ones.", given)

    # -- scheduled jobs, jobs that run alone, the end --------------------------------------------

    def _look_for_isolated(self) -> None:
        """A busy worker holds the others back now and then for a job that must run alone; an idle one just takes it."""
        if self.isolation.is_due:
            if isolated_waiting(self.lanes.order, self.using):
                self.isolation.begin()
            else:
                self.isolation.end()
        elif self.isolation.active and self.isolation.is_over(idle=self.desk.idle):
            self.isolation.end()

    def _serve_isolated(self) -> bool:
        """Claim one job that must run alone, once nothing else runs here; True if there was one."""
        if not self.desk.idle:
            return False
        jobs = self._claim(1, isolated=True)
        if not jobs:
            self.isolation.end()
            return False
        logger.warning("%s has lost its worker %d times before; now it runs alone.", jobs[0], jobs[0].losses)
        self.isolation.begin(with_job=True)
        self._dispatch(jobs)
        return True

    def _stop_if_drained(self) -> None:
        drain = self.intake.drain
        if drain is None or not self.desk.idle or self.announcer.unannounced or self._more_is_due(drain):
            return
        # before the look, which sees all that had been let in, and had come back, by then
        was_at_rest, had_reaped = self.follower.is_at_rest, self.has_reaped()
        self.lanes.look_from_the_front()
        if jobs := self._claim(1) if self.lanes.is_narrowed else []:
            self._dispatch(jobs)
        elif self.lanes.ended:
            self.follower.look()  # what waits for those may be in line soon
        elif self.lanes.limited and not self._keys_seen:
            self._keys_seen = True
            self.follower.look_at_keys()
        elif (
            was_at_rest  # else it may have found some; but nobody waits for slots that others have
            and had_reaped
            and (self.lanes.is_narrowed or not self.lanes.order)  # else somebody has those in line locked
            and not self._more_is_due(drain)  # again: what was in line at first may have been put off before the look
        ):
            self._say_what_is_left()
            self._has_had_enough()

    def _more_is_due(self, within: float) -> bool:
        due = next_due(self.using, self.intake.selector)
        return due is not None and due <= within

    def _say_what_is_left(self) -> None:
        if paused := held_back(self.intake.selector, self.using):
            logger.warning("Drained, but for jobs that have to wait because this is paused: %s.", ", ".join(paused))

    def _has_had_enough(self) -> None:
        self._stopping.set()
        self.desk.stop()
