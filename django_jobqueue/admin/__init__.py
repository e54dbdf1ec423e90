"""Django's admin: what an operator sees of the jobs, and what he can do to them."""

from .jobs import JobAdmin
from .pauses import PauseAdmin
from .queues import QueueAdmin
from .workers import WorkerAdmin

__all__ = ["JobAdmin", "PauseAdmin", "QueueAdmin", "WorkerAdmin"]
