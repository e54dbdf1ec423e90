"""The tasks, declared with Django's own decorator; import it after ``django_setup``."""

import common
from django.tasks import task


@task
def noop(n):
    return None


@task
def stamp(n):
    common.stamp_now(n)


@task
def burn(n):
    common.burn()


TASKS = {"noop": noop, "stamp": stamp, "burn": burn}
