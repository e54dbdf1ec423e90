"""What ``@task`` and functions of one's own take."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, assert_type

from django_jobqueue import task
from django_jobqueue.backoff import Exponential
from django_jobqueue.task import JobTask

from .declared import fetch, measure, repeat


@task(
    backoff=Exponential(2.0),
    retry_on=[OSError],
    give_up_on=(PermissionError,),
    unique="word-{word}",
    unique_until=timedelta(hours=1),
    on_conflict="debounce",
    max_debounce=60,
    keep={"SUCCESSFUL": timedelta(days=1), "FAILED": None},
    concurrency=3,  # an option of a layer: any value may be right
)
def with_options(word: str) -> None: ...


def function(word: str) -> str:
    return word


task(function).enqueue("a")
task(max_attempts=3)(function).enqueue("a")
with_context = task(takes_context=True)
task("name")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
task(max_attempts="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
task(retry_on=OSError)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
task(on_conflict="wait")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
with_context(lambda: None)  # type: ignore[arg-type, misc]  # pyright: ignore[reportCallIssue, reportArgumentType]


def download(by: JobTask[[str], bytes]) -> bytes:
    by.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    result = by.enqueue("a")
    assert_type(result.return_value, bytes)
    return result.get()


download(fetch)
download(repeat)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
download(measure)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def any_task(given: JobTask[..., Any]) -> None:
    given.enqueue(1, anything="a")


any_task(fetch)
any_task(measure)
