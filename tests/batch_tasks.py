"""Tasks that are done one after another, and side by side."""

from __future__ import annotations

from django_jobqueue import Fail, enqueue_beside, task


@task
def one() -> int:
    return 1


@task
def add(number: int, more: int = 1) -> int:
    return number + more


@task
async def aadd(number: int, more: int = 1) -> int:
    return number + more


@task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@task
def show(*args, **kwargs) -> list:
    return [list(args), kwargs]


@task
def fails(*args) -> None:
    raise Fail("no")


@task
def nothing() -> None:
    pass


@task
def splits(*args) -> str:
    """Finds more work while it runs."""
    enqueue_beside([add.si(10), add.si(20)])
    return "split"
