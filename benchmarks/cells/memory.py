from collections.abc import Callable

from benchmarks import adapters, drains, processes
from benchmarks.adapters import Workers
from benchmarks.databases import Look
from benchmarks.drains import Figures
from benchmarks.entrants import OURS, Entrant, Stage

from .base import Cell, Column

FIRST = 10_000  # jobs after which a worker has all that it needs
SLOW_RECEIVER = "0.0002"  # seconds that it sleeps: longer than a job takes
SLOW_PART = 5


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


class Growth(Cell):
    name = "growth"
    sentence = (
        "memory that a worker gains in a drain of a million no-ops: after it, against after the first 10,000; again "
        "where the project receives task_finished slowly, with a fifth of the jobs"
    )
    columns = (
        Column("growth MiB", "{:+.1f}", less=True),
        Column("after 10,000 MiB", "{:.0f}", is_main=False, less=True),
        Column("highest MiB", "{:.0f}", is_main=False, less=True),
        Column("drain/s", is_main=False),
        Column("slow receiver growth MiB", "{:+.1f}", less=True),
        Column("slow receiver highest MiB", "{:.0f}", is_main=False, less=True),
        Column("slow receiver drain/s", is_main=False),
    )

    def suits(self, entrant: Entrant) -> bool:
        return not entrant.is_slow

    def measure(self, entrant: Entrant) -> Figures:
        found = self._grow(entrant, entrant.options.many)
        if entrant.peer == OURS:
            slow = self._grow(entrant, entrant.options.many // SLOW_PART, BENCHMARK_RECEIVER=SLOW_RECEIVER)
            found |= {f"slow receiver {name}": value for name, value in slow.items()}
        return found

    def _grow(self, entrant: Entrant, jobs: int, **env: str) -> Figures:
        first = min(FIRST, jobs // 10)
        with entrant.stage(**env) as stage:
            stage.put("noop", jobs)
            stage.database.settle()
            with stage.database.watch() as look:
                reached = done(stage, look, jobs, first)
                with stage.workers() as workers:
                    start, before, end, after, highest = self._watch(stage, look, workers, reached)
            stage.expect("finished", jobs)
        found = {"growth MiB": after - before, "after 10,000 MiB": before, "highest MiB": highest}
        return found | {"drain/s": (jobs - first) / (end - start)}

    @staticmethod
    def _watch(stage: Stage, look: Look, workers: Workers, reached: Callable[[], bool]) -> tuple[float, ...]:
        """When the first jobs were done and what the worker held, when all were, and what it held then and at most."""
        observer, seconds = drains.Observer(look, workers), drains.PATIENCE + stage.limit
        start = observer.wait_until(reached, seconds, "the first jobs were not done", drains.SHORT_LOOK)
        before = max(processes.memories(*workers.pids))
        end = observer.wait_until(lambda: not look(stage.about["unfinished"]), seconds, "not all were done")
        pids = workers.pids
        return start, before, end, max(processes.memories(*pids)), max(processes.peak_memories(*pids))


def done(stage: Stage, look: Look, jobs: int, number: int) -> Callable[[], bool]:
    """Asks whether so many of the jobs are done: where that can be, by a look at one row, for there are many."""
    about = stage.about
    if about["point"] is None:
        return lambda: jobs - look(about["waiting"]) >= number
    passed = about["passed"].format(id=look(about["point"].format(number=number - 1)))
    return lambda: bool(look(passed))
