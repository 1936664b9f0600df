"""Six-field cron: the grammar and the search for the next match, as the reference has them (scheduler-service.md 2.1 to 2.3)."""

import re
from functools import lru_cache

from scheduler.core.calendar import DAY_S, Zone, civil_from_days, days_from_civil, weekday
from scheduler.core.errors import InvalidJob

NS = 1_000_000_000
# A field whose list has an item `*` or `?` carries this flag: it decides how the two day fields combine.
_STAR = 1 << 63
_YEARS_SEARCHED = 5
# A leap over days that do not match ends this long before the one that does: no change of a zone's clock is larger.
_LEAP_DAYS = 2
_ATOI = re.compile(r"[+-]?[0-9]+")
_MONTHS = {
    name: number
    for number, name in enumerate(
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1
    )
}
_DAYS = {name: number for number, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
# (lowest, highest, names) of second, minute, hour, day of month, month, day of week.
_FIELDS: tuple[tuple[int, int, dict[str, int]], ...] = (
    (0, 59, {}),
    (0, 59, {}),
    (0, 23, {}),
    (1, 31, {}),
    (1, 12, _MONTHS),
    (0, 6, _DAYS),
)


def _bad(message: str) -> InvalidJob:
    return InvalidJob("schedule", message)


def _go_quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _number(text: str, expression: str) -> int:
    """Go's Atoi, and no negative numbers."""
    if not _ATOI.fullmatch(text):
        raise _bad(f"failed to parse int from {text}: strconv.Atoi: parsing {_go_quote(text)}: invalid syntax")
    if len(text) > 19 and abs(int(text[:4_000])) >= 1 << 63:
        raise _bad(f"failed to parse int from {text}: strconv.Atoi: parsing {_go_quote(text)}: value out of range")
    value = int(text)
    if value < 0:
        raise _bad(f"negative number ({value}) not allowed: {expression}")
    return value


def _number_or_name(text: str, names: dict[str, int]) -> int:
    known = names.get(text.lower())
    return known if known is not None else _number(text, text)


def _range(expression: str, lowest: int, highest: int, names: dict[str, int]) -> int:
    """One list item as a bit set."""
    parts = expression.split("/")
    ends = parts[0].split("-")
    star = ends[0] in {"*", "?"}
    if star:
        first, last = lowest, highest
    else:
        first = _number_or_name(ends[0], names)
        if len(ends) == 1:
            last = first
        elif len(ends) == 2:
            last = _number_or_name(ends[1], names)
        else:
            raise _bad(f"too many hyphens: {expression}")
    step = 1
    if len(parts) == 2:
        step = _number(parts[1], parts[1])
        if len(ends) == 1:
            last = highest
    elif len(parts) > 2:
        raise _bad(f"too many slashes: {expression}")
    if first < lowest:
        raise _bad(f"beginning of range ({first}) below minimum ({lowest}): {expression}")
    if last > highest:
        raise _bad(f"end of range ({last}) above maximum ({highest}): {expression}")
    if first > last:
        raise _bad(f"beginning of range ({first}) beyond end of range ({last}): {expression}")
    if step == 0:
        raise _bad(f"step of range should be a positive number: {expression}")
    bits = _STAR if star and step == 1 else 0
    for value in range(first, last + 1, step):
        bits |= 1 << value
    return bits


def _field(text: str, lowest: int, highest: int, names: dict[str, int]) -> int:
    bits = 0
    for item in text.split(","):
        if item:
            bits |= _range(item, lowest, highest, names)
    return bits


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


class Cron:
    """A parsed cron schedule; equal texts give equal schedules."""

    __slots__ = ("_both_days", "_sets", "_zone")

    def __init__(self, fields: list[str], zone: Zone | None) -> None:
        """`fields` are the six of them, `zone` None is UTC. Raises InvalidJob with the reference's text."""
        bits = [_field(text, *bounds) for text, bounds in zip(fields, _FIELDS, strict=True)]
        # Whether both day fields must match, or either may.
        self._both_days = bool((bits[3] | bits[5]) & _STAR)
        self._sets = tuple(one & ~_STAR for one in bits)
        self._zone = zone

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Cron)
            and (self._sets, self._both_days) == (other._sets, other._both_days)
            and self._zone is other._zone
        )

    def __hash__(self) -> int:
        return hash(self._sets)

    @property
    def sets(self) -> tuple[int, ...]:
        """The allowed values of each field, as bits."""
        return self._sets

    @property
    def both_days(self) -> bool:
        """Whether the day of the month and the day of the week must both match; else either may."""
        return self._both_days

    @property
    def zone(self) -> Zone | None:
        """Whose clock counts; None is UTC."""
        return self._zone

    def in_utc(self) -> "Cron":
        """The same fields on a clock that never changes."""
        cron = Cron(["*"] * 6, None)
        cron._sets, cron._both_days = self._sets, self._both_days
        return cron

    def next_after(self, after_ns: int) -> int | None:
        """The first match strictly after an instant; None: none within the years that are searched."""
        return _next_match(self, after_ns // NS + 1)

    def _date_matches(self, days: int) -> bool:
        _, month, day = civil_from_days(days)
        if not self._sets[4] >> month & 1:
            return False
        in_month = bool(self._sets[3] >> day & 1)
        in_week = bool(self._sets[5] >> weekday(days) & 1)
        return in_month and in_week if self._both_days else in_month or in_week

    def _next_date(self, days: int, last_year: int) -> int | None:
        """The first matching date at or after one, by the calendar alone; None: none up to the end of a year."""
        while True:
            year, month, _ = civil_from_days(days)
            if year > last_year:
                return None
            if not self._sets[4] >> month & 1:
                days = days_from_civil(year, month + 1, 1)
            elif self._date_matches(days):
                return days
            else:
                days += 1

    def _next_time(self, second_of_day: int) -> int:
        """The first matching time of day at or after one, in seconds; a whole day: none is left."""
        seconds, minutes, hours, *_ = self._sets
        hour, rest = divmod(second_of_day, 3_600)
        minute, second = divmod(rest, 60)
        if hours >> hour & 1:
            if minutes >> minute & 1 and (later := seconds >> second):
                return second_of_day + _lowest(later)
            if later := minutes >> minute + 1:
                return hour * 3_600 + (minute + 1 + _lowest(later)) * 60 + _lowest(seconds)
        if later := hours >> hour + 1:
            return (hour + 1 + _lowest(later)) * 3_600 + _lowest(minutes) * 60 + _lowest(seconds)
        return DAY_S

    def search(self, start_s: int) -> int | None:
        """The first second, from one on, at which the zone's clock shows a match, in nanoseconds.

        The search leaps along the wall's clock as long as the offset from UTC stays; where it changes on the way, it goes on from the change. So what a gap
        leaves out does not happen, and what is shown twice happens twice.
        """
        if not all(self._sets[:3]) or (self._both_days and not all(self._sets[3:])):
            return None
        zone, utc = self._zone, start_s
        last_year: int | None = None
        while True:
            offset = zone.offset_s(utc) if zone else 0
            days, second_of_day = divmod(utc + offset, DAY_S)
            last_year = civil_from_days(days)[0] + _YEARS_SEARCHED if last_year is None else last_year
            date = self._next_date(days, last_year)
            if date is None:
                return None
            if date == days:
                ahead = self._next_time(second_of_day)
            elif date - days > _LEAP_DAYS and not self._date_matches(days - 1):
                # No change of the clock leads from here to a date that matches.
                utc += (date - days - _LEAP_DAYS) * DAY_S
                continue
            else:
                ahead = DAY_S
            there = utc + ahead - second_of_day
            if zone and zone.offset_s(there) != offset:
                utc = zone.next_change(utc, there)
            elif ahead < DAY_S:
                return there * NS
            else:
                utc = there


@lru_cache(maxsize=8_192)
def _next_match(cron: Cron, start_s: int) -> int | None:
    """Shared by all jobs of one schedule: a tick of 100,000 of them costs one search."""
    return cron.search(start_s)
