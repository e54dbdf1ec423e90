from benchmarks import drains
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant

from .base import Column, OnlyOurs

TURNS = 3  # of each kind, in turn; the fastest counts: what disturbs a drain only slows it down
#: The tasks. As many jobs of each: a worker begins with few jobs at a time, which is part of every drain.
KINDS = {"free": "noop", "wide": "wide", "keys": "keys", "rate": "rate"}


class Limits(OnlyOurs):
    name = "limits"
    sentence = (
        "no-op jobs without a limit, under one concurrency key with 2000 slots, under 1000 keys with 4 each, and under "
        "a rate limit that never bites"
    )
    columns = (
        *(Column(f"{kind}/s") for kind in KINDS),
        *(Column(f"{kind} ÷ free", "{:.0%}") for kind in KINDS if kind != "free"),
    )

    def measure(self, entrant: Entrant) -> Figures:
        turns = [{kind: self._drain(entrant, KINDS[kind]) for kind in KINDS} for _ in range(TURNS)]
        best = {kind: max(turn[kind] for turn in turns) for kind in KINDS}
        found = {f"{kind}/s": value for kind, value in best.items()}
        return found | {f"{kind} ÷ free": value / best["free"] for kind, value in best.items() if kind != "free"}

    def _drain(self, entrant: Entrant, task: str) -> float:
        jobs = entrant.options.jobs
        with entrant.stage() as stage:
            stage.with_limits()  # around those without a limit too
            stage.enqueue(task, jobs)
            return drains.drain(stage, jobs)["drain/s"]
