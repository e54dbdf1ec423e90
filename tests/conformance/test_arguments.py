"""Arguments: what reaches the task, and what is refused at enqueue."""

from __future__ import annotations

import enum
from datetime import UTC, date, datetime
from decimal import Decimal
from types import MappingProxyType
from uuid import UUID

import pytest
from django.db import connection, models, transaction

from . import tasks
from .marks import runs

needs_rows = pytest.mark.needs("rows")

NOT_STORABLE = {
    "nan": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "nul": "a\x00b",
    "lone surrogate": "a\ud800b",
    "nul in bytes": b"a\x00b",
    "nul in a key": {"a\x00b": 1},
    "lone surrogate in a key": {"\udfff": 1},
    "nan as a key": {float("nan"): 1},
}

NOT_SERIALISABLE = {
    "datetime": datetime(2026, 1, 1, tzinfo=UTC),
    "date": date(2026, 1, 1),
    "object": object(),
    "set": {1, 2},
    "decimal": Decimal("1.5"),
    "uuid": UUID(int=7),
    "complex": 1j,
    "function": len,
    "exception": ValueError("no"),
    "bad bytes": b"\xff",
    "tuple as a key": {(1, 2): 3},
}

REFUSED = NOT_STORABLE | NOT_SERIALISABLE


def params(values):
    return pytest.mark.parametrize("value", values.values(), ids=values.keys())


def nested(value):
    return {"outer": [1, {"inner": (value,)}]}


class Level(enum.IntEnum):
    HIGH = 3


class Colour(models.TextChoices):
    GREEN = "green"


# What is refused


@params(NOT_SERIALISABLE)
def test_trap_1_an_unserialisable_argument_is_refused_at_enqueue(value, db, calls):
    for bad in (value, nested(value)):
        with pytest.raises((TypeError, ValueError)):
            tasks.add.enqueue(1, bad)
        with pytest.raises((TypeError, ValueError)):
            tasks.add.enqueue(1, b=bad)
    assert calls == []


@needs_rows
@params(NOT_SERIALISABLE)
def test_trap_1_an_unserialisable_argument_leaves_no_row_and_sends_no_signal(value, rows, received):
    for args, kwargs in [((1, value), {}), ((1,), {"b": nested(value)})]:
        with pytest.raises((TypeError, ValueError)):
            tasks.add.enqueue(*args, **kwargs)
    assert rows.count() == 0
    assert received == []


@needs_rows
@params(NOT_STORABLE)
def test_trap_2_what_no_database_stores_is_refused_at_enqueue_and_leaves_no_row(value, rows, received):
    for args, kwargs in [((1, value), {}), ((1, nested(value)), {}), ((1,), {"b": value})]:
        with pytest.raises((TypeError, ValueError)):
            tasks.add.enqueue(*args, **kwargs)
    assert rows.count() == 0
    assert received == []


@needs_rows
def test_trap_2_nan_argument_is_refused_at_enqueue_and_leaves_no_row(rows):
    with pytest.raises((TypeError, ValueError)):
        tasks.add.enqueue(float("nan"))
    assert rows.count() == 0


@needs_rows
@params(REFUSED)
def test_trap_2_a_refused_argument_leaves_the_callers_transaction_usable(value, rows):
    with transaction.atomic():
        before = tasks.add.enqueue(1)
        with pytest.raises((TypeError, ValueError)):
            tasks.add.enqueue(1, value)
        after = tasks.add.enqueue(2)
        assert rows.count() == 2
    assert before.id != after.id


@needs_rows
def test_an_argument_that_contains_itself_is_refused_and_leaves_no_row(rows):
    with pytest.raises((ValueError, RecursionError)):
        tasks.add.enqueue(tasks.circle())
    assert rows.count() == 0


@needs_rows
def test_an_argument_nested_beyond_measure_is_refused_and_leaves_no_row(rows):
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises((ValueError, RecursionError)):
        tasks.add.enqueue(value)
    assert rows.count() == 0


@pytest.mark.needs("named arguments")
@params(REFUSED)
def test_the_refusal_names_the_argument(value, db):
    with pytest.raises((TypeError, ValueError), match="'b'"):
        tasks.add.enqueue(1, value)
    with pytest.raises((TypeError, ValueError), match="'b'"):
        tasks.add.enqueue(1, b=value)
    with pytest.raises((TypeError, ValueError), match="'word'"):
        tasks.describe.enqueue(nested(value))  # the context is no argument of the call
    with pytest.raises((TypeError, ValueError), match="'deadline'"):
        tasks.echo.enqueue(1, 2, deadline=nested(value))


@pytest.mark.needs("named arguments")
def test_the_refusal_counts_arguments_that_have_no_name(db):
    with pytest.raises(TypeError, match=r"\b2\b"):
        tasks.echo.enqueue(1, object())
    with pytest.raises(TypeError, match=r"\b1\b"):
        tasks.echo.enqueue(object(), key=1)


# What reaches the task


@pytest.fixture
def arrive(run):
    """Enqueue the call, let it run, and give the arguments as the task saw them, and the result."""

    def arrive(*args, **kwargs):
        result = run(tasks.spell, *args, **kwargs)
        assert result.errors == []
        return eval(result.return_value), result

    return arrive


@runs
@pytest.mark.needs("execution")
def test_trap_6_a_tuple_reaches_the_task_as_a_list(arrive):
    (args, kwargs), _ = arrive((1, (2, 3)), b=((4,), 5))
    assert args == [[1, [2, 3]]]
    assert kwargs == {"b": [[4], 5]}


@runs
@pytest.mark.needs("execution")
def test_trap_6_the_task_gets_the_arguments_that_the_result_shows(arrive):
    (args, kwargs), result = arrive((1, 2), b=[3], c=MappingProxyType({"d": (4,)}))
    assert args == result.args == [[1, 2]]
    assert kwargs == result.kwargs == {"b": [3], "c": {"d": [4]}}


@runs
@pytest.mark.needs("execution")
def test_bytes_reach_the_task_as_text(arrive):
    (args, kwargs), result = arrive("Grüße".encode(), b=[b"x"])
    assert args == result.args == ["Grüße"]
    assert kwargs == {"b": ["x"]}


@runs
@pytest.mark.needs("execution", "results")
def test_trap_7_an_int_key_reaches_the_task_as_text(arrive):
    (args, kwargs), result = arrive({1: {2: 3}}, b={4: 5})
    assert args == result.args == [{"1": {"2": 3}}]
    assert kwargs == result.kwargs == {"b": {"4": 5}}


PLAIN = [None, True, False, 0, -1, 2**53 + 1, 2**63, -(2**70), 0.1, 2.0, -2.5e-10, "", [], {}, [None], {"": None}]


@runs
@pytest.mark.needs("execution")
def test_a_plain_value_reaches_the_task_as_it_is(arrive):
    (args, kwargs), result = arrive(*PLAIN, b=PLAIN)
    assert args == result.args == PLAIN
    assert kwargs == result.kwargs == {"b": PLAIN}
    assert [type(arg) for arg in args] == [type(value) for value in PLAIN]


@runs
@pytest.mark.needs("execution")
@pytest.mark.parametrize("value", [1e16, 1e23, 1.7e308, -1e300])
def test_a_large_float_reaches_the_task_as_a_float(value, arrive, request):
    if connection.vendor == "postgresql":
        reason = "jsonb keeps a number as numeric and gives this one back without its exponent: as an int"
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    (args, _), result = arrive(value)
    assert args == result.args == [value]
    assert type(args[0]) is type(result.args[0]) is float


@runs
@pytest.mark.needs("execution")
def test_text_reaches_the_task_unchanged(arrive):
    words = ["Grüße", "🎉", "\u2028", "\x01\x1f\x7f", "'\"\\", "\\u0000", "\\ud800", "%s %%", "e\u0301", "x" * 300_000]
    (args, kwargs), result = arrive(*words, **{word: word for word in words})
    assert args == result.args == words
    assert kwargs == result.kwargs == {word: word for word in words}


@runs
@pytest.mark.needs("execution", "results")
def test_subclasses_of_plain_types_reach_the_task_as_plain_types(arrive):
    (args, _), _ = arrive(Level.HIGH, Colour.GREEN, True)
    assert args == [3, "green", True]
    assert [type(arg) for arg in args] == [int, str, bool]


@runs
@pytest.mark.needs("execution")
def test_keyword_arguments_may_have_the_names_of_the_machinery(arrive):
    names = ["task", "args", "kwargs", "func", "job", "context", "backend", "priority", "queue_name", "run_after", "id"]
    (_, kwargs), _ = arrive(**{name: name for name in names})
    assert kwargs == {name: name for name in names}


@pytest.mark.needs("execution")
@runs
def test_arguments_that_the_function_does_not_take_are_refused_or_a_failure_of_the_job(run, subject):
    if subject.complete:
        with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
            run(tasks.add, 1, 2, 3, colour="green")
        return
    result = run(tasks.add, 1, 2, 3, colour="green")
    assert result.status == "FAILED"
    assert result.errors[0].exception_class is TypeError


@needs_rows
@pytest.mark.parametrize(
    "value",
    [(1, 2), b"x", {1: {2: 3}}, {True: 1, None: 2, 1.5: 3}, {1: "a", "1": "b"}, {"b": 1, "a": 2}, [Level.HIGH]],
    ids=repr,
)
def test_trap_7_a_result_shows_the_same_arguments_at_enqueue_and_after_reload(value, db, backend):
    result = tasks.echo.enqueue(value, b=value)
    stored = backend.get_result(result.id)
    assert result.args == stored.args
    assert result.kwargs == stored.kwargs
    assert repr(result.args[0]) == repr(stored.args[0]) or isinstance(value, dict)
    assert type(result.args) is type(stored.args) is list


def test_a_result_keeps_no_reference_to_the_callers_arguments(db):
    value = [1]
    result = tasks.echo.enqueue(value)
    value.append(2)
    assert result.args == [[1]]
