"""Tasks under limits and with callbacks, for worker processes that die in the midst of it."""

import os
import signal
import time
from pathlib import Path

from django_jobqueue import task
from django_jobqueue.middleware import Middleware
from django_jobqueue.middleware.callbacks import Callbacks
from django_jobqueue.middleware.concurrency import Concurrency
from django_jobqueue.middleware.rate_limit import RateLimit
from django_jobqueue.models import Job

from .tasks import note

SLOTS, STARTS = 3, 6
TENANTS, TENANT_SLOTS, LINES = 40, 2, 10


@task(takes_context=True, middleware=[Concurrency], concurrency=SLOTS, concurrency_key="crew")
def crowded(context, seconds):
    note(context, "start")
    time.sleep(seconds)
    note(context, "end")


@task(takes_context=True, middleware=[Concurrency], concurrency=TENANT_SLOTS, concurrency_key="tenant-{number}")
def of_tenant(context, number):
    note(context, "start")
    note(context, "end")


@task(takes_context=True, middleware=[Concurrency], in_order=True, concurrency_key="line-{number}")
async def in_turn(context, number):
    note(context, "start")
    note(context, "end")


@task(takes_context=True, middleware=[RateLimit], rate_limit=f"{STARTS}/s")
def paced(context):
    note(context, "start")


class KillsItself(Middleware):
    """The first time, when the outcome and its callback have been written and are not yet committed."""

    def process_complete(self, context, outcome, call_next):
        call_next()
        flag = Path(os.environ["JOURNEY_JOURNAL"] + ".killed")
        if not flag.exists():
            assert Job.objects.filter(task_path=followed.module_path).count() == 1
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@task(takes_context=True)
def followed(context, job_id, result):
    note(context, "followed")


@task(takes_context=True, middleware=[KillsItself, Callbacks], on_success=followed)
def leads(context):
    note(context, "start")
    return 42
