"""Six-field cron: the grammar and the search for the next match, as the reference has them (scheduler-service.md 2.1 to 2.3)."""

import re
from functools import lru_cache

from scheduler.core.calendar import DAY_S, Zone, civil_from_days, days_from_civil, weekday
from scheduler.core.errors import InvalidJob

NS = 1_000_000_000
# A field whose list has an item `*` or `?` carries this flag: it decides how the two day fields combine.
_STAR = 1 << 63
_YEARS_SEARCHED = 5
_LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
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


def _satisfiable(
    seconds: int, minutes: int, hours: int, month_day: int, months: int, week_day: int, *, both: bool
) -> bool:
    """Whether there is any moment that the fields' values describe: none is empty, and some chosen month has a chosen day."""
    in_month = any(
        months >> month & 1 and month_day & ((2 << longest) - 1) for month, longest in enumerate(_LONGEST_MONTHS, 1)
    )
    in_week = bool(months and week_day)
    return bool(seconds and minutes and hours) and (in_month and in_week if both else in_month or in_week)


class Cron:
    """A parsed cron schedule; equal texts give equal schedules."""

    __slots__ = ("_bits", "_satisfiable", "_zone")

    def __init__(self, fields: list[str], zone: Zone | None) -> None:
        """`fields` are the six of them, `zone` None is UTC. Raises InvalidJob with the reference's text."""
        self._bits = tuple(_field(text, *bounds) for text, bounds in zip(fields, _FIELDS, strict=True))
        self._satisfiable = _satisfiable(*(bits & ~_STAR for bits in self._bits), both=self._both_days)
        self._zone = zone

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cron) and self._bits == other._bits and self._zone is other._zone

    def __hash__(self) -> int:
        return hash(self._bits)

    def next_after(self, after_ns: int) -> int | None:
        """The first match strictly after an instant; None: none within the years that are searched."""
        # What can never match is known at once: the search would walk through years of minutes.
        return _next_match(self, after_ns // NS + 1) if self._satisfiable else None

    @property
    def _both_days(self) -> bool:
        """Whether both day fields must match, or either may."""
        return bool((self._bits[3] | self._bits[5]) & _STAR)

    def _day_matches(self, days: int, day: int) -> bool:
        month_day, week_day = self._bits[3], self._bits[5]
        in_month = bool(month_day >> day & 1)
        in_week = bool(week_day >> weekday(days) & 1)
        if (month_day | week_day) & _STAR:
            return in_month and in_week
        return in_month or in_week

    def search(self, start_s: int) -> int | None:  # noqa: C901, PLR0912, PLR0915 - one search with five nested units, as section 2.3 states it
        """The first match at or after a second, in nanoseconds."""
        seconds, minutes, hours, _, months, _ = self._bits
        zone = self._zone
        utc = start_s
        local = utc + (zone.offset_s(utc) if zone else 0)
        days, second_of_day = divmod(local, DAY_S)
        year, month, day = civil_from_days(days)
        last_year = year + _YEARS_SEARCHED
        adjusted = False
        while True:
            if year > last_year:
                return None
            restart = False
            while not months >> month & 1:
                if adjusted:
                    days = days_from_civil(year, month + 1, day)
                    local = days * DAY_S + second_of_day
                else:
                    adjusted = True
                    days = days_from_civil(year, month + 1, 1)
                    local = days * DAY_S
                utc = zone.to_utc(local) if zone else local
                local = utc + (zone.offset_s(utc) if zone else 0)
                days, second_of_day = divmod(local, DAY_S)
                year, month, day = civil_from_days(days)
                if month == 1:
                    restart = True
                    break
            if restart:
                continue
            while not self._day_matches(days, day):
                if not adjusted:
                    adjusted = True
                    second_of_day = 0
                    local = days * DAY_S
                    if zone:
                        utc = zone.to_utc(local)
                        local = utc + zone.offset_s(utc)
                        days, second_of_day = divmod(local, DAY_S)
                local = (days + 1) * DAY_S + second_of_day
                utc = zone.to_utc(local) if zone else local
                if zone:
                    local = utc + zone.offset_s(utc)
                    hour = local % DAY_S // 3_600
                    if hour:
                        utc += (24 - hour) * 3_600 if hour > 12 else -hour * 3_600
                        local = utc + zone.offset_s(utc)
                days, second_of_day = divmod(local, DAY_S)
                year, month, day = civil_from_days(days)
                if day == 1:
                    restart = True
                    break
            if restart:
                continue
            while not hours >> second_of_day // 3_600 & 1:
                if not adjusted:
                    adjusted = True
                    local -= local % 3_600
                    utc = zone.to_utc(local) if zone else local
                utc += 3_600
                local = utc + (zone.offset_s(utc) if zone else 0)
                days, second_of_day = divmod(local, DAY_S)
                if second_of_day // 3_600 == 0:
                    year, month, day = civil_from_days(days)
                    restart = True
                    break
            if restart:
                continue
            while not minutes >> second_of_day // 60 % 60 & 1:
                if not adjusted:
                    adjusted = True
                    utc -= utc % 60
                utc += 60
                local = utc + (zone.offset_s(utc) if zone else 0)
                days, second_of_day = divmod(local, DAY_S)
                if second_of_day // 60 % 60 == 0:
                    year, month, day = civil_from_days(days)
                    restart = True
                    break
            if restart:
                continue
            second = second_of_day % 60
            ahead = seconds >> second & ((1 << 60 - second) - 1)
            if ahead:
                return (utc + (ahead & -ahead).bit_length() - 1) * NS
            # No second of this minute is left: on to the next minute, from the top.
            adjusted = True
            utc += 60 - second
            local = utc + (zone.offset_s(utc) if zone else 0)
            days, second_of_day = divmod(local, DAY_S)
            year, month, day = civil_from_days(days)


@lru_cache(maxsize=8_192)
def _next_match(cron: Cron, start_s: int) -> int | None:
    """Shared by all jobs of one schedule: a tick of 100,000 of them costs one search."""
    return cron.search(start_s)
