"""Outcomes: values, and the texts that are stored of them."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_jobqueue import tracebacks
from django_jobqueue.models import Attempt, Job
from django_jobqueue.outcomes import (
    LONGEST_DELAY,
    MESSAGE_LENGTH,
    UNCOUNTED,
    Outcome,
    State,
    describe,
    seconds,
    storable,
)

no_deadline = settings(deadline=None)  # a busy machine may stand still for a while

anything = st.text(st.characters())  # NUL and surrogates too


def outcome(**values) -> Outcome:
    return Outcome(**({"state": State.FAILED, "status": "FAILED"} | values))


def raised(error):
    try:
        raise error
    except BaseException as caught:
        return caught


def test_the_words_are_those_of_the_attempt():
    assert {str(state) for state in State} == set(Attempt.Outcome.values)


@pytest.mark.parametrize("status", Job.Status.values)
def test_final_means_that_no_further_attempt_will_come(status):
    assert outcome(status=status).final is (status != "READY")


def test_what_does_not_count_is_not_the_tasks_fault():
    assert {State.SNOOZED, State.INTERRUPTED, State.LOST} == UNCOUNTED
    assert not outcome(state=State.SNOOZED).counted and outcome(state=State.TIMED_OUT).counted


class Outer:
    class Inner(Exception):
        pass


def test_an_exception_is_known_by_its_path():
    assert outcome(exception=Outer.Inner()).exception_class_path == "tests.test_outcomes.Outer.Inner"
    assert outcome(exception=ValueError()).exception_class_path == "builtins.ValueError"
    assert outcome().exception_class_path == ""


def test_a_traceback_is_there_when_the_exception_was_raised():
    assert outcome().traceback == outcome(exception=ValueError()).traceback == ""
    text = outcome(exception=raised(ValueError("no"))).traceback
    assert text.startswith("Traceback") and text.endswith("ValueError: no\n")


def test_the_cause_is_in_the_traceback():
    def fail():
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    try:
        fail()
    except ValueError as error:
        text = outcome(exception=error).traceback
    assert "KeyError: 'first'" in text and "direct cause" in text


def test_a_long_traceback_keeps_its_beginning_and_its_end():
    text = outcome(exception=raised(ValueError("x" * (2 * tracebacks.LENGTH) + "the end"))).traceback
    assert len(text) <= tracebacks.LENGTH + 10
    assert text.startswith("Traceback") and "[…]" in text and text.endswith("the end\n")


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("cannot")


def test_an_exception_that_cannot_be_shown_has_a_traceback_all_the_same():
    assert "Mute" in outcome(exception=raised(Mute())).traceback
    assert describe(Mute()) == "Mute: (cannot be shown)"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no such order"), "ValueError: no such order"),
        (ValueError(), "ValueError"),
        (ValueError("   "), "ValueError"),
        (ValueError("\n first \nsecond"), "ValueError: first "),
        (KeyError("name"), "KeyError: 'name'"),
        (ValueError("a\x00b"), "ValueError: a␀b"),
    ],
)
def test_an_exception_in_one_line(error, text):
    assert describe(error).rstrip() == text.rstrip()


@no_deadline
@given(anything)
def test_any_exception_can_be_described_and_stored(text):
    line = describe(ValueError(text))
    assert line.startswith("ValueError") and len(line) <= MESSAGE_LENGTH
    assert len(line.splitlines()) <= 1
    assert "\x00" not in line
    line.encode()
    outcome(exception=raised(ValueError(text))).traceback.encode()


@no_deadline
@given(anything)
def test_storable_text_is_text_that_databases_take(text):
    made = storable(text)
    assert "\x00" not in made and made.encode().decode() == made
    assert storable(made) == made and len(made) == len(text)


@pytest.mark.parametrize(
    ("delay", "number"), [(5, 5.0), (0.5, 0.5), (-3, 0.0), (timedelta(minutes=1), 60.0), (timedelta(-1), 0.0)]
)
def test_delays_are_seconds_and_never_negative(delay, number):
    assert seconds(delay) == number and isinstance(seconds(delay), float)


@pytest.mark.parametrize("delay", [float("inf"), float("nan"), LONGEST_DELAY * 2, timedelta.max])
def test_delays_that_no_calendar_holds_are_refused(delay):
    with pytest.raises(ValueError, match="at most"):
        seconds(delay)


def test_an_outcome_is_a_value():
    assert outcome(message="a") == outcome(message="a")
    changed = outcome(message="a", delay=3.0).with_message("b")
    assert (changed.message, changed.delay) == ("b", 3.0)
