import statistics

from benchmarks import adapters
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant

from .base import BEST, Cell, Column


class Pickup(Cell):
    name = "pickup"
    sentence = "milliseconds from just before an enqueue to the first line of the task, while the worker is idle"
    is_quick = True
    columns = (
        Column(
            "p50 ms", "{:,.1f}", less=True, chart="Milliseconds until an idle worker begins (median; less is better)"
        ),
        Column("p50 ÷ best other", "{:.2f}", is_main=False, less=True, of="p50 ms", by=BEST),
        Column("p95 ms", "{:,.1f}", is_main=False, less=True),
        Column("p99 ms", "{:,.1f}", less=True),
    )

    def measure(self, entrant: Entrant) -> Figures:
        with entrant.stage() as stage, stage.workers():
            waits = adapters.call(entrant.peer, "latency", entrant.options.samples, env=stage.env)
        hundredths = statistics.quantiles(waits, n=100)
        return {f"p{n} ms": hundredths[n - 1] for n in (50, 95, 99)}
