"""django-jobqueue: the database job queue for Django."""

from .composition import chain, enqueue_beside, group
from .exceptions import Fail, Retry, Skip, Snooze
from .schedules import cron, every
from .task import enqueue_many, task

__all__ = [
    "Fail",
    "Retry",
    "Skip",
    "Snooze",
    "chain",
    "cron",
    "enqueue_beside",
    "enqueue_many",
    "every",
    "group",
    "task",
]

__version__ = "0.1.0"
