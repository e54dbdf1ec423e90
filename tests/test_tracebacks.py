"""Tracebacks as text: what Python prints, and less where that is too much."""

from __future__ import annotations

import traceback

import pytest

from django_jobqueue import tracebacks
from django_jobqueue.tracebacks import format_exception

pytestmark = pytest.mark.once


def fail(message="no"):
    raise ValueError(message)


def plain():
    fail()


def caused():
    try:
        fail("first")
    except ValueError as error:
        raise KeyError("second") from error


def while_handling():
    try:
        caused()
    except KeyError:
        raise RuntimeError("third")  # noqa: B904


def suppressed():
    try:
        fail()
    except ValueError:
        raise RuntimeError("alone") from None


def recursive(depth=20):
    return recursive(depth - 1) if depth else fail()


def noted():
    error = ValueError("with notes")
    error.add_note("In attempt 1 of f #2.\nAnd more.")
    error.add_note("")
    raise error


def odd_notes():
    error = ValueError("with odd notes")
    error.__notes__ = [1, "two"]
    raise error


def misspelt():
    return traceback.format_exc_("no")


def unparsable():
    compile("def f(:", "shop/tasks.py", "exec")


def made():
    exec("def g():\n    1 / 0\ng()", {})


def grouped():
    try:
        plain()
    except ValueError as error:
        raise ExceptionGroup("two", [error, KeyError("other")])  # noqa: B904


def circular():
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    raise first


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("cannot")


def mute():
    raise Mute


def of(function, *args):
    try:
        function(*args)
    except Exception as error:
        return error


@pytest.mark.parametrize(
    "function",
    [
        plain,
        caused,
        while_handling,
        suppressed,
        recursive,
        noted,
        odd_notes,
        misspelt,
        unparsable,
        made,
        grouped,
        circular,
        mute,
    ],
)
def test_a_traceback_reads_as_python_prints_it(function):
    error = of(function)
    expected = "".join(traceback.format_exception(error))
    assert format_exception(error) == expected
    assert format_exception(error) == expected, "from what has been kept of the first time"


def test_an_exception_that_was_never_raised_has_no_frames():
    assert format_exception(ValueError("no")) == "ValueError: no\n"


def test_the_same_line_of_two_functions_is_told_apart():
    made = []
    for name in ("first", "second"):
        names = {}
        exec(compile(f"def {name}():\n    raise ValueError", "made.py", "exec"), names)
        made.append(names[name])
    texts = [format_exception(of(function)) for function in made]
    assert "in first" in texts[0] and "in second" in texts[1]


def even(depth):
    return odd(depth - 1) if depth else fail()


def odd(depth):
    return even(depth - 1)


def test_of_many_frames_the_first_and_the_last_are_shown():
    text = format_exception(of(even, 400))
    assert text.count("  File ") == tracebacks.FRAMES
    assert "  [… 303 frames …]\n" in text
    assert "in of\n" in text and text.endswith("ValueError: no\n")


def test_of_many_causes_the_first_and_the_last_are_shown():
    error = ValueError("0")
    for number in range(1, 500):
        following = ValueError(str(number))
        following.__cause__ = error
        error = following
    text = format_exception(error)
    assert text.startswith("ValueError: 0\n") and text.endswith("ValueError: 499\n")
    assert text.count("ValueError") == tracebacks.EXCEPTIONS
    assert "[… 490 exceptions …]" in text


def test_a_long_message_keeps_its_beginning_and_its_end():
    text = format_exception(of(fail, "x" * 1_000_000 + "the end"))
    assert len(text) < 2 * tracebacks.MESSAGE_LENGTH
    assert "ValueError: xxx" in text and text.endswith("xthe end\n")


def test_a_wide_and_deep_group_is_bounded():
    def group(depth):
        return ExceptionGroup("g", [of(even, 60) if not depth else group(depth - 1) for _ in range(3)])

    assert len(format_exception(group(4))) <= tracebacks.LENGTH + 10


def test_what_is_kept_of_frames_is_bounded(monkeypatch):
    monkeypatch.setattr(tracebacks, "KEPT", 10)
    for number in range(30):
        names = {}
        exec(compile(f"def f():\n    raise ValueError({number})", "made.py", "exec"), names)
        assert f"ValueError: {number}\n" in format_exception(of(names["f"]))
        assert len(tracebacks._texts) <= 10
