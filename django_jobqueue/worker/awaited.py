"""Awaited: the jobs whose end somebody waits for, and who is told of it by the worker that has written it.

Whoever waits says so every few seconds, on the channel that the workers listen to anyway. Jobs that nobody waits for
cost nothing; where there is no channel, or what is told gets lost, those who wait look for themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence

from ..dialects.channel import tell_end
from ..lifecycle import Run
from ..logs import get_logger

logger = get_logger(__name__)

#: Seconds for which it is remembered that somebody waits; that is said anew before they are over.
MEMORY = 12.0
#: So many jobs are remembered at the most.
MANY = 20_000


class Awaited:
    def __init__(self, using: str) -> None:
        self.using = using
        #: The jobs, each with the time at which it is forgotten.
        self.jobs: dict[int, float] = {}
        self._lock = threading.Lock()

    def remember(self, ids: Collection[int]) -> None:
        now = time.monotonic()
        with self._lock:
            self.jobs = {pk: until for pk, until in self.jobs.items() if until > now}
            if len(self.jobs) < MANY:
                self.jobs |= dict.fromkeys(ids, now + MEMORY)

    def tell(self, batch: Sequence[tuple[Run, str | None]]) -> None:
        """These outcomes have been committed, each with the job's status. Never raises: it is a hint."""
        if not self.jobs:
            return
        ended = {run.job.pk for run, status in batch if status not in (None, "READY")} & self.jobs.keys()
        if not ended:
            return
        try:
            tell_end(self.using, ended)
        except Exception as error:
            logger.debug("Nobody could be told of the end of %d jobs: %s", len(ended), error)
        with self._lock:
            for pk in ended:
                self.jobs.pop(pk, None)
