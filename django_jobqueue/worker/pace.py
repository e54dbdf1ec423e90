"""Pace: how many jobs one executor should have in hand, by how long its last ones took."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

#: Jobs that may wait in the worker beyond its slots, and for how long all together: while they are short, claiming
#: many at once is what makes a worker fast; when they are long, others should have them.
PREFETCH = 500
PREFETCH_SECONDS = 0.1
#: How many jobs back the mean run time remembers.
MEMORY = 100


class Executor(Protocol):
    slots: int

    @property
    def load(self) -> int: ...


class Pace:
    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        #: How long a job takes here, in seconds, and from how many jobs that is known.
        self.mean: float | None = None
        self.measured = 0
        #: While more jobs than this are at work, claiming can wait.
        self.low_water = executor.slots - 1
        self._hold_until = float("-inf")

    def learn(self, times: Iterable[float]) -> None:
        """How long jobs have taken that have just ended."""
        times = list(times)
        if times:
            known = min(self.measured, MEMORY)
            self.mean = ((self.mean or 0.0) * known + sum(times)) / (known + len(times))
            self.measured += len(times)

    def hold(self, seconds: float) -> None:
        """They have proved to be long: none in advance for a while."""
        self._hold_until = time.monotonic() + seconds

    @property
    def prefetch(self) -> int:
        if self.mean is None or time.monotonic() < self._hold_until:
            return 0
        # Short jobs end first and make a new worker believe that all are short: no more on trust than it has run.
        within = int(PREFETCH_SECONDS * self.executor.slots / max(self.mean, 1e-6))
        return min(PREFETCH, self.measured, within)

    def room(self) -> int:
        """How many jobs to claim now; 0 while that would be too few to be worth a statement."""
        slots, prefetch = self.executor.slots, self.prefetch
        # What is claimed in advance may run out by half; a slot that stands idle would be missed.
        self.low_water = slots + prefetch // 2 if prefetch else slots - 1
        load = self.executor.load
        return 0 if load > self.low_water else slots + prefetch - load
