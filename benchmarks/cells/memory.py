from benchmarks import adapters, drains, processes
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant

from .base import Cell, Column


class Memory(Cell):
    name = "memory"
    sentence = "memory of a worker: its largest process at rest and at its highest in a drain of no-ops; all of them"
    columns = (
        Column("at rest MiB", "{:.0f}", less=True),
        Column("drain MiB", "{:.0f}", less=True),
        Column("all processes MiB", "{:.0f}", is_main=False, less=True),
    )

    def measure(self, entrant: Entrant) -> Figures:
        jobs = entrant.share_of(entrant.options.jobs)
        with entrant.stage() as stage:
            with stage.database.watch() as look, stage.workers() as workers:
                adapters.call(stage.peer, "latency", 2, env=stage.env)
                at_rest = max(processes.peak_memories(*workers.pids))
                before = look(stage.about["finished"])
                stage.put("noop", jobs)
                observer = drains.Observer(look, workers)
                observer.wait_until(lambda: not look(stage.about["unfinished"]), stage.limit, "the jobs were not done")
                in_drain = processes.peak_memories(*workers.pids)
            stage.expect("finished", before + jobs)
        return {"at rest MiB": at_rest, "drain MiB": max(in_drain), "all processes MiB": sum(in_drain)}
