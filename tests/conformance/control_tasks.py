"""Tasks that steer their job; only for subjects that promise "cancel"."""

from __future__ import annotations

from django_jobqueue import Fail, Skip, Snooze, task


@task
def skip():
    raise Skip("not needed")


@task(max_attempts=5)
def give_up():
    raise Fail("hopeless")


@task
def snooze():
    raise Snooze(3600)
