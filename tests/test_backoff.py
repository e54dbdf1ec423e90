"""Backoff: how long to wait before the next attempt."""

from datetime import timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from django_jobqueue.backoff import DEFAULT_BACKOFF, Exponential, Fixed, Linear, check_backoff, delay_before_retry

pytestmark = pytest.mark.once

no_deadline = settings(deadline=None)  # a busy machine may stand still for a while

attempts = st.integers(0, 40_000)
positive = st.floats(0.001, 1e6)


def after(number: int):
    """A result of a job that has been run so often."""
    return SimpleNamespace(attempts=number)


def test_fixed_is_always_the_same():
    assert [Fixed(7)(ValueError(), after(number)) for number in (1, 2, 30)] == [7, 7, 7]


def test_linear_grows_by_its_step_up_to_its_maximum():
    strategy = Linear(step=10, maximum=35)
    assert [strategy(ValueError(), after(number)) for number in range(1, 6)] == [10, 20, 30, 35, 35]


def test_exponential_grows_by_its_factor_up_to_its_maximum():
    strategy = Exponential(first=2, factor=3, maximum=100, jitter=0)
    assert [strategy(ValueError(), after(number)) for number in range(1, 7)] == [2, 6, 18, 54, 100, 100]


@no_deadline
@given(attempts, positive, st.floats(1, 100), positive, st.floats(0, 1))
def test_exponential_stays_within_its_bounds(number, first, factor, maximum, jitter):
    delay = Exponential(first, factor, maximum, jitter)(ValueError(), after(number))
    full = Exponential(first, factor, maximum, 0)(ValueError(), after(number))
    assert full <= maximum
    assert full * (1 - jitter) - 1e-6 <= delay <= full


@no_deadline
@given(attempts)
def test_linear_stays_within_its_bounds(number):
    assert 60 <= Linear()(ValueError(), after(number)) <= 3600


def test_jitter_spreads_jobs_that_fell_over_one_outage():
    assert len({DEFAULT_BACKOFF(ValueError(), after(1)) for _ in range(20)}) > 1


def test_strategies_are_values():
    assert Fixed(1) == Fixed(1) and hash(Linear()) == hash(Linear()) and Exponential() != Exponential(first=3)


@pytest.mark.parametrize(
    ("backoff", "delay"),
    [
        (5, 5.0),
        (0, 0.0),
        (0.5, 0.5),
        (timedelta(minutes=1), 60.0),
        (Fixed(3), 3.0),
        (lambda exception, task_result: timedelta(seconds=task_result.attempts), 2.0),
        (lambda exception, task_result: None, None),
        (lambda exception, task_result: -1, 0.0),
        (lambda exception, task_result: len(str(exception)), 4.0),
    ],
)
def test_the_delay_before_the_next_attempt(backoff, delay):
    assert delay_before_retry(backoff, ValueError("four"), after(2)) == delay


@pytest.mark.parametrize("value", [0, 1, 2.5, timedelta(0), timedelta(hours=1), Fixed(1), lambda e, r: 1, max])
def test_what_can_be_a_backoff(value):
    check_backoff(value)


@pytest.mark.parametrize("value", ["5", None, True, [1], object()])
def test_what_cannot_be_a_backoff(value):
    with pytest.raises(TypeError, match="backoff must be"):
        check_backoff(value)


@pytest.mark.parametrize("value", [-1, -0.5, timedelta(seconds=-1)])
def test_a_backoff_is_not_negative(value):
    with pytest.raises(ValueError, match="negative"):
        check_backoff(value)


@pytest.mark.parametrize("value", [float("inf"), 1e300])
def test_a_backoff_that_no_calendar_holds_is_refused_when_it_is_used(value):
    with pytest.raises(ValueError, match="at most"):
        delay_before_retry(lambda exception, task_result: value, ValueError(), after(1))
