"""Drains with rows around that do not concern them."""

from benchmarks import drains
from benchmarks.drains import Figures
from benchmarks.entrants import Entrant, Stage

from .base import Cell, Column, OnlyOurs

#: More jobs than elsewhere: the clock is read to within a batch, and a ratio of two rates has the errors of both.
LONGER = 5


def rate(stage: Stage, jobs: int, until_empty: bool = True) -> float:
    """Jobs per second from the tenth part of the jobs on: an empty table and a full one start differently."""
    first, last = jobs // 10, jobs
    start, end = drains.passage(stage, [first, last], until_empty=until_empty)
    return (last - first) / (end - start)


def empty_rate(entrant: Entrant, jobs: int) -> float:
    """The rate without anything around. Some more jobs wait than are counted: else the end would be different."""
    with entrant.stage() as stage:
        stage.enqueue("noop", jobs + jobs // 5)
        return rate(stage, jobs)


class Full(OnlyOurs):
    name = "full"
    sentence = "drain with a million finished jobs and a million waiting ones in the table, against an empty one"
    columns = (Column("empty/s"), Column("full/s"), Column("full ÷ empty", "{:.0%}"))

    def measure(self, entrant: Entrant) -> Figures:
        jobs, rows = entrant.options.jobs * LONGER, entrant.options.rows
        empty = empty_rate(entrant, jobs)
        with entrant.stage() as stage:
            stage.fill(finished=rows, waiting=max(rows, jobs + jobs // 5))
            full = rate(stage, jobs, until_empty=False)
        return {"empty/s": empty, "full/s": full, "full ÷ empty": full / empty}


class Scheduled(OnlyOurs):
    name = "scheduled"
    sentence = "drain beside 100,000 jobs that are scheduled for tomorrow, against one without"
    columns = (Column("alone/s"), Column("beside/s"), Column("beside ÷ alone", "{:.0%}"))

    def measure(self, entrant: Entrant) -> Figures:
        jobs = entrant.options.jobs * LONGER
        alone = empty_rate(entrant, jobs)
        with entrant.stage() as stage:
            stage.fill(scheduled=entrant.options.scheduled)
            stage.enqueue("noop", jobs + jobs // 5)
            beside = rate(stage, jobs)
        return {"alone/s": alone, "beside/s": beside, "beside ÷ alone": beside / alone}


class Waiting(OnlyOurs):
    name = "waiting"
    sentence = (
        "drain beside 100,000 jobs that wait for the one slot of their key, which another one keeps, and beside "
        "100,000 that wait for a job of tomorrow, against one without"
    )
    columns = (
        Column("alone/s"),
        Column("for slots/s"),
        Column("for a job/s"),
        Column("for slots ÷ alone", "{:.0%}"),
        Column("for a job ÷ alone", "{:.0%}"),
    )

    def measure(self, entrant: Entrant) -> Figures:
        count = entrant.options.scheduled
        alone = self._rate(entrant)
        for_slots, for_a_job = self._rate(entrant, for_slots=count), self._rate(entrant, for_a_job=count)
        found = {"alone/s": alone, "for slots/s": for_slots, "for a job/s": for_a_job}
        return found | {"for slots ÷ alone": for_slots / alone, "for a job ÷ alone": for_a_job / alone}

    def _rate(self, entrant: Entrant, **around: int) -> float:
        jobs, held = entrant.options.jobs * LONGER, sum(around.values())
        with entrant.stage() as stage:
            stage.with_limits()  # without anything around too: only that shall be the difference
            stage.fill(**around)
            stage.put("noop", jobs + jobs // 5)
            stage.expect("held", held)
            found = rate(stage, jobs, until_empty=False)
            stage.expect("held", held)
            return found


class Snapshot(Cell):
    name = "snapshot"
    sentence = "drain while another session holds an old snapshot: the second half of the jobs against the first"
    columns = (Column("first half/s"), Column("second half/s"), Column("second ÷ first", "{:.0%}"))

    def suits(self, entrant: Entrant) -> bool:
        return entrant.about["point"] is not None and not entrant.is_slow

    def measure(self, entrant: Entrant) -> Figures:
        jobs = entrant.options.snapshot_jobs
        start, half = jobs // 50, jobs // 2
        with entrant.stage() as stage:
            stage.enqueue("noop", jobs)
            stage.database.settle()
            with stage.database.old_snapshot():
                started, halved, ended = drains.passage(stage, [start, half, jobs])
            stage.expect("finished", jobs)
        first, second = (half - start) / (halved - started), (jobs - half) / (ended - halved)
        return {"first half/s": first, "second half/s": second, "second ÷ first": second / first}
