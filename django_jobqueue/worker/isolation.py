"""Isolation: when a worker stops claiming for jobs that must run alone, and for how long.

A job that lost its worker twice may be what kills its workers. It runs alone, so that it takes no other job with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

NEVER = float("-inf")

#: Seconds between two looks of a busy worker for such jobs.
INTERVAL = 5.0
#: How long it then waits for its running jobs to end before it goes on without.
PATIENCE = 1.0
#: How long it runs one such job after another before the others get their turn.
STREAK = 10.0


@dataclass(slots=True)
class Isolation:
    #: Is everything else held back?
    active: bool = False
    _has_job: bool = False
    _since: float = NEVER
    _ended_at: float = NEVER

    @property
    def is_due(self) -> bool:
        """Is it time to look for such jobs?"""
        return not self.active and time.monotonic() - self._ended_at > INTERVAL

    def begin(self, *, with_job: bool = False) -> None:
        if not self.active:
            self._since = time.monotonic()
        self.active, self._has_job = True, with_job

    def end(self) -> None:
        self.active, self._has_job, self._ended_at = False, False, time.monotonic()

    def is_over(self, *, idle: bool) -> bool:
        """Should the other jobs go on? Never while a job runs alone."""
        waited = time.monotonic() - self._since
        if self._has_job:
            return idle and waited > STREAK
        return not idle and waited > PATIENCE
