"""django-jobqueue: the database job queue for Django."""

from .exceptions import Fail, Retry, Skip, Snooze
from .schedules import cron, every
from .task import enqueue_many, task

__all__ = ["Fail", "Retry", "Skip", "Snooze", "cron", "enqueue_many", "every", "task"]

__version__ = "0.1.0"
