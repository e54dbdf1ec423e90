"""What a cell is: one question, and the figures that answer it."""

from __future__ import annotations

import abc
from dataclasses import dataclass

from benchmarks.drains import Figures
from benchmarks.entrants import OURS, Entrant

#: The queue that ours is set against: the fastest of the others.
RIVAL = "pgqueuer"
#: Instead of a queue: that of the others which does best in the column, the floor left out.
BEST = "best"


@dataclass(frozen=True)
class Column:
    name: str
    form: str = "{:,.0f}"
    #: Is it what the cell is about? Then the tables show its spread.
    is_main: bool = True
    #: The title of its part of the chart, if it has one.
    chart: str = ""
    #: What the chart says of a queue that has no figure.
    missing: str = "not measured"
    #: Is less of it better?
    less: bool = False
    #: For a ratio: the column that is divided, and the peer by whose value on the same database; or BEST.
    of: str = ""
    by: str = ""


class Cell(abc.ABC):
    name: str
    sentence: str
    columns: tuple[Column, ...]
    #: Is it measured if nobody says which cells?
    is_quick = False

    def suits(self, entrant: Entrant) -> bool:
        """Is there anything to measure of this entrant?"""
        return True

    @abc.abstractmethod
    def measure(self, entrant: Entrant) -> Figures:
        """The figures of one round; raise ``Failed`` if the peer does not do what is measured."""


class OnlyOurs(Cell):
    """Needs tables filled in a way that only our adapter has."""

    def suits(self, entrant: Entrant) -> bool:
        return entrant.peer == OURS and entrant.about["fill"]
