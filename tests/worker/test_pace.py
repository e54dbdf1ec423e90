"""Pace: how many jobs to have in hand."""

from types import SimpleNamespace

import pytest

from django_jobqueue.worker.pace import Pace

pytestmark = pytest.mark.once


def at_work(load: int, *, slots: int, mean: float) -> int:
    """How many jobs are claimed while so many are at work, each of which takes ``mean`` seconds."""
    pace = Pace(SimpleNamespace(slots=slots, load=load))
    pace.learn([mean] * 1000)
    return pace.room()


@pytest.mark.parametrize(("slots", "mean"), [(1000, 0.1), (100, 5.0), (4, 0.001), (4, 0.3)])
def test_a_free_slot_is_reason_enough_to_claim(slots, mean):
    assert at_work(slots - 1, slots=slots, mean=mean) >= 1


def test_short_jobs_are_claimed_when_half_of_those_in_advance_are_used_up():
    assert at_work(4 + 251, slots=4, mean=0.0001) == 0
    assert at_work(4 + 250, slots=4, mean=0.0001) == 250


def test_long_jobs_are_claimed_for_free_slots_only():
    assert at_work(4, slots=4, mean=60.0) == 0
    assert at_work(3, slots=4, mean=60.0) == 1
