"""Calls that are not enqueued yet, and what many of them become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_type

from django_jobqueue import chain, enqueue_beside, enqueue_many, group
from django_jobqueue.composition import Enqueued
from django_jobqueue.results import JobResult
from django_jobqueue.task import Call

from .declared import fetch, measure, repeat


def calls() -> None:
    assert_type(repeat.s("a"), Call)
    assert_type(repeat.s(), Call)  # the word is the result of what comes before
    assert_type(repeat.si("a", times=3), Call)
    repeat.si()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    repeat.si(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    measure.using(priority=1).si("a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def many() -> None:
    results = enqueue_many([repeat.s("a"), fetch.s("b"), measure.si("c", limit=1)])
    assert_type(results, Sequence[JobResult[..., Any]])
    assert_type(results[0].get(5), Any)
    enqueue_many(repeat.s(word) for word in ("a", "b"))
    enqueue_many([repeat])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    enqueue_many([repeat.enqueue("a")])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    enqueue_many(repeat.s("a"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def composed() -> None:
    steps = chain(fetch.s("a"), repeat.s(), name="fetch")
    assert_type(steps, chain)
    assert_type(steps.enqueue(), Enqueued)
    assert_type(steps.enqueue()[-1], JobResult[..., Any])
    assert_type(steps.enqueue()[-1].get(5), Any)
    assert_type(steps.enqueue().batch_id, int | None)
    assert_type(group(fetch.s("a"), steps).then(repeat.s()), chain)
    assert_type(group(fetch.s("a")).on_failure(repeat.si("a")), group)
    assert_type(steps.finally_(repeat.si("a")), chain)
    chain(fetch)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    group(fetch.enqueue("a"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    steps.on_failure(steps)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def beside() -> None:
    assert_type(enqueue_beside([repeat.s("a")]), Sequence[JobResult[..., Any]])
    enqueue_beside(repeat.s("a"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def in_coroutines() -> None:
    assert_type(await chain(fetch.s("a"), repeat.s()).aenqueue(), Enqueued)
