from benchmarks import drains
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant

from .base import Cell, Column

#: Their titles, their bytes, and what part of the jobs there are of them.
SIZES = (("1 kB", 1000, 1), ("64 kB", 64000, 10))


class Arguments(Cell):
    name = "arguments"
    sentence = (
        "no-op jobs with arguments of 1 kB and of 64 kB: enqueued by the thousand, drained, and the memory for it"
    )
    columns = tuple(
        column
        for title, _size, _part in SIZES
        for column in (
            Column(f"{title} bulk/s"),
            Column(f"{title} drain/s"),
            Column(f"{title} RSS MiB", "{:.0f}", is_main=False, less=True),
        )
    )

    def measure(self, entrant: Entrant) -> Figures:
        found = {}
        for title, size, part in SIZES:
            jobs = max(entrant.share_of(entrant.options.jobs) // part, 100)
            with entrant.stage() as stage:
                if entrant.about["bulk"]:
                    found[f"{title} bulk/s"], _cpu = stage.bulk("noop", jobs, BENCHMARK_BYTES=str(size))
                else:
                    stage.enqueue("noop", jobs, BENCHMARK_BYTES=str(size))
                drained = drains.drain(stage, jobs)
            found[f"{title} drain/s"], found[f"{title} RSS MiB"] = drained["drain/s"], drained["RSS MiB"]
        return found
