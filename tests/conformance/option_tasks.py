"""Tasks with our options; only for subjects that promise "options"."""

from __future__ import annotations

from django_jobqueue import task as our_task

from . import tasks
from .framework import DECORATOR_TAKES_OPTIONS, task

#: Every spelling of the decorator that takes our options here: ours always, the framework's own from Django 6.1 on.
DECORATORS = {"ours": our_task} | ({"framework": task} if DECORATOR_TAKES_OPTIONS else {})


@our_task(max_attempts=3, backoff=0, takes_context=True)
def third_time_lucky(context):
    tasks.CALLS.append(context.attempt)
    if context.attempt < 3:
        raise tasks.OwnError(f"attempt {context.attempt}")
    return context.attempt


@our_task(max_attempts=3, backoff=0)
def never_lucky():
    tasks.CALLS.append("try")
    raise tasks.OwnError("again")


@our_task(max_attempts=2, backoff=3600)
def much_later():
    raise tasks.OwnError("not now")


@our_task(max_attempts=3, backoff=0)
def give(kind):
    return tasks.give.func(kind)


@our_task(max_attempts=3, backoff=0)
def throw(kind):
    return tasks.throw.func(kind)


if DECORATOR_TAKES_OPTIONS:

    @task(max_attempts=2, backoff=0)
    def by_the_framework():
        tasks.CALLS.append("try")
        raise tasks.OwnError("again")
