"""The rows. They know no verbs: what can happen to a job stands in ``lifecycle``."""

from .attempt import Attempt
from .batch import Batch, Dependency
from .job import Job
from .limit import Limit, Permit
from .pause import Pause
from .queue import Queue
from .schedule import Schedule
from .unique_key import UniqueKey
from .worker import Worker

__all__ = [
    "Attempt",
    "Batch",
    "Dependency",
    "Job",
    "Limit",
    "Pause",
    "Permit",
    "Queue",
    "Schedule",
    "UniqueKey",
    "Worker",
]
