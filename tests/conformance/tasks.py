"""Tasks for the suite, declared with the framework's own decorator: nothing here is particular to a backend."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from datetime import UTC, datetime
from types import MappingProxyType

from django.db import connection, transaction

from .framework import Task, task

#: What the tasks write down when they run, for the tests that count or order runs.
CALLS: list = []


class OwnError(Exception):
    """An error that is importable from here."""


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def local_error():
    class LocalError(Exception):
        pass

    return LocalError("from inside a function")


def chained_error():
    try:
        raise KeyError("the cause")
    except KeyError as cause:
        error = OwnError("the effect")
        error.__cause__ = cause
        return error


ERRORS = {
    "ValueError": lambda: ValueError("no such order"),
    "OwnError": lambda: OwnError("ours"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "CancelledError": asyncio.CancelledError,
    "StopIteration": lambda: StopIteration("over"),
    "StopAsyncIteration": lambda: StopAsyncIteration("over"),
    "ExceptionGroup": lambda: ExceptionGroup("two", [ValueError("one"), OwnError("other")]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("two", [KeyboardInterrupt(), ValueError("other")]),
    "local class": local_error,
    "silent": SilentError,
    "chained": chained_error,
    "NUL": lambda: ValueError("a\x00b"),
    "lone surrogate": lambda: ValueError("a\ud800b"),
    "long": lambda: ValueError("x" * 200_000),
}


def circle():
    value = []
    value.append(value)
    return value


RESULTS = {
    "none": lambda: None,
    "false": lambda: False,
    "tuple": lambda: (1, (2, 3)),
    "bytes": lambda: b"text",
    "int keys": lambda: {1: {2: 3}},
    "mapping": lambda: MappingProxyType(OrderedDict(a=1)),
    "text": lambda: "Grüße 🎉 \u2028",
    "large": lambda: "x" * 1_000_000,
    # What no database takes as JSON:
    "nan": lambda: float("nan"),
    "infinity": lambda: [float("inf")],
    "nul": lambda: {"a": "a\x00b"},
    "nul in a key": lambda: {"a\x00b": 1},
    "lone surrogate": lambda: ["\ud800"],
    "object": object,
    "datetime": lambda: datetime(2026, 1, 1, tzinfo=UTC),
    "set": lambda: {1, 2},
    "bad bytes": lambda: b"\xff",
    "circle": circle,
}


@task
def add(a, b=0):
    CALLS.append((a, b))
    return a + b


@task
def other(a, b=0):
    return None


@task
def record(name):
    CALLS.append(name)


@task
def echo(*args, **kwargs):
    return {"args": args, "kwargs": kwargs}


@task
def spell(*args, **kwargs):
    """Say in Python's words what arrived: on the way back, JSON would blur the difference."""
    return repr((list(args), kwargs))


@task
def give(kind):
    CALLS.append(kind)
    return RESULTS[kind]()


@task
def throw(kind):
    CALLS.append(kind)
    raise ERRORS[kind]()


@task
def recurse():
    return recurse.func()


@task
def enqueue_another(name):
    return record.enqueue(name).id


@task
def query():
    """Use the database the plain way; Django forbids that in a thread with a running event loop."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 42")
        return cursor.fetchone()[0]


@task
def broken_transaction():
    """Fail inside a transaction, on its statement: what follows must not be written in the same one."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT no_such_column")


@task
def open_transaction():
    """Leave the connection as careless code does: a transaction begun by hand, and not ended."""
    transaction.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


@task(takes_context=True)
def describe(context, word):
    result = context.task_result
    facts = {
        "word": word,
        "attempt": context.attempt,
        "id": result.id,
        "status": str(result.status),
        "attempts": result.attempts,
        "worker_ids": list(result.worker_ids),
        "started": result.started_at is not None,
        "finished": result.finished_at is not None,
        "args": list(result.args),
        "class": [kind.__name__ for kind in type(context).__mro__],
    }
    return json.loads(json.dumps(facts))


@task(takes_context=True)
def look_oneself_up(context):
    result = context.task_result
    result.refresh()
    return {
        "status": str(result.status),
        "attempts": result.attempts,
        "started": result.started_at is not None,
        "finished": result.finished_at is not None,
    }


def plain(word):
    CALLS.append(word)
    return word.upper()


#: The framework's own class, not the backend's: what a third party declares for another backend. All fields are
#: given, as Django 6.0 wants it.
plain = Task(func=plain, priority=0, backend="default", queue_name="default", run_after=None)


def not_a_task(word):
    CALLS.append(word)
