"""What operators do to jobs, batches, queues and schedules, for code of your own: management commands, views, scripts.

The admin and ``manage.py jobqueue`` call the same functions. Each may be called beside running workers. ``using`` is
the alias of the jobs' database; None is the database that a queryset was given with ``.using()``, else that of your
backend in ``TASKS``.
"""

from .lifecycle.batch import cancel_batch, retry_batch
from .lifecycle.control import Cancelled, cancel, move, reschedule, retry, retry_all, run_now, set_priority
from .lifecycle.pauses import pause, resume
from .lifecycle.prune import prune
from .lifecycle.put_back import Retried
from .lifecycle.schedule import pause_schedule, resume_schedule, retime_schedule, run_schedule_now

__all__ = [
    "Cancelled",
    "Retried",
    "cancel",
    "cancel_batch",
    "move",
    "pause",
    "pause_schedule",
    "prune",
    "reschedule",
    "resume",
    "resume_schedule",
    "retime_schedule",
    "retry",
    "retry_all",
    "retry_batch",
    "run_now",
    "run_schedule_now",
    "set_priority",
]
