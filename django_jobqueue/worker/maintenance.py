"""Maintenance: what any worker does for all of them: reap, prune, return what a pause has held, find who waits and was
forgotten.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from django.db import DatabaseError, InterfaceError

from ..dialects import get_dialect
from ..lifecycle import Pruner, Run, find_strays, reap, return_held
from ..lifecycle.reap import is_anything_to_reap
from ..logs import get_logger
from .recovery import Recovery

logger = get_logger(__name__)

#: Seconds. An idle worker that polls asks once in two seconds for jobs: all else that it asks has to be less.
REAP_INTERVAL = 10.0
PRUNE_INTERVAL = 60.0
#: What is there for accidents only is done every so many times.
SELDOM = 6
#: Batches of one prune: a long backlog is worked off bit by bit, beside the jobs.
PRUNE_BATCHES = 5


class Maintenance(threading.Thread):
    def __init__(
        self,
        using: str,
        *,
        lease: float,
        pruner: Pruner,
        reaped: Callable[[Sequence[Run]], None],
        look_at_memory: Callable[[], None],
        recovery: Recovery | None = None,
        looked: Callable[[], None] = lambda: None,
    ) -> None:
        """``reaped`` is called with the runs that were found lost, ``look_at_memory`` now and then, ``looked`` once,
        after the first look for lost jobs.
        """
        super().__init__(name="jobqueue-maintenance", daemon=True)
        self.using, self.pruner, self.reaped, self.look_at_memory = using, pruner, reaped, look_at_memory
        self.recovery = recovery or Recovery(using)
        self.interval = min(REAP_INTERVAL, lease / 3)
        self._pruned_at = time.monotonic()  # not at once: a worker that has just started has jobs to run
        self._turn = 0
        self.looked = looked
        #: Has it looked for lost jobs yet? What it has found is in line by then.
        self.has_looked = False
        self._behind = 0  # the last of the waiting jobs that were looked at
        self._stopping = threading.Event()

    def run(self) -> None:
        with get_dialect(self.using).session():
            while not self._stopping.is_set():
                try:
                    self._tend()
                except (DatabaseError, InterfaceError) as error:
                    logger.error("Cannot look after the queue: %s", str(error).strip())
                    get_dialect(self.using).connection.close()
                except Exception:
                    logger.exception("Maintenance stumbled; it goes on.")
                # Also after an error: before it looks for silent workers the others must have renewed their leases.
                self._stopping.wait(self.interval * random.uniform(0.8, 1.2))

    def stop(self) -> None:
        self._stopping.set()

    def _tend(self) -> None:
        """All that is due. What goes wrong in one of the steps keeps none of the others from their turn, unless the
        database is away, and is raised at the end.
        """
        problem: Exception | None = None
        for step in (self.look_at_memory, self._reap, self._find_forgotten, self._prune_if_due):
            try:
                step()
            except Exception as error:
                problem = problem or error
                if isinstance(error, DatabaseError | InterfaceError) and self.recovery.is_away():
                    break
        self._turn += 1
        if problem is not None:
            raise problem

    def _reap(self) -> None:
        try:
            if is_anything_to_reap(self.using) and (runs := reap(self.using)):
                self.reaped(runs)
        finally:
            if not self.has_looked:
                self.has_looked = True
                self.looked()

    def _find_forgotten(self) -> None:
        if self._turn % SELDOM == 0:
            self._behind = find_strays(self.using, self._behind)
            if returned := return_held(self.using):
                logger.info("Put %d jobs in line whose keys have been resumed.", returned)

    def _prune_if_due(self) -> None:
        if time.monotonic() - self._pruned_at > PRUNE_INTERVAL:
            self._pruned_at = time.monotonic()  # first: what goes wrong is tried again in a minute, not at once
            self._prune()

    def _prune(self) -> None:
        if pruned := self.pruner.turn(PRUNE_BATCHES):
            logger.info("Deleted %d finished jobs past their retention.", pruned)
        if (refusal := self.pruner.refusal) is not None:
            logger.error("%s They stay for now.", refusal, exc_info=refusal)
