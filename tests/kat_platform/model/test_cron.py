"""Cron schedules: what next_after gives is right, the earliest, and kind to daylight saving."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kat_platform.errors import InvalidValue
from kat_platform.model.cron import CronSchedule

BERLIN = ZoneInfo("Europe/Berlin")  # forward 2026-03-29 02:00 → 03:00, back 2026-10-25 03:00 → 02:00

minutes = st.one_of(st.just("*"), st.integers(0, 59).map(str), st.integers(1, 30).map(lambda step: f"*/{step}"))
hours = st.one_of(st.just("*"), st.integers(0, 23).map(str), st.just("1-3"))
days = st.one_of(st.just("*"), st.integers(1, 28).map(str))
weekdays = st.one_of(st.just("*"), st.sampled_from(["0", "7", "mon-fri", "sat"]))
expressions = st.builds(lambda *parts: " ".join(parts), minutes, hours, days, st.just("*"), weekdays)
moments = st.datetimes(datetime(2026, 3, 20), datetime(2026, 11, 5), timezones=st.just(UTC))


@settings(max_examples=60, deadline=None)
@given(expressions, moments)
def test_next_is_the_first_match_minute_by_minute(text: str, moment: datetime) -> None:
    schedule = CronSchedule.parse(text)
    found = schedule.next_after(moment)
    assert found > moment
    assert found.second == found.microsecond == 0
    step = moment.replace(second=0, microsecond=0) + timedelta(minutes=1)
    for _ in range(2 * 24 * 60):  # the oracle: walk two days and look at each minute
        if schedule.matches_day(step.date()) and step.hour in schedule.hours and step.minute in schedule.minutes:
            assert found == step
            return
        step += timedelta(minutes=1)
    assert found >= step


@settings(max_examples=60, deadline=None)
@given(expressions, moments, st.integers(0, 5000))
def test_nothing_lies_between_a_moment_and_its_next(text: str, moment: datetime, ahead: int) -> None:
    schedule = CronSchedule.parse(text, "Europe/Berlin")
    found = schedule.next_after(moment)
    between = min(moment + timedelta(minutes=ahead), found - timedelta(microseconds=1))
    assert schedule.next_after(max(between, moment)) == found
    assert schedule.next_after(found) > found


def runs(text: str, day: tuple[int, int], zone: str = "Europe/Berlin") -> list[str]:
    """The runs of one local day of 2026, in local time with offset."""
    tz = ZoneInfo(zone)
    start = datetime(2026, *day, tzinfo=tz)
    end = (start.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=tz)
    schedule = CronSchedule.parse(text, zone)
    found: list[str] = []
    moment = start.astimezone(UTC) - timedelta(seconds=1)
    while (moment := schedule.next_after(moment)) < end:
        found.append(moment.astimezone(tz).strftime("%H:%M%z"))
    return found


def test_a_time_that_is_skipped_runs_once_at_the_change() -> None:
    assert runs("30 2 * * *", (3, 29)) == ["03:00+0200"]
    assert runs("0,30 2,3 * * *", (3, 29)) == ["03:00+0200", "03:30+0200"]


def test_a_time_that_comes_twice_runs_the_first_time_only() -> None:
    assert runs("30 2 * * *", (10, 25)) == ["02:30+0200"]
    assert runs("0 1,2,3 * * *", (10, 25)) == ["01:00+0200", "02:00+0200", "03:00+0100"]


def test_an_hourly_schedule_keeps_its_pace_through_both_changes() -> None:
    assert len(runs("0 * * * *", (3, 29))) == 23
    assert len(runs("0 * * * *", (10, 25))) == 25


def test_a_change_at_midnight_and_one_of_half_an_hour() -> None:
    assert runs("15 0 * * *", (9, 6), "America/Santiago") == ["01:00-0300"]
    assert runs("15 2 * * *", (10, 4), "Australia/Lord_Howe") == ["02:30+1100"]


def test_either_day_field_is_enough_when_both_are_given() -> None:
    schedule = CronSchedule.parse("0 0 13 * fri")
    found = schedule.next_after(datetime(2026, 11, 1, tzinfo=UTC))
    assert [found.day, schedule.next_after(found).day] == [6, 13]
    assert CronSchedule.parse("0 0 29 2 *").next_after(datetime(2026, 3, 1, tzinfo=UTC)).year == 2028


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "a * * * *",
        "@daily",
        "0 0 30 2 *",
        "0 0 31 4,6 *",
        "1,, * * * *",
        "-1 * * * *",
        "* * * foo *",
    ],
)
def test_a_schedule_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        CronSchedule.parse(text)


def test_an_unknown_time_zone_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidValue, match="Europe/Berlin"):
        CronSchedule.parse("* * * * *", "europe/berlin")
    with pytest.raises(InvalidValue):
        CronSchedule.parse("* * * * *", "../../etc/passwd")
