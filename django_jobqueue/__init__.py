"""django-jobqueue: the database job queue for Django."""

from .exceptions import Fail, Retry, Skip, Snooze
from .task import enqueue_many, task

__all__ = ["Fail", "Retry", "Skip", "Snooze", "enqueue_many", "task"]

__version__ = "0.1.0"
