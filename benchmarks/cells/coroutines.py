from benchmarks import drains
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant

from .base import Cell, Column

SLOTS = 1000
SLEEP = 0.1  # as the adapters have it


class Async(Cell):
    name = "async"
    sentence = "no-op coroutines through one worker process"
    columns = (
        Column("drain/s", chart="No-op coroutines per second, one worker process"),
        Column("RSS MiB", "{:.0f}", is_main=False, less=True),
        Column("worker µs/job", "{:.0f}", is_main=False, less=True),
        Column("server µs/job", "{:.0f}", is_main=False, less=True),
    )

    def suits(self, entrant: Entrant) -> bool:
        return entrant.knows("anoop")

    def measure(self, entrant: Entrant) -> Figures:
        jobs = entrant.share_of(entrant.options.jobs)
        with entrant.stage() as stage:
            stage.enqueue("anoop", jobs)
            return drains.drain(stage, jobs)


class Sleep(Cell):
    name = "sleep"
    sentence = f"coroutines that sleep for {SLEEP} s, {SLOTS} at once in one process, and how far from the possible"
    columns = (Column("sleeps/s"), Column("of the possible", "{:.0%}"), Column("RSS MiB", "{:.0f}", less=True))

    def suits(self, entrant: Entrant) -> bool:
        return entrant.knows("sleep")

    def measure(self, entrant: Entrant) -> Figures:
        jobs = entrant.options.sleeps
        with entrant.stage() as stage:
            stage.enqueue("sleep", jobs)
            found = drains.drain(stage, jobs, BENCHMARK_SLOTS=str(SLOTS))
        rate = found["drain/s"]
        return {"sleeps/s": rate, "of the possible": rate * SLEEP / SLOTS, "RSS MiB": found["RSS MiB"]}
