"""What can happen to a job: one verb, one file.

                    ┌──────────────── retry, snooze, interrupted, lost (finish, reap) ───────────────┐
                    ▼                                                                                │
enqueue ──▶ READY, scheduled ──promote──▶ READY, in line ──claim──▶ RUNNING ──finish──▶ SUCCESSFUL   │
                    │                          │                       │ └────finish──▶ FAILED       │
                    └───────── cancel ─────────┴──▶ CANCELLED ◀────────┘                             │
                                                        │   retry (control)                          │
                                                        └─────────────────▶ READY, in line           │
                                                                       RUNNING ─────────────────────┘
WAITING, for other jobs ──follow_up──▶ READY, or CANCELLED or FAILED if they have not succeeded
WAITING, for a slot of its concurrency key ──admit──▶ READY, in line; so do jobs of such a key come in line everywhere
"""

from . import waiting
from .admit import admit, waiting_keys
from .batch import cancel_batch, retry_batch
from .claim import (
    QueueSelector,
    attach_past_attempts,
    claim,
    in_order,
    lanes_in_order,
    next_due,
    peek,
    promote,
    release,
)
from .compose import enqueue_batch, enqueue_behind, enqueue_beside
from .control import Cancelled, cancel, move, reschedule, retry, retry_all, run_now, set_priority
from .enqueue import enqueue, together
from .finish import Run, finish
from .follow import find_strays, follow_up
from .lease import give_up, register, renew, sign_off
from .pauses import pause, paused_tasks, resume, return_held
from .progress import Progress, report
from .prune import Pruner, prune
from .put_back import Retried
from .reap import reap
from .schedule import fire, pause_schedule, resume_schedule, retime_schedule, run_schedule_now, upcoming
from .synchronise import synchronise

__all__ = [
    "Cancelled",
    "Progress",
    "Pruner",
    "QueueSelector",
    "Retried",
    "Run",
    "admit",
    "attach_past_attempts",
    "cancel",
    "cancel_batch",
    "claim",
    "enqueue",
    "enqueue_batch",
    "enqueue_behind",
    "enqueue_beside",
    "find_strays",
    "finish",
    "fire",
    "follow_up",
    "give_up",
    "in_order",
    "lanes_in_order",
    "move",
    "next_due",
    "pause",
    "pause_schedule",
    "paused_tasks",
    "peek",
    "promote",
    "prune",
    "reap",
    "register",
    "release",
    "renew",
    "report",
    "reschedule",
    "resume",
    "resume_schedule",
    "retime_schedule",
    "retry",
    "retry_all",
    "retry_batch",
    "return_held",
    "run_now",
    "run_schedule_now",
    "set_priority",
    "sign_off",
    "synchronise",
    "together",
    "upcoming",
    "waiting",
    "waiting_keys",
]
