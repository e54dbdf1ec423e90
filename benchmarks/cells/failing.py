from benchmarks import drains
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant

from .base import RIVAL, Cell, Column


class Failing(Cell):
    name = "failing"
    sentence = "jobs that raise an error: all of them fail for good; all fail once and succeed when retried at once"
    columns = (
        Column("for good/s"),
        Column(f"for good ÷ {RIVAL}", "{:.2f}", is_main=False, of="for good/s", by=RIVAL),
        Column("for good µs/job", "{:.0f}", less=True),
        Column("for good server µs/job", "{:.0f}", is_main=False, less=True),
        Column("retried/s"),
        Column(f"retried ÷ {RIVAL}", "{:.2f}", is_main=False, of="retried/s", by=RIVAL),
        Column("retried µs/job", "{:.0f}", less=True),
        Column("retried server µs/job", "{:.0f}", is_main=False, less=True),
        Column("RSS MiB", "{:.0f}", is_main=False, less=True),
    )
    kinds = (("for good", "fail", "failed"), ("retried", "fail_once", "finished"))

    def suits(self, entrant: Entrant) -> bool:
        return entrant.knows("fail") and entrant.about["failed"] is not None

    def measure(self, entrant: Entrant) -> Figures:
        found: Figures = {}
        for title, task, outcome in self.kinds:
            if not entrant.knows(task):
                continue
            drained = self._drain(entrant, task, outcome)
            found |= {f"{title}/s": drained["drain/s"], f"{title} µs/job": drained["worker µs/job"]}
            if "server µs/job" in drained:
                found[f"{title} server µs/job"] = drained["server µs/job"]
            found["RSS MiB"] = max(drained["RSS MiB"], found.get("RSS MiB", 0))
        return found

    def _drain(self, entrant: Entrant, task: str, outcome: str) -> Figures:
        jobs = entrant.share_of(entrant.options.jobs)
        with entrant.stage() as stage:
            stage.enqueue(task, jobs)
            return drains.drain(stage, jobs, outcome=outcome)
