"""The tasks, declared with Django's own decorator; import it after ``django_setup``."""

import common
from django.tasks import task
from shop import work


@task
def noop(n):
    return None


@task
def stamp(n):
    common.stamp_now(n)


@task
def burn(n):
    common.burn()


@task
def fail(n):
    common.fail(n)


@task
def select(n):
    work.select(n)


@task
def orm(n):
    work.orm(n)


@task
async def aselect(n):
    await work.aselect(n)


@task
async def aorm(n):
    await work.aorm(n)


TASKS = {task.func.__name__: task for task in (noop, stamp, burn, fail, select, orm, aselect, aorm)}
