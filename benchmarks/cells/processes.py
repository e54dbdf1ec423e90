from benchmarks import drains
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant

from .base import Cell, Column

PROCESSES = (1, 2, 4)


class Processes(Cell):
    name = "processes"
    sentence = "1, 2 and 4 worker processes, with no-ops and with jobs of 5 ms CPU time"
    columns = (
        *(Column(f"{count} × no-op/s", is_main=False) for count in PROCESSES),
        *(Column(f"{count} × 5 ms/s", is_main=False) for count in PROCESSES),
        Column("2 ÷ 1, no-op", "{:.2f}"),
        Column("2 ÷ 1, 5 ms", "{:.2f}"),
    )

    def suits(self, entrant: Entrant) -> bool:
        return entrant.knows("burn")

    def measure(self, entrant: Entrant) -> Figures:
        jobs = entrant.share_of(entrant.options.jobs)
        found = {}
        for count in PROCESSES:
            found[f"{count} × no-op/s"] = self._no_ops(entrant, jobs * count, count)
            found[f"{count} × 5 ms/s"] = self._burns(entrant, max(jobs // 5, 200) * count, count)
        for title in ("no-op", "5 ms"):
            found[f"2 ÷ 1, {title}"] = found[f"2 × {title}/s"] / found[f"1 × {title}/s"]
        return found

    def _no_ops(self, entrant: Entrant, jobs: int, count: int) -> float:
        """While all processes work: what the first of them does before the last one is up would count for much."""
        with entrant.stage() as stage:
            stage.enqueue("noop", jobs)
            return drains.steady_rate(stage, jobs, count)

    def _burns(self, entrant: Entrant, jobs: int, count: int) -> float:
        """From the first claim to the end: a queue on an event loop may record nothing while jobs keep it busy."""
        with entrant.stage() as stage:
            stage.enqueue("burn", jobs)
            return drains.drain(stage, jobs, count)["drain/s"]
