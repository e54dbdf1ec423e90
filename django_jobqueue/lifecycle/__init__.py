"""What can happen to a job: one verb, one file.

                    ┌──────────────── retry, snooze, interrupted, lost (finish, reap) ───────────────┐
                    ▼                                                                                │
enqueue ──▶ READY, scheduled ──promote──▶ READY, in line ──claim──▶ RUNNING ──finish──▶ SUCCESSFUL   │
                    │                          │                       │ └────finish──▶ FAILED       │
                    └───────── cancel ─────────┴──▶ CANCELLED ◀────────┘                             │
                                                        │   retry (control)                          │
                                                        └─────────────────▶ READY, in line           │
                                                                       RUNNING ─────────────────────┘
"""

from .claim import QueueSelector, claim, in_order, lanes_in_order, next_due, peek, promote, release
from .control import Cancelled, cancel, move, reprioritise, reschedule, retry, run_now
from .enqueue import enqueue
from .finish import Run, finish
from .lease import give_up, register, renew, sign_off
from .pauses import pause, paused_tasks, resume, return_held
from .progress import Progress, report
from .prune import prune
from .reap import reap

__all__ = [
    "Cancelled",
    "Progress",
    "QueueSelector",
    "Run",
    "cancel",
    "claim",
    "enqueue",
    "finish",
    "give_up",
    "in_order",
    "lanes_in_order",
    "move",
    "next_due",
    "pause",
    "paused_tasks",
    "peek",
    "promote",
    "prune",
    "reap",
    "register",
    "release",
    "renew",
    "report",
    "reprioritise",
    "reschedule",
    "resume",
    "retry",
    "return_held",
    "run_now",
    "sign_off",
]
