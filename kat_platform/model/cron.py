"""Cron schedules: five fields, read strictly, and the next time after a given one.

Syntax: ``minute hour day-of-month month day-of-week`` (``crontab(5)``), with lists, ranges, steps, ``*``, and English
three-letter names for months and days; 0 and 7 are Sunday. When both day fields are restricted (neither begins with
``*``), a day that matches either is taken.

Daylight saving, as in Debian's cron: a schedule whose hour field begins with ``*`` goes by elapsed time, so it keeps
its pace through both changes (a repeated hour runs twice). Every other schedule means times of day: one that does not
exist on the day the clock goes forward fires once, at the moment of the change; one that occurs twice on the day the
clock goes back fires only the first time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Annotated, Final
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator

from kat_platform.errors import InternalError, InvalidValue

_MINUTE: Final = timedelta(minutes=1)
_HORIZON_DAYS: Final = 366 * 40
"""The rarest schedule that is accepted, a given day of February on a given weekday, comes round sooner."""

_MONTHS: Final = {
    name: n
    for n, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1)
}
_DAYS: Final = {name: n for n, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
_LONGEST: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MACROS: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    low: int
    high: int
    names: dict[str, int]

    def number(self, text: str) -> int:
        value = self.names.get(text.lower())
        if value is None and re.fullmatch(r"[0-9]{1,2}", text):
            value = int(text)
        if value is None or not self.low <= value <= self.high:
            names = f" or {'/'.join(self.names)}" if self.names else ""
            raise InvalidValue(f"schedule: '{text[:20]}' is not a {self.name}: {self.low} to {self.high}{names}")
        return value

    def part(self, text: str) -> Iterator[int]:
        span, slash, step_text = text.partition("/")
        if slash and not re.fullmatch(r"[1-9][0-9]?", step_text):
            raise InvalidValue(f"schedule: '{step_text[:20]}' is not a step in the {self.name} field: 1 to 99")
        low_text, dash, high_text = span.partition("-")
        if span == "*":
            low, high = self.low, self.high
        else:
            low = self.number(low_text)
            high = self.number(high_text) if dash else (self.high if slash else low)
        if low > high:
            raise InvalidValue(f"schedule: the range '{span}' in the {self.name} field runs backwards")
        return iter(range(low, high + 1, int(step_text) if slash else 1))

    def parse(self, text: str) -> frozenset[int]:
        return frozenset(value for part in text.split(",") for value in self.part(part))


_FIELDS: Final = (
    _Field("minute", 0, 59, {}),
    _Field("hour", 0, 23, {}),
    _Field("day of month", 1, 31, {}),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _DAYS),
)


@dataclass(frozen=True, slots=True)
class CronSchedule:
    """A schedule in a time zone; make it with :meth:`parse`."""

    text: str
    zone: tzinfo
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either_day: bool
    by_elapsed_time: bool

    @classmethod
    def parse(cls, text: str, time_zone: str = "UTC") -> CronSchedule:
        """Read five fields; raises ``InvalidValue`` also for a date that never comes, such as 30 February."""
        fields = text.split()
        if text.strip() in _MACROS:
            raise InvalidValue(f"schedule '{text}': write it as the five fields '{_MACROS[text.strip()]}'")
        if len(fields) != 5:
            names = ", ".join(field.name for field in _FIELDS)
            raise InvalidValue(f"a schedule has five fields ({names}), '{text[:80]}' has {len(fields)}")
        minutes, hours, days, months, weekdays = (
            field.parse(part) for field, part in zip(_FIELDS, fields, strict=True)
        )
        either = not fields[2].startswith("*") and not fields[4].startswith("*")
        if not either and not any(day <= _LONGEST[month - 1] for month in months for day in days):
            raise InvalidValue(f"schedule '{text}': there is no such day in any of its months")
        normal = frozenset(day % 7 for day in weekdays)
        star = fields[1].startswith("*")
        # UTC needs no time zone database, which a small host may lack.
        zone = UTC if time_zone == "UTC" else ZoneInfo(check_time_zone(time_zone))
        return cls(text, zone, minutes, hours, days, months, normal, either, star)

    def next_after(self, moment: datetime) -> datetime:
        """Give the first time strictly after ``moment`` (which must have a time zone), in UTC."""
        if moment.tzinfo is None:
            raise InternalError("a schedule needs a moment with a time zone")
        moment = moment.astimezone(UTC)
        return self._next_elapsed(moment) if self.by_elapsed_time else self._next_wall(moment)

    def matches_day(self, day: date) -> bool:
        """Tell whether the schedule runs on this date."""
        if day.month not in self.months:
            return False
        by_number, by_name = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (by_number or by_name) if self.either_day else (by_number and by_name)

    def _next_wall(self, moment: datetime) -> datetime:
        local = moment.astimezone(self.zone).replace(tzinfo=None)
        times = [time(hour, minute) for hour in sorted(self.hours) for minute in sorted(self.minutes)]
        for offset in range(_HORIZON_DAYS):
            day = local.date() + timedelta(days=offset)
            if self.matches_day(day):
                for clock in times:
                    found = _first_instant(datetime.combine(day, clock), self.zone)
                    if found > moment:
                        return found
        raise InternalError(f"schedule '{self.text}' never comes")

    def _next_elapsed(self, moment: datetime) -> datetime:
        candidate = moment.replace(second=0, microsecond=0) + _MINUTE
        end = candidate + timedelta(days=_HORIZON_DAYS)
        while candidate < end:
            local = candidate.astimezone(self.zone)
            if not self.matches_day(local.date()):
                midnight = datetime.combine(local.date() + timedelta(days=1), time())
                candidate = max(_first_instant(midnight, self.zone), candidate + _MINUTE)
            elif local.hour in self.hours and local.minute in self.minutes:
                return candidate
            else:
                candidate += _MINUTE
        raise InternalError(f"schedule '{self.text}' never comes")


def _first_instant(wall: datetime, zone: tzinfo) -> datetime:
    """Give the first instant at which clocks in the zone show ``wall``, or where they skip it, that of the change."""
    early = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    if first.astimezone(zone).replace(tzinfo=None) == wall:
        return first
    # In a gap the reading with fold=1 lies before the change and the one with fold=0 after it: search between them.
    before = early.astimezone(zone).utcoffset()
    low, high = early, first
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def check_time_zone(text: str) -> str:
    """Check the name of a time zone of the IANA database, such as ``Europe/Berlin``."""
    if text == "UTC" or text in _zones():
        return text
    folded = {name.lower().replace("_", " "): name for name in _zones()}
    better = folded.get(text.lower().replace("_", " "))
    raise InvalidValue(
        f"'{text[:60]}' is not a time zone that this host knows: write it like UTC or Europe/Berlin",
        hint=f"did you mean '{better}'?" if better else None,
    )


TimeZone = Annotated[str, AfterValidator(check_time_zone)]
