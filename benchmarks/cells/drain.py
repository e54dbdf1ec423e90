from benchmarks import drains
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant

from .base import Cell, Column


class Drain(Cell):
    name = "drain"
    sentence = "no-op jobs through one worker process: jobs per second, memory, what a job costs worker and server"
    is_quick = True
    columns = (
        Column("drain/s", chart="No-op jobs per second, one worker process"),
        Column("RSS MiB", "{:.0f}", is_main=False, less=True),
        Column("worker µs/job", "{:.0f}", is_main=False, less=True),
        Column("server µs/job", "{:.0f}", is_main=False, less=True),
        Column("commits/job", "{:.3f}", is_main=False, less=True),
        Column("WAL B/job", is_main=False, less=True),
        Column("others", "{:.0%}", is_main=False, less=True),
    )

    def measure(self, entrant: Entrant) -> Figures:
        jobs = entrant.share_of(entrant.options.jobs)
        with entrant.stage() as stage:
            stage.enqueue("noop", jobs)
            return drains.drain(stage, jobs)
