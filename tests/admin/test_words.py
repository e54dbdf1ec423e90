"""How values are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from django.utils import timezone

from django_jobqueue.admin import words


@pytest.mark.parametrize(
    ("seconds", "text", "rough"),
    [
        (-5, "0 ms", "0 s"),
        (0.85, "850 ms", "0 s"),
        (3.25, "3.2 s", "3 s"),
        (12, "12 s", "12 s"),
        (60, "1 min", "1 min"),
        (200, "3 min 20 s", "3 min"),
        (3600, "1 h", "1 h"),
        (7500, "2 h 5 min", "2 h"),
        (86_400 * 2 + 3600 * 5 + 99, "2 d 5 h", "2 d"),
    ],
)
def test_lengths_of_time(seconds, text, rough):
    assert words.span(timedelta(seconds=seconds)) == text
    assert words.roughly(timedelta(seconds=seconds)) == rough


def test_times_without_a_zone(settings):
    settings.USE_TZ = False
    assert "2026-01-02 03:04:05" in words.at(datetime(2026, 1, 2, 3, 4, 5))


def test_a_time_says_itself():
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    text = words.ago(moment, now=moment + timedelta(seconds=75))
    assert text == '<time datetime="2026-01-02T03:04:05+00:00" title="2026-01-02 03:04:05">1 min 15 s ago</time>'
    assert words.ago(None) == words.NOTHING


@pytest.mark.parametrize(
    ("text", "number"), [("12", 12), (" #12 ", 12), ("", None), ("x", None), ("-1", None), ("²", None)]
)
def test_ids(text, number):
    assert words.as_id(text) == number


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "just now"), (59, "59 s ago"), (3000, "50 min ago"), (3 * 86_400 + 7200, "3 d ago"), (-7290, "in 2 h")],
)
def test_a_moment_has_its_rough_distance(seconds, text):
    assert f">{text}</time>)" in words.moment(timezone.now() - timedelta(seconds=seconds))


def test_no_moment():
    assert words.moment(None) == ""


def test_a_short_value_takes_one_line():
    assert words.pretty([1, {"size": 64}]) == "<pre>[1, {&quot;size&quot;: 64}]</pre>"
    assert "\n  " in words.pretty([1, "x" * words.ONE_LINE])
