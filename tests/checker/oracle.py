"""When a job should fire, worked out the slow and obvious way: cron by trying every second, `@every` by addition. Shares nothing with the product.

Times are integer nanoseconds since the epoch, UTC. The oracle reads the small part of the grammar that the fault workload uses, and refuses the rest.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

S = 1_000_000_000
_UNITS = {"ms": S // 1000, "s": S, "m": 60 * S, "h": 3600 * S}
# Nobody waits longer for a match than a fault run takes.
_SEARCH_S = 3_600


def duration_ns(text: str) -> int:
    """A Go duration of whole numbers: 1s, 500ms, 1m30s."""
    parts = re.findall(r"(\d+)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"the oracle does not read the duration {text!r}")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def point_ns(text: str, base_ns: int) -> int:
    """A due time or ttl: RFC 3339, or a duration from `base_ns`."""
    if "T" not in text:
        return base_ns + duration_ns(text)
    whole, _, rest = text.partition(".")
    fraction = re.match(r"\d*", rest)[0] if rest else ""  # type: ignore[index]
    zone = rest[len(fraction) :] if rest else ""
    moment = datetime.fromisoformat(whole + zone) if zone else datetime.fromisoformat(whole)
    return int(moment.timestamp()) * S + int((fraction + "0" * 9)[:9])


def _field(text: str, low: int, high: int) -> frozenset[int]:
    allowed: set[int] = set()
    for item in text.split(","):
        span, _, step = item.partition("/")
        if span in {"*", "?"}:
            first, last = low, high
        elif "-" in span:
            first, last = map(int, span.split("-"))
        else:
            first = int(span)
            last = high if step else first
        allowed.update(range(first, last + 1, int(step or 1)))
    if not allowed or min(allowed) < low or max(allowed) > high:
        raise ValueError(f"the oracle does not read the field {text!r}")
    return frozenset(allowed)


class Cron:
    """Six fields, tried second by second in their zone."""

    def __init__(self, text: str) -> None:
        self.zone: tzinfo = UTC
        if text.startswith(("TZ=", "CRON_TZ=")):
            zone, _, text = text.partition(" ")
            self.zone = ZoneInfo(zone.partition("=")[2])
        fields = text.split()
        if len(fields) != 6:
            raise ValueError(f"the oracle does not read the schedule {text!r}")
        limits = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
        self.fields = [_field(one, low, high) for one, (low, high) in zip(fields, limits, strict=True)]
        # Where both days are restricted, either will do.
        self.either = not fields[3].startswith(("*", "?")) and not fields[5].startswith(("*", "?"))

    def matches(self, second: int) -> bool:
        local = datetime.fromtimestamp(second, self.zone)
        seconds, minutes, hours, days, months, weekdays = self.fields
        day, weekday = local.day in days, (local.weekday() + 1) % 7 in weekdays
        on_day = day or weekday if self.either else day and weekday
        return (
            local.second in seconds
            and local.minute in minutes
            and local.hour in hours
            and local.month in months
            and on_day
        )

    def after(self, instant_ns: int) -> int:
        """The first match later than the instant."""
        second = instant_ns // S
        for _ in range(_SEARCH_S):
            second += 1
            if self.matches(second):
                return second * S
        raise ValueError("the oracle finds no match within an hour")


def _after(schedule: str, instant_ns: int) -> int:
    if schedule.startswith("@every "):
        return instant_ns + duration_ns(schedule.removeprefix("@every "))
    return Cron(schedule).after(instant_ns)


def first_between(spec: dict[str, Any], begin_ns: int, end_ns: int) -> tuple[int, int]:
    """The earliest and latest first occurrence of a job that was accepted between two instants."""
    if "due_time" in spec:
        return point_ns(spec["due_time"], begin_ns), point_ns(spec["due_time"], end_ns)
    return _after(spec["schedule"], begin_ns), _after(spec["schedule"], end_ns)


def expires_between(spec: dict[str, Any], first_ns: int, begin_ns: int, end_ns: int) -> tuple[int, int] | None:
    """The earliest and latest end of its ttl; None: it has none."""
    if "ttl" not in spec:
        return None
    if "due_time" in spec:
        begin_ns = end_ns = first_ns
    return point_ns(spec["ttl"], begin_ns), point_ns(spec["ttl"], end_ns)


def occurrences(spec: dict[str, Any], first_ns: int, expires_ns: int | None, until_ns: int) -> Iterator[int]:
    """Every scheduled time up to an instant, of a job whose first one is known."""
    limit = spec.get("repeats")
    if "schedule" not in spec:
        limit = 1
    count, now_ns = 0, first_ns
    cron = None
    if "schedule" in spec and not spec["schedule"].startswith("@every "):
        cron = Cron(spec["schedule"])
    step_ns = duration_ns(spec["schedule"].removeprefix("@every ")) if "schedule" in spec and cron is None else 0
    while now_ns <= until_ns and (expires_ns is None or now_ns <= expires_ns) and (limit is None or count < limit):
        yield now_ns
        count += 1
        if limit is not None and count >= limit:
            return
        now_ns = cron.after(now_ns) if cron is not None else now_ns + step_ns


def is_finite(spec: dict[str, Any]) -> bool:
    """Whether the job ends by itself."""
    return "schedule" not in spec or "repeats" in spec or "ttl" in spec
