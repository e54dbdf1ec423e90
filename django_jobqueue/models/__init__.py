"""The rows. They know no verbs: what can happen to a job stands in ``lifecycle``."""

from .attempt import Attempt
from .job import Job
from .limit import Limit, Permit
from .queue import Queue
from .unique_key import UniqueKey
from .worker import Worker

__all__ = ["Attempt", "Job", "Limit", "Permit", "Queue", "UniqueKey", "Worker"]
