from benchmarks import drains
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant

from .base import Column, OnlyOurs

TURNS = 3  # of each kind, in turn; the fastest counts: what disturbs a drain only slows it down
LIMITS = ("wide", "keys", "rate")
UNDER = (
    "without a limit, under one concurrency key with 2000 slots, under 1000 keys with 4 each, and under a rate limit "
    "that never bites"
)


class Limits(OnlyOurs):
    """As many jobs of each task: a worker begins with few jobs at a time, which is part of every drain."""

    name = "limits"
    sentence = f"no-op jobs {UNDER}"
    columns = (
        *(Column(f"{kind}/s") for kind in ("free", *LIMITS)),
        *(Column(f"{kind} ÷ free", "{:.0%}") for kind in LIMITS),
    )
    #: The task without a limit, and what is before the names of those that have one.
    free, prefix = "noop", ""
    #: Of the jobs that are asked for.
    share = 1.0

    def measure(self, entrant: Entrant) -> Figures:
        tasks = {"free": self.free} | {kind: f"{self.prefix}{kind}" for kind in LIMITS}
        turns = [{kind: self._drain(entrant, task) for kind, task in tasks.items()} for _ in range(TURNS)]
        best = {kind: max(turn[kind] for turn in turns) for kind in tasks}
        found = {f"{kind}/s": value for kind, value in best.items()}
        return found | {f"{kind} ÷ free": best[kind] / best["free"] for kind in LIMITS}

    def _drain(self, entrant: Entrant, task: str) -> float:
        jobs = round(entrant.options.jobs * self.share)
        with entrant.stage() as stage:
            stage.with_limits()  # around those without a limit too
            stage.enqueue(task, jobs)
            return drains.drain(stage, jobs)["drain/s"]


class Work(Limits):
    name = "work"
    sentence = f"jobs of 0.2 ms CPU time {UNDER}"
    free, prefix = "work", "work_"
    share = 0.5
