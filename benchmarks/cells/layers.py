from benchmarks import drains
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant

from .base import Column, OnlyOurs

TURNS = 3  # of each kind, in turn; the least counts: what disturbs a drain only adds to it
KINDS = {"none": "", "5 layers": "5 Passing", "5 without hooks": "5 Hookless"}


class Layers(OnlyOurs):
    name = "layers"
    sentence = "CPU time of a worker for a no-op job without layers, inside five sync ones, and with five without hooks"
    columns = (
        Column("none µs/job", "{:.1f}", less=True),
        Column("5 layers µs/job", "{:.1f}", less=True),
        Column("5 without hooks µs/job", "{:.1f}", less=True),
        Column("5 layers cost µs", "{:.1f}", less=True),
        Column("5 without hooks cost µs", "{:.1f}", less=True),
    )

    def measure(self, entrant: Entrant) -> Figures:
        turns = [{kind: self._drain(entrant, layers) for kind, layers in KINDS.items()} for _ in range(TURNS)]
        least = {kind: min(turn[kind] for turn in turns) for kind in KINDS}
        found = {f"{kind} µs/job": value for kind, value in least.items()}
        return found | {f"{kind} cost µs": value - least["none"] for kind, value in least.items() if kind != "none"}

    def _drain(self, entrant: Entrant, layers: str) -> float:
        jobs = entrant.options.jobs
        with entrant.stage() as stage:
            stage.enqueue("noop", jobs)
            return drains.drain(stage, jobs, BENCHMARK_LAYERS=layers)["worker µs/job"]
