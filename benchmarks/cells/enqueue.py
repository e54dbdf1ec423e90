from benchmarks.drains import Figures
from benchmarks.entrants import Entrant

from .base import RIVAL, Cell, Column

WRITERS = 8


class Enqueue(Cell):
    name = "enqueue"
    sentence = "enqueues over an open connection: each in a transaction of its own, and 1000 a call"
    is_quick = True
    columns = (
        Column("one by one/s", chart="Enqueues per second, one by one"),
        Column(f"one by one ÷ {RIVAL}", "{:.2f}", is_main=False, of="one by one/s", by=RIVAL),
        Column("one by one µs/job", "{:.0f}", is_main=False, less=True),
        Column("bulk/s", chart="Enqueues per second, 1000 a call", missing="has no such call"),
        Column(f"bulk ÷ {RIVAL}", "{:.2f}", is_main=False, of="bulk/s", by=RIVAL),
        Column("bulk µs/job", "{:.1f}", is_main=False, less=True),
    )

    def measure(self, entrant: Entrant) -> Figures:
        jobs = entrant.options.jobs
        singles = max(jobs // 5, 100)
        with entrant.stage() as stage:
            rate, cpu = stage.one_by_one("noop", singles)
            found = {"one by one/s": rate, "one by one µs/job": cpu}
            if entrant.about["bulk"]:
                rate, cpu = stage.bulk("noop", jobs)
                found |= {"bulk/s": rate, "bulk µs/job": cpu}
            stage.expect("waiting", singles + jobs * entrant.about["bulk"])
        return found


class Writers(Cell):
    name = "writers"
    sentence = f"{WRITERS} processes enqueue one by one at the same time: enqueues per second of all, and of one alone"
    columns = (Column("8 writers/s"), Column("1 writer/s", is_main=False))

    def measure(self, entrant: Entrant) -> Figures:
        jobs = max(entrant.options.jobs // 5 // WRITERS, 50) * WRITERS
        with entrant.stage() as stage:
            alone, _cpu = stage.one_by_one("noop", jobs // 2)
            together, _cpu = stage.one_by_one("noop", jobs, WRITERS)
            stage.expect("waiting", jobs // 2 + jobs)
        return {"8 writers/s": together, "1 writer/s": alone}
