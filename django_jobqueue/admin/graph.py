"""The picture of a batch: what comes after what. Where there are many jobs, those of one task that stand side by side
share a box.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..models import Dependency, Job
from .kinds import KINDS, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: A batch with more jobs is not drawn.
DRAWN = 3000
#: With more jobs, those of one task on one level share a box.
SINGLE = 24

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 184, 46, 48, 16, 8
#: Whichever of these is there decides the colour of a box with several jobs.
TELLING = ("failed", "running", "ready", "scheduled", "waiting", "cancelled", "successful")


@dataclass(slots=True)
class Box:
    level: int
    name: str
    jobs: list[Job] = field(default_factory=list)
    row: int = 0

    @property
    def x(self) -> int:
        return MARGIN + self.level * (WIDTH + GAP_X)

    @property
    def y(self) -> int:
        return MARGIN + self.row * (HEIGHT + GAP_Y)

    @property
    def text_x(self) -> int:
        return self.x + 14

    @property
    def title_y(self) -> int:
        return self.y + 19

    @property
    def state_y(self) -> int:
        return self.y + 36

    @property
    def title(self) -> str:
        name = self.name if len(self.name) <= 16 else f"{self.name[:15]}…"
        return f"{name} #{self.jobs[0].pk}" if len(self.jobs) == 1 else f"{name} × {len(self.jobs):,}"

    @property
    def counts(self) -> Counter[str]:
        return Counter(kind_of(job).word for job in self.jobs)

    @property
    def word(self) -> str:
        counts = self.counts
        return next(word for word in TELLING if counts[word])

    @property
    def state(self) -> str:
        counts = self.counts
        if len(self.jobs) == 1:
            return str(KINDS[self.word].label)
        return ", ".join(f"{counts[word]:,} {str(KINDS[word].label).lower()}" for word in TELLING if counts[word])[:34]

    @property
    def only(self) -> int | None:
        """The job, if it is only one."""
        return self.jobs[0].pk if len(self.jobs) == 1 else None


@dataclass(frozen=True, slots=True)
class Line:
    path: str


@dataclass(frozen=True, slots=True)
class Graph:
    boxes: Sequence[Box]
    lines: Sequence[Line]
    width: int
    height: int


def graph_of(jobs: Sequence[Job], using: str) -> Graph | None:
    """The picture; None if there is nothing to see, or too much."""
    if not 1 < len(jobs) <= DRAWN:
        return None
    edges = _edges([job.pk for job in jobs], using)
    if not edges:
        return None
    levels = _levels([job.pk for job in jobs], edges)
    boxes: dict[object, Box] = {}
    box_of: dict[int, Box] = {}
    for job in jobs:
        level = levels[job.pk]
        key: object = job.pk if len(jobs) <= SINGLE else (level, job.task_path)
        box = boxes.setdefault(key, Box(level, job.task_name))
        box.jobs.append(job)
        box_of[job.pk] = box
    _place(list(boxes.values()))
    pairs = {(id(box_of[on]), id(box_of[job])): (box_of[on], box_of[job]) for on, job in edges}
    width = max(box.x for box in boxes.values()) + WIDTH + MARGIN
    height = max(box.y for box in boxes.values()) + HEIGHT + MARGIN
    return Graph(list(boxes.values()), [_line(*pair) for pair in pairs.values()], width, height)


def _edges(ids: Sequence[int], using: str) -> list[tuple[int, int]]:
    """What waits for what, within these jobs."""
    known, found = set(ids), []
    for start in range(0, len(ids), 500):
        rows = Dependency.objects.using(using).filter(job__in=ids[start : start + 500])
        found += [(on, job) for on, job in rows.values_list("on_id", "job_id") if on in known]
    return found


def _levels(ids: Iterable[int], edges: Iterable[tuple[int, int]]) -> dict[int, int]:
    """How many come one after another before each. A job waits only for those with smaller numbers."""
    before: dict[int, list[int]] = {}
    for on, job in edges:
        before.setdefault(job, []).append(on)
    levels: dict[int, int] = {}
    for pk in sorted(ids):
        levels[pk] = max((levels.get(on, 0) + 1 for on in before.get(pk, ())), default=0)
    return levels


def _place(boxes: Iterable[Box]) -> None:
    rows: Counter[int] = Counter()
    for box in boxes:
        box.row = rows[box.level]
        rows[box.level] += 1


def _line(start: Box, end: Box) -> Line:
    x1, y1 = start.x + WIDTH, start.y + HEIGHT // 2
    x2, y2 = end.x, end.y + HEIGHT // 2
    middle = (x1 + x2) // 2
    return Line(f"M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}")
