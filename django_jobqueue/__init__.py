"""django-jobqueue: the database job queue for Django."""

from .composition import chain, enqueue_beside, group
from .exceptions import Fail, Retry, Skip, Snooze
from .task import enqueue_many, task

__all__ = ["Fail", "Retry", "Skip", "Snooze", "chain", "enqueue_beside", "enqueue_many", "group", "task"]

__version__ = "0.1.0"
