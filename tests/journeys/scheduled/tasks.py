"""Tasks that workers enqueue by themselves."""

import time
from datetime import timedelta

from django_jobqueue import cron, every, task

SECOND = timedelta(seconds=1)


@task(schedule=every(SECOND, catch_up=1000))
def second():
    pass


@task(schedule=[cron("* * * * * *", catch_up=1000, name=f"cron {number}") for number in range(3)])
def by_the_clock():
    pass


@task(takes_context=True, schedule=every(SECOND, overlap="queue", name="one at a time"))
def long(context):
    time.sleep(1.5)
    return context.scheduled_for.isoformat()
