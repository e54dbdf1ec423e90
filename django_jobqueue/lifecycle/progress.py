"""Progress: write down how far running jobs say they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ..dialects import get_dialect
from ..logs import get_logger
from ..models import Job
from .parts import in_parts

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a running job says of itself; ``fence`` is its attempt's."""

    id: int
    fence: int
    done: float
    total: float | None = None
    message: str = ""

    @property
    def data(self) -> dict[str, Any]:
        return {"done": self.done, "total": self.total, "message": self.message}


def report(news: Collection[Progress], using: str) -> int:
    """Write the latest of each job; how many were still ours: a lost attempt writes nothing."""
    ordered = sorted(news, key=lambda progress: progress.id)  # two writers never deadlock

    def write(some: Sequence[Progress]) -> int:
        jobs = Job.objects.using(using)

        def update() -> int:
            return sum(jobs.filter(pk=one.id, fence=one.fence).update(progress=one.data) for one in some)

        return get_dialect(using).transact(update)

    return sum(in_parts(ordered, write, using, _pass_over)) if ordered else 0


def _pass_over(one: Progress, error: Exception) -> int:
    logger.warning("The progress of job #%s cannot be stored: %s", one.id, str(error).strip())
    return 0
