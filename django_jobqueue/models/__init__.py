"""The rows. They know no verbs: what can happen to a job stands in ``lifecycle``."""

from .attempt import Attempt
from .job import Job
from .limit import Limit, Permit
from .pause import Pause
from .queue import Queue
from .worker import Worker

__all__ = ["Attempt", "Job", "Limit", "Pause", "Permit", "Queue", "Worker"]
