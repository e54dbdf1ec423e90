"""Steps of chains and members of groups, for worker processes."""

from __future__ import annotations

import time

from django_jobqueue import enqueue_beside, task

from .tasks import note


@task(takes_context=True)
def first(context, number: int) -> list[int]:
    note(context, "start")
    time.sleep(0.002 * (number % 4))
    return [number]


@task(takes_context=True)
def link(context, so_far: list[int], number: int) -> list[int]:
    note(context, "start")
    time.sleep(0.002 * (number % 3))
    return [*so_far, number]


@task(takes_context=True)
async def alink(context, so_far: list[int], number: int) -> list[int]:
    note(context, "start")
    return [*so_far, number]


@task(takes_context=True)
def member(context, number: int) -> int:
    note(context, "start")
    return number


@task(takes_context=True)
def gather(context, numbers: list[int]) -> int:
    note(context, "start")
    return sum(numbers)


@task(takes_context=True)
def grow(context, depth: int) -> int:
    note(context, "start")
    if depth:
        enqueue_beside([grow.si(depth - 1), grow.si(depth - 1)])
    return 1


@task(takes_context=True)
def gather_lists(context, lists: list[list[int]]) -> list[list[int]]:
    note(context, "start")
    return lists
