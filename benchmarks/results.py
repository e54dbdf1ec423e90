"""What was measured: every figure of every round, as one list that goes into JSON and comes back."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .drains import Figures
from .entrants import database_of


def _place(measure: dict[str, Any]) -> tuple[str, str]:
    """The cell, and the database of the entrant."""
    return measure["cell"], database_of(measure["entrant"])


@dataclass(frozen=True)
class Value:
    """The median of the rounds, and the rounds that lie farthest from it."""

    median: float
    least: float
    most: float


@dataclass
class Results:
    about: dict[str, Any] = field(default_factory=dict)
    #: What each entrant says of itself, by its name.
    entrants: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: One for each measure: round, cell, entrant, and either figures or an error.
    measures: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def new(cls, options: dict[str, Any]) -> Results:
        machine = {"python": platform.python_version(), "system": platform.platform(), "cpus": os.cpu_count()}
        return cls({**machine, **options})

    @classmethod
    def read(cls, paths: Iterable[Path]) -> Results:
        """The results of several runs as if they were one. A cell counts, for each database, only where it was measured
        last: what stands beside each other in a picture comes from one run.
        """
        together = cls()
        for path in paths:
            one = cls(**json.loads(path.read_text()))
            together.about = one.about
            together.entrants |= one.entrants
            newer = {_place(measure) for measure in one.measures}
            together.measures = [measure for measure in together.measures if _place(measure) not in newer]
            together.measures += one.measures
        return together

    def write(self, path: Path) -> None:
        report = {"about": self.about, "entrants": self.entrants, "measures": self.measures}
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")

    def add(self, number: int, cell: str, entrant: str, **found: Figures | str) -> None:
        self.measures.append({"round": number, "cell": cell, "entrant": entrant, **found})

    def has_failed(self, cell: str, entrant: str) -> bool:
        return any("error" in measure for measure in self._of(cell, entrant))

    def _of(self, cell: str, entrant: str) -> list[dict[str, Any]]:
        return [measure for measure in self.measures if (measure["cell"], measure["entrant"]) == (cell, entrant)]

    def cells(self) -> set[str]:
        return {measure["cell"] for measure in self.measures}

    def value(self, cell: str, entrant: str, column: str) -> Value | None:
        rounds = [measure.get("figures", {}) for measure in self._of(cell, entrant)]
        values = [figures[column] for figures in rounds if column in figures]
        return Value(statistics.median(values), min(values), max(values)) if values else None

    def ratio(self, cell: str, entrant: str, column: str, base: str) -> Value | None:
        """The median of one entrant over that of another."""
        value, by = self.value(cell, entrant, column), self.value(cell, base, column)
        if value is None or by is None or not by.median:
            return None
        return Value(*(figure / by.median for figure in (value.median, value.least, value.most)))

    def ranking(self, cell: str, column: str, *, less: bool) -> list[tuple[str, Value]]:
        """The entrants that have a value there, best first."""
        values = [(name, self.value(cell, name, column)) for name in self.entrants]
        found = [(name, value) for name, value in values if value is not None]
        return sorted(found, key=lambda one: one[1].median, reverse=not less)
