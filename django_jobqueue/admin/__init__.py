"""Django's admin: what an operator sees of the jobs, and what he can do to them."""

from .batches import BatchAdmin
from .jobs import JobAdmin
from .pauses import PauseAdmin
from .queues import QueueAdmin
from .schedules import ScheduleAdmin
from .workers import WorkerAdmin

__all__ = ["BatchAdmin", "JobAdmin", "PauseAdmin", "QueueAdmin", "ScheduleAdmin", "WorkerAdmin"]
