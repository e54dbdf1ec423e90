"""``enqueue``, ``aenqueue`` and their like take what the task's function takes."""

from __future__ import annotations

from datetime import datetime, timedelta

from django_jobqueue.middleware import JobContext

from .declared import drop, fetch, fetch_slowly, measure, repeat, report, visit, whatever


def enqueue() -> None:
    repeat.enqueue("a")
    repeat.enqueue("a", 3)
    repeat.enqueue(word="a", times=3)
    repeat.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    repeat.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    repeat.enqueue("a", "b")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    repeat.enqueue("a", 3, 4)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    repeat.enqueue("a", most=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    measure.enqueue("a", limit=1)
    measure.enqueue("a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    measure.enqueue("a", 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    drop.enqueue()
    drop.enqueue(None)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    whatever.enqueue(1, "a", anything=None)


def takes_context(context: JobContext) -> None:
    report.enqueue(1)
    report.enqueue(done=1)
    report.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    report.enqueue(context, 1)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    report.enqueue(done=1, context=context)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    report.using(priority=1).enqueue("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    visit.enqueue("a")
    visit.enqueue(context, "a")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]


def using() -> None:
    later = repeat.using(priority=5, queue_name="slow", run_after=timedelta(hours=1), timeout=3, expires=60)
    later.enqueue("a", times=3)
    later.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    later.using(run_after=datetime.now()).enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    repeat.using(priority="high")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    repeat.using(on_conflict="wait")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    measure.using(after=repeat.enqueue("a"), if_failed="run").enqueue("a", limit=1)


async def aenqueue(context: JobContext) -> None:
    await repeat.aenqueue("a", times=3)
    await repeat.aenqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await fetch.aenqueue("a")
    await fetch.aenqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await fetch_slowly.using(priority=1).aenqueue("a", tries=2)
    await fetch_slowly.aenqueue("a", 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await visit.aenqueue("a")
    await visit.aenqueue(context, "a")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]


def call() -> None:
    repeat.call("a", times=3)
    repeat.call(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
