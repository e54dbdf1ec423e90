"""The tasks of the other files."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django_jobqueue import task
from django_jobqueue.middleware import JobContext


@task
def repeat(word: str, times: int = 2) -> str:
    return word * times


@task(max_attempts=3, timeout=timedelta(seconds=30), expires=60)
def measure(word: str, *, limit: int) -> float:
    return min(len(word), limit)


@task
async def fetch(url: str) -> bytes:
    return url.encode()


@task(queue_name="slow")
async def fetch_slowly(url: str, *, tries: int = 1) -> bytes:
    return url.encode() * tries


@task(takes_context=True)
def report(context: JobContext, done: int) -> bool:
    return context.attempt == done


@task(takes_context=True, max_attempts=2)
async def visit(context: JobContext, url: str) -> int:
    return len(url) + context.attempt


@task
def drop() -> None:
    return None


@task
def whatever(*args: Any, **kwargs: Any) -> Any:
    return args or kwargs
