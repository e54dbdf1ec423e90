from collections.abc import Iterator

from benchmarks import drains
from benchmarks.drains import Figures
from benchmarks.entrants import SETTINGS, Entrant

from .base import RIVAL, Cell, Column


def columns(settings: str) -> Iterator[Column]:
    """The rate, what it is of pgqueuer's, and the CPU time, with the settings."""
    title = settings.replace("-", " ")
    charts = {"as-installed": "No-op jobs per second, one worker process, a fresh project's settings"}
    charts |= {"production": "The same with the documented middleware and log of production"}
    yield Column(f"{title}/s", chart=charts.get(settings, ""))
    yield Column(f"{title} ÷ {RIVAL}", "{:.2f}", is_main=False, of=f"{title}/s", by=RIVAL)
    yield Column(f"{title} µs/job", "{:.0f}", is_main=False, less=True)


class Drain(Cell):
    name = "drain"
    sentence = (
        "no-op jobs through one worker process, with a project's settings as installed, or others: jobs per second and "
        "the worker's CPU time; with the first of the settings also memory and what a job costs the server"
    )
    is_quick = True
    columns = (
        *(column for settings in SETTINGS for column in columns(settings)),
        Column("RSS MiB", "{:.0f}", is_main=False, less=True),
        Column("server µs/job", "{:.0f}", is_main=False, less=True),
        Column("commits/job", "{:.3f}", is_main=False, less=True),
        Column("WAL B/job", is_main=False, less=True),
        Column("others", "{:.0%}", is_main=False, less=True),
    )

    def measure(self, entrant: Entrant) -> Figures:
        found: Figures = {}
        for settings in entrant.settings:
            drained = self._drain(entrant, settings)
            rate, cpu = drained.pop("drain/s"), drained.pop("worker µs/job")
            # A queue that knows nothing of Django's settings has one figure for all of them.
            for name in [settings] if entrant.about["uses_django"] else entrant.options.settings:
                title = name.replace("-", " ")
                found |= {f"{title}/s": rate, f"{title} µs/job": cpu}
            found = drained | found
        return found

    def _drain(self, entrant: Entrant, settings: str) -> Figures:
        jobs = entrant.share_of(entrant.options.jobs)
        with entrant.stage(settings) as stage:
            stage.enqueue("noop", jobs)
            return drains.drain(stage, jobs)
