from benchmarks import drains
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant

from .base import RIVAL, Cell, Column

PART = 10  # of the jobs of a drain: these take longer
LEAST = 200


def drain(entrant: Entrant, task: str, **env: str) -> Figures:
    jobs = max(entrant.share_of(entrant.options.jobs // PART), min(LEAST, entrant.options.jobs // PART))
    with entrant.stage(BENCHMARK_ORM="1", **env) as stage:
        stage.enqueue(task, jobs)
        return drains.drain(stage, jobs)


class Orm(Cell):
    name = "orm"
    sentence = "jobs that SELECT, INSERT and UPDATE through Django's ORM, plain functions and coroutines"
    columns = (
        Column("sync/s", chart="Jobs per second with a SELECT, an INSERT and an UPDATE of Django's ORM"),
        Column(f"sync ÷ {RIVAL}", "{:.2f}", is_main=False, of="sync/s", by=RIVAL),
        Column("sync µs/job", "{:.0f}", is_main=False, less=True),
        Column("sync server µs/job", "{:.0f}", is_main=False, less=True),
        Column("async/s"),
        Column(f"async ÷ {RIVAL}", "{:.2f}", is_main=False, of="async/s", by=RIVAL),
        Column("async µs/job", "{:.0f}", is_main=False, less=True),
        Column("async server µs/job", "{:.0f}", is_main=False, less=True),
    )

    def suits(self, entrant: Entrant) -> bool:
        return entrant.knows("orm")

    def measure(self, entrant: Entrant) -> Figures:
        found: Figures = {}
        for title, task in (("sync", "orm"), ("async", "aorm")):
            if not entrant.knows(task):
                continue
            drained = drain(entrant, task)
            found |= {f"{title}/s": drained["drain/s"], f"{title} µs/job": drained["worker µs/job"]}
            if "server µs/job" in drained:
                found[f"{title} server µs/job"] = drained["server µs/job"]
        return found


class Select(Cell):
    name = "select"
    sentence = (
        "jobs with one SELECT of Django's ORM: CONN_MAX_AGE unset, as in a fresh project, and 60; and as coroutines, "
        "CONN_MAX_AGE unset"
    )
    kinds = (("unset", "select", ""), ("age 60", "select", "60"), ("async", "aselect", ""))
    columns = (
        *(Column(f"{title}/s") for title, _task, _age in kinds),
        Column("unset ÷ age 60", "{:.2f}"),
        Column("async ÷ unset", "{:.2f}"),
        *(Column(f"{title} µs/job", "{:.0f}", is_main=False, less=True) for title, _task, _age in kinds),
        *(Column(f"{title} server µs/job", "{:.0f}", is_main=False, less=True) for title, _task, _age in kinds),
    )

    def suits(self, entrant: Entrant) -> bool:
        return entrant.knows("select", "aselect")

    def measure(self, entrant: Entrant) -> Figures:
        found: Figures = {}
        for title, task, age in self.kinds:
            drained = drain(entrant, task, BENCHMARK_AGE=age)
            found |= {f"{title}/s": drained["drain/s"], f"{title} µs/job": drained["worker µs/job"]}
            if "server µs/job" in drained:
                found[f"{title} server µs/job"] = drained["server µs/job"]
        found["unset ÷ age 60"] = found["unset/s"] / found["age 60/s"]
        found["async ÷ unset"] = found["async/s"] / found["unset/s"]
        return found
