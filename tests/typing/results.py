"""A result knows what its task returns."""

from __future__ import annotations

from typing import Any, assert_type

from django_jobqueue.compat import TaskResultStatus

from .declared import drop, fetch, fetch_slowly, measure, repeat, report, visit, whatever


def sync_tasks() -> None:
    result = repeat.enqueue("a")
    assert_type(result.return_value, str)
    assert_type(result.get(), str)
    assert_type(result.get(timeout=5), str)
    assert_type(result.id, str)
    assert_type(result.status, TaskResultStatus)
    assert_type(result.attempts, int)
    assert_type(measure.enqueue("a", limit=1).return_value, float)
    assert_type(report.enqueue(1).return_value, bool)
    assert_type(whatever.enqueue().return_value, Any)
    assert_type(drop.enqueue().return_value, None)
    result.get("5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    result.return_value + 1  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]


def async_tasks() -> None:
    """Their result is what the coroutine returns, not the coroutine."""
    assert_type(fetch.enqueue("a").return_value, bytes)
    assert_type(fetch_slowly.enqueue("a").get(5), bytes)
    assert_type(visit.enqueue("a").return_value, int)


async def in_coroutines() -> None:
    result = await fetch.aenqueue("a")
    assert_type(result.return_value, bytes)
    assert_type(await result.aget(5), bytes)
    assert_type((await repeat.aenqueue("a")).return_value, str)
    assert_type(await (await repeat.aenqueue("a")).aget(), str)
    result.return_value + "a"  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]


async def later() -> None:
    assert_type(repeat.get_result("1").return_value, str)
    assert_type((await fetch.aget_result("1")).return_value, bytes)
    assert_type(fetch.using(priority=1).enqueue("a").return_value, bytes)


async def called_here() -> None:
    assert_type(repeat.call("a"), str)
    assert_type(fetch.call("a"), bytes)
    assert_type(await fetch.acall("a"), bytes)
    assert_type(await fetch.func("a"), Any)  # the function itself, whose coroutine must be awaited
