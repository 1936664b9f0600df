"""Points in time as text: RFC 3339, or a duration from now (scheduler-service.md 2.4). Instants are nanoseconds since the epoch, UTC."""

import re

from scheduler.core.calendar import DAY_S, civil_from_days, days_from_civil
from scheduler.core.duration import parse_go_duration, parse_iso_duration

NS = 1_000_000_000
_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{1,2}):([0-9]{2}):([0-9]{2})([.,][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_DAYS_OF_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class RepeatedDuration(ValueError):
    """An ISO 8601 duration with a repetition, where a single point in time is wanted."""


def parse_rfc3339(text: str) -> int:
    """Go's RFC 3339. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:64]!r} is not RFC 3339")
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= month <= 12 or not 1 <= day <= _DAYS_OF_MONTH[month - 1] or (month == 2 and day == 29 and not leap):
        raise ValueError(f"{text!r}: no such day")
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(f"{text!r}: no such time of day")
    fraction, zone = match.group(7), match.group(8)
    nanos = int((fraction[1:] + "000000000")[:9]) if fraction else 0
    offset_s = 0
    if zone != "Z":
        hours, minutes = int(zone[1:3]), int(zone[4:6])
        if hours > 24 or minutes > 60:
            raise ValueError(f"{text!r}: no such offset")
        offset_s = (hours * 3_600 + minutes * 60) * (1 if zone[0] == "+" else -1)
    seconds = days_from_civil(year, month, day) * DAY_S + hour * 3_600 + minute * 60 + second - offset_s
    return seconds * NS + nanos


def parse_time(text: str, now_ns: int) -> int:
    """A due time or ttl: RFC 3339, Go duration or ISO 8601 duration after `now_ns`. Raises ValueError."""
    try:
        return parse_rfc3339(text)
    except ValueError:
        pass
    try:
        return now_ns + parse_go_duration(text)
    except ValueError:
        pass
    duration = parse_iso_duration(text)
    if duration.repetitions is not None and duration.repetitions >= 0:
        raise RepeatedDuration(f"{text!r} repeats")
    longest_days = max(
        abs(duration.years), abs(duration.months), abs(duration.days), abs(duration.clock_ns) // (DAY_S * NS)
    )
    if longest_days > 10_000_000:
        raise ValueError(f"{text!r} is too long")
    seconds, nanos = divmod(now_ns, NS)
    days, second_of_day = divmod(seconds, DAY_S)
    year, month, day = civil_from_days(days)
    days = days_from_civil(year + duration.years, month + duration.months, day + duration.days)
    return (days * DAY_S + second_of_day) * NS + nanos + duration.clock_ns


def format_rfc3339(ns: int) -> str:
    """RFC 3339 in UTC with as many decimals as are needed (Go's RFC3339Nano)."""
    seconds, nanos = divmod(ns, NS)
    days, second_of_day = divmod(seconds, DAY_S)
    year, month, day = civil_from_days(days)
    clock = f"{second_of_day // 3600:02d}:{second_of_day // 60 % 60:02d}:{second_of_day % 60:02d}"
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"{year:04d}-{month:02d}-{day:02d}T{clock}{fraction}Z"
