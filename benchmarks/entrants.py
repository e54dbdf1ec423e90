"""Entrants: a peer on a database, such as ``jobqueue@sqlite``, and what a cell can have it do."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import adapters, databases
from .adapters import Failed, Workers
from .databases import Database

OURS = "jobqueue"
FLOOR = "floor"
#: Of the Django project that a queue runs in: as ``startproject`` leaves them with DEBUG off; with the middleware and
#: the logging that the documentation has for production; the first with Django's own loggers at WARNING.
SETTINGS = ("as-installed", "production", "quiet")


def peer_of(name: str) -> str:
    """The peer in the name of an entrant, ``jobqueue`` in ``jobqueue:old@postgresql``."""
    return name.partition("@")[0].partition(":")[0]


def database_of(name: str) -> str:
    """The kind of database in the name of an entrant, ``postgresql`` in ``jobqueue:old@postgresql``."""
    return name.partition("@")[2]


class Entrant:
    def __init__(
        self, peer: str, server: str, about: dict[str, Any], options: argparse.Namespace, code: str = ""
    ) -> None:
        """``code`` is the name of a checkout of ours that ``--code`` gives."""
        self.peer, self.server, self.about, self.options = peer, server, about, options
        self.title = f"{peer}:{code}" if code else peer
        self.name = f"{self.title}@{databases.at(server).kind}"
        self.env = adapters.code_env(options.code[code] if code else None)

    @property
    def is_slow(self) -> bool:
        return self.about["share"] < 1

    @property
    def names(self) -> set[str]:
        """What the command line may call it."""
        return {self.peer, self.title, self.name}

    @property
    def settings(self) -> list[str]:
        """Those that are asked for; nothing but one where no setting of Django matters."""
        return self.options.settings if self.about["uses_django"] else self.options.settings[:1]

    def knows(self, *tasks: str) -> bool:
        return set(tasks) <= set(self.about["tasks"])

    def share_of(self, jobs: int) -> int:
        """So many of the jobs as the peer gets: a slow one fewer, so that it takes no longer than it must."""
        return max(round(jobs * self.about["share"]), min(jobs, 100))

    @contextmanager
    def stage(self, settings: str = "", **env: str) -> Iterator[Stage]:
        """The peer's schema in a database that is fresh; a project with these settings, or the first asked for."""
        kind = databases.at(self.server)
        with (
            kind(self.server, f"{self.options.prefix}_{self.peer}") as database,
            tempfile.TemporaryDirectory() as folder,
        ):
            stage = Stage(self, database, settings or self.options.settings[0], folder)
            stage.env |= env
            adapters.call(self.peer, "setup", env=stage.env)
            yield stage


class Stage:
    """A peer on a database that is fresh."""

    def __init__(self, entrant: Entrant, database: Database, settings: str, folder: str) -> None:
        self.entrant, self.database = entrant, database
        self.peer, self.about, self.limit = entrant.peer, entrant.about, entrant.options.limit
        self.env = {**entrant.env, "BENCHMARK_URL": database.url, "BENCHMARK_SETTINGS": settings}
        self.env |= {"BENCHMARK_FOLDER": folder, "BENCHMARK_STAMPS": f"{folder}/stamps"}

    def one_by_one(self, task: str, jobs: int, writers: int = 1) -> tuple[float, float]:
        """Enqueue, each job in a transaction of its own; jobs per second, and CPU time of a job in µs."""
        each = jobs // writers
        seconds, cpu = adapters.enqueue(self.peer, "one", task, [each] * writers, self.env)
        counted = (each - 1) * writers  # the first of each writer is not in the time
        return counted / seconds, cpu / counted * 1e6

    def bulk(self, task: str, jobs: int, **env: str) -> tuple[float, float]:
        """Enqueue by the thousand; jobs per second, and CPU time of a job in µs."""
        seconds, cpu = adapters.enqueue(self.peer, "bulk", task, [jobs], {**self.env, **env})
        return jobs / seconds, cpu / jobs * 1e6

    def put(self, task: str, jobs: int, **env: str) -> None:
        """Enqueue the fastest way."""
        adapters.enqueue(self.peer, "bulk" if self.about["bulk"] else "one", task, [jobs], {**self.env, **env})

    def enqueue(self, task: str, jobs: int, **env: str) -> None:
        """The same while there is no worker: see that they all wait."""
        self.put(task, jobs, **env)
        self.expect("waiting", jobs)

    def fill(
        self, finished: int = 0, waiting: int = 0, scheduled: int = 0, for_slots: int = 0, for_a_job: int = 0
    ) -> None:
        """``for_slots`` and ``for_a_job`` are jobs that wait and go on waiting; those for slots need the limits."""
        adapters.call(self.peer, "fill", finished, waiting, scheduled, for_slots, for_a_job, env=self.env)

    def with_limits(self) -> None:
        """From now on the layers that limit are around the jobs, and there are tasks that have limits."""
        self.env["BENCHMARK_LAYERS"] = "limits"

    def workers(self, count: int = 1, url: str | None = None, **env: str) -> Workers:
        """So many worker processes, by a supervisor where the queue has one."""
        env = {**self.env, **env} | ({"BENCHMARK_URL": url} if url else {})
        if self.about["starts_processes"]:
            return Workers(self.peer, {**env, "BENCHMARK_PROCESSES": str(count)})
        return Workers(self.peer, env, count)

    def count(self, what: str) -> int:
        with self.database.watch() as look:
            return look(self.about[what])

    def expect(self, what: str, jobs: int) -> None:
        if (found := self.count(what)) != jobs:
            raise Failed(f"{found} jobs are {what}, not {jobs}")
