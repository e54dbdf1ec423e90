"""Arguments and results are data: what survives, and what is refused by name."""

import json

import pytest
from django.utils.translation import gettext_lazy
from hypothesis import given, settings
from hypothesis import strategies as st

from django_jobqueue.arguments import call_as_json, normalise_call, normalise_result
from django_jobqueue.exceptions import InvalidResult

pytestmark = pytest.mark.once

no_deadline = settings(deadline=None)  # a busy machine may stand still for a while

text = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner) | st.dictionaries(text, inner),
    max_leaves=20,
)


def call(a, b=None, *, key=None):
    pass


def with_context(context, a, b=None):
    pass


def variadic(*args, **kwargs):
    pass


class Model:
    def __repr__(self):
        return "<Model: 1>"


BAD = {
    "object": (Model(), TypeError),
    "set": ({1}, TypeError),
    "bytes that are no text": (b"\xff", ValueError),
    "NaN": (float("nan"), ValueError),
    "infinity": (float("inf"), ValueError),
    "NUL": ("a\x00b", ValueError),
    "NUL in a key": ({"a\x00b": 1}, ValueError),
    "NUL deep down": ([[{"x": ["\x00"]}]], ValueError),
    "lone surrogate": ("\ud800", ValueError),
    "a number of five thousand digits": (10**5000, ValueError),
}
each_bad_value = pytest.mark.parametrize(("value", "kind"), BAD.values(), ids=BAD)


# -- what survives --------------------------------------------------------------------------------


@no_deadline
@given(st.lists(json_values, max_size=4), st.dictionaries(text, json_values, max_size=3))
def test_any_json_survives_unchanged(args, kwargs):
    assert normalise_call(variadic, args, kwargs) == (args, kwargs)


@no_deadline
@given(json_values)
def test_any_json_survives_as_a_result(value):
    again = normalise_result(value)
    assert again == value and json.dumps(again) == json.dumps(value)


@no_deadline
@given(json_values)
def test_normalising_twice_is_normalising_once(value):
    once = normalise_result((value, {"k": (value,)}))
    assert normalise_result(once) == once


def test_the_callers_values_are_copied():
    mine = [1]
    args, kwargs = normalise_call(variadic, [mine], {"same": mine})
    mine.append("later")
    assert (args, kwargs) == ([[1]], {"same": [1]})


@pytest.mark.parametrize(
    ("value", "becomes"),
    [
        ((1, (2,)), [1, [2]]),
        ({1: "a", "b": 2}, {"1": "a", "b": 2}),
        (b"text", "text"),
        ("\\u0000 spelt out", "\\u0000 spelt out"),
        ("\\ud800 spelt out", "\\ud800 spelt out"),
        ("\x7f\x01", "\x7f\x01"),
        ("😀", "😀"),
        (10**100, 10**100),
    ],
)
def test_what_becomes_of_values_near_json(value, becomes):
    assert normalise_result(value) == becomes
    assert normalise_call(call, [value], {"key": value}) == ([becomes], {"key": becomes})


@no_deadline
@given(text)
def test_text_with_backslashes_is_told_apart_from_escapes(value):
    spelt = f"\\u0000{value}\\ud800"
    assert normalise_result([spelt, {spelt: spelt}]) == [spelt, {spelt: spelt}]


# -- what is refused ------------------------------------------------------------------------------


@each_bad_value
def test_a_positional_argument_is_refused_by_its_name(value, kind):
    with pytest.raises(kind, match=r"Argument 'b' of \S*call cannot be enqueued"):
        normalise_call(call, [1, value], {})


@each_bad_value
def test_a_keyword_argument_is_refused_by_its_name(value, kind):
    with pytest.raises(kind, match=r"Argument 'key' of \S*call cannot be enqueued"):
        normalise_call(call, [1], {"key": value, "b": 2})


@each_bad_value
@no_deadline
@given(nested=st.integers(0, 3))
def test_bad_values_are_found_however_deep(value, kind, nested):
    for _ in range(nested):
        value = [{"inner": (1, value)}]
    with pytest.raises(kind, match="Argument 'a'"):
        normalise_call(call, [value], {})


def test_a_value_that_contains_itself_is_refused():
    circle = []
    circle.append(circle)
    with pytest.raises(ValueError, match=r"Argument 'a' .* nested too deeply, or contains itself"):
        normalise_call(call, [circle], {})


def test_arguments_that_have_no_name_are_counted():
    with pytest.raises(TypeError, match="Argument 2 of"):
        normalise_call(variadic, [1, Model()], {})
    with pytest.raises(TypeError, match="Argument 3 of"):
        normalise_call(call, [1, 2, Model()], {})


def test_the_context_is_no_argument():
    with pytest.raises(TypeError, match="Argument 'b'"):
        normalise_call(with_context, [1, Model()], {}, takes_context=True)


def test_a_message_says_what_to_do():
    with pytest.raises(TypeError, match="pass an id or a string instead"):
        normalise_call(call, [Model()], {})


def test_lazy_text_is_refused_as_what_it_is():
    with pytest.raises(TypeError, match="Argument 'a'"):
        normalise_call(call, [gettext_lazy("hello")], {})


# -- results --------------------------------------------------------------------------------------


@each_bad_value
def test_g9_a_result_that_cannot_be_stored_says_so(value, kind):
    with pytest.raises(InvalidResult, match="The task's result cannot be stored"):
        normalise_result({"deep": [value]})


def test_an_invalid_result_is_a_type_error():
    assert issubclass(InvalidResult, TypeError)


class Number(int):
    def __repr__(self):
        return "no number"


@pytest.mark.parametrize(
    "args", [(1,), (True, None), (Number(3), "x"), ("é\n\\u0000",), (1.5, -0.0, 10**400), ((1, 2),), [7], ()], ids=repr
)
def test_the_short_way_to_json_says_the_same_as_the_long_one(args):
    texts = call_as_json(call, args, {})
    assert [json.loads(text) for text in texts] == list(normalise_call(call, args, {}))


def test_arguments_that_can_be_read_only_once_are_not_lost():
    assert call_as_json(call, (number for number in (1, 2)), {}) == ("[1, 2]", "{}")
