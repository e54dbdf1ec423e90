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

from . import waiting
from .claim import QueueSelector, claim, in_order, lanes_in_order, next_due, peek, promote, release
from .control import Cancelled, cancel, pause, resume, retry, run_now
from .enqueue import enqueue
from .finish import Run, finish
from .lease import give_up, register, renew, sign_off
from .progress import Progress, report
from .prune import Pruner, prune
from .reap import reap

__all__ = [
    "Cancelled",
    "Progress",
    "Pruner",
    "QueueSelector",
    "Run",
    "cancel",
    "claim",
    "enqueue",
    "finish",
    "give_up",
    "in_order",
    "lanes_in_order",
    "next_due",
    "pause",
    "peek",
    "promote",
    "prune",
    "reap",
    "register",
    "release",
    "renew",
    "report",
    "resume",
    "retry",
    "run_now",
    "sign_off",
    "waiting",
]
