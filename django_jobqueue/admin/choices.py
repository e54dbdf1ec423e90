"""What the pages of one request have in common, read once: the known queues, and what the newest jobs are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from django.db.models import F

from ..models import Job, Queue
from .base import database

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from django.http import HttpRequest

#: The tasks and queues of this many newest jobs are offered as choices.
RECENT = 1000
#: More choices than this help nobody.
CHOICES = 100

T = TypeVar("T")


def recent(request: HttpRequest) -> set[tuple[str, str]]:
    """Task and queue of the newest jobs."""
    newest = Job.objects.using(database()).order_by("-id").values_list("task_path", "queue_name")[:RECENT]
    return _once(request, "recent", lambda: set(newest))


def known_queues(request: HttpRequest) -> dict[str, datetime | None]:
    """Since when each queue that workers have met is paused; the paused ones first."""
    queues = Queue.objects.using(database()).order_by(F("paused_at").asc(nulls_last=True), "name")
    return _once(request, "queues", lambda: dict(queues.values_list("name", "paused_at")[:CHOICES]))


def _once(request: Any, name: str, read: Callable[[], T]) -> T:
    cache = request.__dict__.setdefault("_jobqueue", {})
    if name not in cache:
        cache[name] = read()
    return cache[name]  # type: ignore[no-any-return]
