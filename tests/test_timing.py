"""What cron expressions and periods mean, on days when the clocks change above all."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_jobqueue import cron
from django_jobqueue.timing import Cron, Every, latest, parse

pytestmark = pytest.mark.once

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
#: The days on which the clocks change: forward, and back. In Lord Howe it is half an hour.
FORWARD = {BERLIN: "2026-03-29", NEW_YORK: "2026-03-08", LORD_HOWE: "2026-10-04"}
BACK = {BERLIN: "2026-10-25", NEW_YORK: "2026-11-01", LORD_HOWE: "2026-04-05"}


def shown(expression: str, zone: str, day: str, before: str = "04:30") -> list[str]:
    """The ticks of that day's first hours, as a clock shows them, with the distance to UTC."""
    midnight = datetime.fromisoformat(f"{day}T00:00").replace(tzinfo=ZoneInfo(zone))
    end = datetime.fromisoformat(f"{day}T{before}").replace(tzinfo=ZoneInfo(zone))
    timing, found = Cron(expression, zone), []
    tick = timing.after(midnight - timedelta(seconds=1))
    while tick < end:
        found.append(f"{tick.astimezone(ZoneInfo(zone)):%H:%M%z}")
        tick = timing.after(tick)
    return found


def test_a_day_like_any_other():
    assert shown("*/30 1-2 * * *", BERLIN, "2026-06-01") == ["01:00+0200", "01:30+0200", "02:00+0200", "02:30+0200"]
    assert shown("30 2 * * *", BERLIN, "2026-06-01") == ["02:30+0200"]


@pytest.mark.parametrize(
    ("zone", "expression", "ticks"),
    [
        (BERLIN, "30 2 * * *", ["03:00+0200"]),
        (BERLIN, "0 2,3 * * *", ["03:00+0200"]),
        (BERLIN, "15,45 2 * * *", ["03:00+0200"]),
        (BERLIN, "30 1,2,3 * * *", ["01:30+0100", "03:00+0200", "03:30+0200"]),
        (BERLIN, "0 * * * *", ["00:00+0100", "01:00+0100", "03:00+0200", "04:00+0200"]),
        (BERLIN, "*/20 2 * * *", []),
        (NEW_YORK, "30 2 * * *", ["03:00-0400"]),
        (NEW_YORK, "0 * * * *", ["00:00-0500", "01:00-0500", "03:00-0400", "04:00-0400"]),
        (LORD_HOWE, "15 2 * * *", ["02:30+1100"]),
        (LORD_HOWE, "0 2,3 * * *", ["02:30+1100", "03:00+1100"]),
        (LORD_HOWE, "0 * * * *", ["00:00+1030", "01:00+1030", "03:00+1100", "04:00+1100"]),
        (LORD_HOWE, "*/20 2,3 * * *", ["02:40+1100", "03:00+1100", "03:20+1100", "03:40+1100"]),
    ],
)
def test_g12_when_the_clocks_go_forward(zone, expression, ticks):
    assert shown(expression, zone, FORWARD[zone]) == ticks


@pytest.mark.parametrize(
    ("zone", "expression", "ticks"),
    [
        (BERLIN, "30 2 * * *", ["02:30+0200"]),
        (BERLIN, "0 2,3 * * *", ["02:00+0200", "03:00+0100"]),
        (BERLIN, "0 * * * *", ["00:00+0200", "01:00+0200", "02:00+0200", "02:00+0100", "03:00+0100", "04:00+0100"]),
        (BERLIN, "*/30 2 * * *", ["02:00+0200", "02:30+0200", "02:00+0100", "02:30+0100"]),
        (NEW_YORK, "30 1 * * *", ["01:30-0400"]),
        (NEW_YORK, "30 * * * *", ["00:30-0400", "01:30-0400", "01:30-0500", "02:30-0500", "03:30-0500"]),
        (LORD_HOWE, "45 1 * * *", ["01:45+1100"]),
        (LORD_HOWE, "30 0-3 * * *", ["00:30+1100", "01:30+1100", "02:30+1030", "03:30+1030"]),
        (LORD_HOWE, "45 * * * *", ["00:45+1100", "01:45+1100", "01:45+1030", "02:45+1030", "03:45+1030"]),
    ],
)
def test_g12_when_the_clocks_go_back(zone, expression, ticks):
    assert shown(expression, zone, BACK[zone]) == ticks


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, LORD_HOWE, "UTC", "Asia/Kathmandu"])
def test_g12_a_fixed_time_comes_once_on_each_day_of_the_year(zone):
    timing, tick = Cron("30 2 * * *", zone), datetime(2025, 12, 31, 12, tzinfo=UTC)
    days = []
    while (tick := timing.after(tick)) < datetime(2027, 1, 2, tzinfo=UTC):
        days.append(tick.astimezone(ZoneInfo(zone)).date())
    assert len(days) == len(set(days)) >= 366
    assert {later - earlier for earlier, later in itertools.pairwise(days)} == {timedelta(days=1)}


EXPRESSIONS = ["*/5 * * * *", "30 2 * * *", "0 */3 * * *", "*/20 2 * * *", "15 0 1 * *", "* 1-3 * 3,4,10,11 SUN"]


@given(
    expression=st.sampled_from(EXPRESSIONS),
    zone=st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE]),
    moments=st.lists(st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)), min_size=2, max_size=2),
)
def test_g12_the_next_tick_does_not_depend_on_when_one_asks(expression, zone, moments):
    """From whenever between two ticks: a worker may look at any time, and many do."""
    timing = Cron(expression, zone)
    earlier, later = sorted(moment.replace(tzinfo=UTC) for moment in moments)
    first, second = timing.after(earlier), timing.after(later)
    assert earlier < first and later < second and first <= second
    assert timing.after(first - timedelta(microseconds=1)) == first
    if first > later:
        assert second == first


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)), st.sampled_from([BERLIN, NEW_YORK, LORD_HOWE]))
def test_g12_each_minute_that_a_clock_shows_is_a_tick(moment, zone):
    """``*`` everywhere is each minute of real time, whatever the clocks do."""
    moment = moment.replace(tzinfo=UTC)
    tick = Cron("* * * * *", zone).after(moment)
    assert tick == (moment + timedelta(minutes=1)).replace(second=0, microsecond=0)


def test_a_period_counts_in_real_time_from_its_anchor_without_drift():
    timing, anchor = Every(timedelta(minutes=7)), datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
    asked = anchor + 9 * timedelta(minutes=7) + timedelta(seconds=13)
    assert timing.after(asked, anchor) == anchor + 10 * timedelta(minutes=7)
    assert timing.after(anchor, anchor) == anchor + timedelta(minutes=7)
    assert timing.after(anchor - timedelta(seconds=1), anchor) == anchor
    assert timing.after(anchor) == anchor + timedelta(minutes=7)


@given(
    minutes=st.integers(1, 500),
    gone=st.timedeltas(timedelta(0), timedelta(days=2)),
    most=st.integers(1, 50),
)
def test_the_latest_ticks_are_those_that_a_walk_through_all_finds(minutes, gone, most):
    timing, first = Every(timedelta(minutes=minutes)), datetime(2026, 1, 1, tzinfo=UTC)
    until, tick, everything = first + gone, first, []
    while tick <= until:
        everything.append(tick)
        tick = timing.after(tick, first)
    assert latest(timing, first, until, most)[-most:] == everything[-most:]


def test_years_of_missed_seconds_take_no_time():
    first, until = datetime(2020, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    found = latest(Every(timedelta(seconds=1)), first, until, 3)
    assert found[-1] == until and len(found) < 1000
    assert latest(Cron("* * * * * *"), first, until, 100)[-1] == until
    assert latest(Cron("0 0 1 1 *"), first, until, 3)[-3:] == [
        datetime(y, 1, 1, tzinfo=UTC) for y in (2024, 2025, 2026)
    ]


@pytest.mark.parametrize(
    ("text", "timing", "again", "told"),
    [
        ("30  2 * * *", Cron("30 2 * * *", BERLIN), "30 2 * * *", "At 02:30 every day, Europe/Berlin"),
        ("*/10 * * * * *", Cron("*/10 * * * * *", BERLIN), None, "Every 10th second of every minute, Europe/Berlin"),
        ("every 5 minutes", Every(timedelta(minutes=5)), None, "Every 5 minutes"),
        ("Every 90s", Every(timedelta(seconds=90)), "every 90 seconds", "Every 90 seconds"),
        ("every minute", Every(timedelta(minutes=1)), None, "Every minute"),
        ("every 1.5 h", Every(timedelta(minutes=90)), "every 90 minutes", "Every 90 minutes"),
        ("every 2 weeks", Every(timedelta(days=14)), None, "Every 2 weeks"),
        ("every 36 hours", Every(timedelta(hours=36)), None, "Every 36 hours"),
    ],
)
def test_a_timing_has_a_text_and_is_read_from_it(text, timing, again, told):
    found = parse(text, BERLIN)
    assert (found, found.text, found.describe()) == (timing, again or text, told)
    assert parse(found.text, BERLIN) == timing


@pytest.mark.parametrize(
    ("nickname", "expression"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        (" @Weekly ", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("0 9 * * Monday-friday", "0 9 * * Mon-fri"),
        ("0 0 1 january,September,DECEMBER *", "0 0 1 jan,Sep,DEC *"),
        ("0 0 * * tuesday,wednesday,thursday,saturday,sunday", "0 0 * * tue,wed,thu,sat,sun"),
        ("0 0 1 february,march,april,june,july,august,october,november *", "0 0 1 feb,mar,apr,jun,jul,aug,oct,nov *"),
    ],
)
def test_nicknames_and_names_of_days_and_months_are_cron_expressions(nickname, expression):
    assert Cron(nickname, "UTC") == Cron(expression, "UTC") == parse(nickname, "UTC")
    assert cron(nickname).timing.text == expression


@pytest.mark.parametrize(
    ("text", "zone", "message"),
    [
        ("61 * * * *", "UTC", "no cron expression: Bad minute"),
        ("* * * *", "UTC", "Wrong number of fields"),
        ("", "UTC", "Wrong number of fields"),
        ("0 0 30 2 *", "UTC", "Bad day-of-month"),
        ("@reboot", "UTC", "'@reboot' is no cron expression; there are @hourly, @daily,"),
        ("0 0 * * Moonday", "UTC", "Bad day-of-week"),
        ("* * * * *", "Europe/Atlantis", "there is no time zone 'Europe/Atlantis'"),
        ("* * * * *", "../etc/passwd", "there is no time zone"),
        ("every now and then", "", "is no period"),
        ("every 0.5 seconds", "", "from one second to ten years"),
        ("every 1.2.3 hours", "", "could not convert"),
        ("every 4000 days", "", "from one second to ten years"),
    ],
)
def test_what_means_no_time_is_refused(text, zone, message):
    with pytest.raises(ValueError, match=message):
        parse(text, zone)
