"""How fast workers empty a queue, seen from outside: by looks at the tables."""

from __future__ import annotations

import time
from collections.abc import Callable

from . import processes
from .adapters import Failed, Workers
from .databases import Look
from .entrants import Stage

LOOK = 0.02  # seconds between two looks at the table
SHORT_LOOK = 0.005  # the same, where the look is cheap or nothing happens yet
PATIENCE = 60  # seconds that a worker may take to claim its first job
Figures = dict[str, float]


class Observer:
    """Looks at the tables until something has come about, and sees that the workers live."""

    def __init__(self, look: Look, workers: Workers) -> None:
        self.look, self.workers = look, workers
        self.looks = 0

    def wait_until(self, happened: Callable[[], bool], seconds: float, complaint: str, pause: float = LOOK) -> float:
        """When it was first seen. Looks that take long are rarer: they must not cost more than what they look at."""
        deadline = time.monotonic() + seconds
        looked = time.perf_counter()
        while not happened():
            took = time.perf_counter() - looked
            self.workers.check()
            if time.monotonic() > deadline:
                raise Failed(f"{complaint} within {seconds} s\n{self.workers.printed()}")
            self.looks += 1
            time.sleep(max(pause, 10 * took))
            looked = time.perf_counter()
        return time.perf_counter()


def drain(stage: Stage, jobs: int, count: int = 1, outcome: str = "finished", **env: str) -> Figures:
    """Let workers do the waiting jobs; the clock runs from the first claim until nothing is unfinished.

    ``outcome`` is what becomes of all of them: ``failed``, if they are made to fail.
    """
    database, about = stage.database, stage.about
    database.settle()
    commits, wal = database.counters()
    with database.watch() as look, stage.workers(count, **env) as workers:
        observer = Observer(look, workers)
        start = observer.wait_until(
            lambda: look(about["waiting"]) < jobs, PATIENCE, "no job was claimed", pause=SHORT_LOOK
        )
        others = processes.Others(database.pid)
        worker_cpu, server_cpu = processes.cpu_seconds(*workers.pids), processes.cpu_seconds(database.pid)
        end = observer.wait_until(lambda: not look(about["unfinished"]), stage.limit, f"{jobs} jobs were not done")
        worker_cpu = processes.cpu_seconds(*workers.pids) - worker_cpu
        server_cpu = processes.cpu_seconds(database.pid) - server_cpu
        noise, memory = others.share(), max(processes.peak_memories(*workers.pids))
        wal_used = database.counters()[1] - wal
        if (found := look(about[outcome])) != jobs:
            raise Failed(f"{found} jobs are {outcome}, not {jobs}\n{workers.printed()}")
    time.sleep(0.3)  # sessions report their commits when they end
    figures = {"drain/s": jobs / (end - start), "RSS MiB": memory, "others": noise}
    figures["worker µs/job"] = worker_cpu / jobs * 1e6
    if database.pid is not None:
        figures["server µs/job"] = server_cpu / jobs * 1e6
    if wal:
        figures["commits/job"] = (database.counters()[0] - commits - observer.looks) / jobs
        figures["WAL B/job"] = wal_used / jobs
    return figures


def passage(stage: Stage, marks: list[int], count: int = 1, until_empty: bool = True) -> list[float]:
    """When the job at each mark was finished: marks are positions in the line of those that wait.

    The looks are at one row by its key: they cost the same however many rows there are, and dead ones.
    """
    database, about = stage.database, stage.about
    database.settle()
    with database.watch() as look:
        ids = [look(about["point"].format(number=mark - 1)) for mark in marks]
        before = look(about["finished"])
        moments = []
        with stage.workers(count) as workers:
            observer = Observer(look, workers)
            for mark, pk in zip(marks, ids, strict=True):
                passed = about["passed"].format(id=pk)
                complaint = f"job {mark} was not done"
                seconds = stage.limit if moments else PATIENCE + stage.limit
                moments.append(observer.wait_until(lambda sql=passed: bool(look(sql)), seconds, complaint, SHORT_LOOK))
            if until_empty:
                observer.wait_until(lambda: not look(about["unfinished"]), stage.limit, "not all jobs were done")
        done = look(about["finished"]) - before
    # Workers side by side may have passed the mark before each job in front of it was done.
    if done < marks[-1] * 0.9:
        raise Failed(f"{done} jobs are finished, where {marks[-1]} should be")
    return moments


def steady_rate(stage: Stage, jobs: int, count: int = 1, **env: str) -> float:
    """Jobs per second while all the workers work: neither the first fifth of the jobs counts nor the last tenth."""
    stage.database.settle()
    with stage.database.watch() as look, stage.workers(count, **env) as workers:
        observer = Observer(look, workers)

        def reach(share: float) -> tuple[float, int]:
            """When so many of the jobs were done, and how many it were exactly: queues record them in batches."""
            counts: list[int] = []

            def reached() -> bool:
                counts.append(look(stage.about["finished"]))
                return counts[-1] >= jobs * share

            moment = observer.wait_until(reached, PATIENCE + stage.limit, f"{share:.0%} of the jobs were not done")
            return moment, counts[-1]

        (start, first), (end, last) = reach(0.2), reach(0.9)
        observer.wait_until(lambda: not look(stage.about["unfinished"]), stage.limit, f"{jobs} jobs were not done")
    stage.expect("finished", jobs)
    if first == last:
        raise Failed(f"{jobs} jobs are too few: all were done from one look to the next")
    return (last - first) / (end - start)
