"""The journeys' settings for a process whose clock is wrong by JOURNEY_SKEW seconds, as Python and Django see it."""

import datetime
import os
import time

import django.utils.timezone

from tests.journeys.settings import *  # noqa: F403

SKEW = float(os.environ["JOURNEY_SKEW"])
right_time = time.time


def wrong_time():
    return right_time() + SKEW


def wrong_now():
    return datetime.datetime.fromtimestamp(wrong_time(), tz=datetime.UTC)


time.time = wrong_time
django.utils.timezone.now = wrong_now
