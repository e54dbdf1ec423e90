"""Progress: write down how far running jobs say they are."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ..dialects import get_dialect
from ..models import Job


@dataclass(frozen=True, slots=True)
class Progress:
    """What a running job says of itself; ``token`` is its attempt's fence."""

    id: int
    token: int
    done: float
    total: float | None = None
    message: str = ""

    @property
    def data(self) -> dict[str, Any]:
        return {"done": self.done, "total": self.total, "message": self.message}


def report(news: Collection[Progress], using: str) -> int:
    """Write the latest of each job; how many were still ours: a lost attempt writes nothing."""
    ordered = sorted(news, key=lambda progress: progress.id)  # two writers never deadlock

    def write() -> int:
        jobs = Job.objects.using(using)
        return sum(jobs.filter(pk=one.id, token=one.token).update(progress=one.data) for one in ordered)

    return get_dialect(using).transact(write) if ordered else 0
