"""When a cron schedule fires next, found the slow way: walk through time and look at the clock on the wall.

Independent of `scheduler.core`: the fields are read by a few lines of its own, the time zones by the standard library. A quarter of an hour is looked at as a
whole where the zone's clock runs evenly through it, and second by second where it does not.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

QUARTER_S = 900
_BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def _values(text: str, lowest: int, highest: int) -> tuple[frozenset[int], bool]:
    """The numbers that a field stands for, and whether it is starred. Numbers only: names are the grammar's business, not the calendar's."""
    found: set[int] = set()
    starred = False
    for item in text.split(","):
        span, _, step = item.partition("/")
        first, _, last = span.partition("-")
        if first in {"*", "?"}:
            numbers = range(lowest, highest + 1, int(step or 1))
            starred = starred or step in {"", "1"}
        elif last:
            numbers = range(int(first), int(last) + 1, int(step or 1))
        else:
            numbers = range(int(first), (highest if step else int(first)) + 1, int(step or 1))
        found.update(numbers)
    return frozenset(found), starred


class Oracle:
    """One schedule in one zone."""

    def __init__(self, fields: str, zone: str) -> None:
        read = [_values(text, *bounds) for text, bounds in zip(fields.split(), _BOUNDS, strict=True)]
        self.seconds, self.minutes, self.hours, self.days, self.months, self.weekdays = (values for values, _ in read)
        self._both_days = read[3][1] or read[5][1]
        self._zone = ZoneInfo(zone)

    def wall(self, at_s: int) -> datetime:
        return datetime.fromtimestamp(at_s, self._zone)

    def _date(self, wall: datetime) -> bool:
        if wall.month not in self.months:
            return False
        in_month, in_week = wall.day in self.days, wall.isoweekday() % 7 in self.weekdays
        return in_month and in_week if self._both_days else in_month or in_week

    def matches(self, at_s: int) -> bool:
        """Whether the wall shows a time of the schedule."""
        wall = self.wall(at_s)
        clock = wall.hour in self.hours and wall.minute in self.minutes and wall.second in self.seconds
        return clock and self._date(wall)

    def next_after(self, after_s: int, until_s: int) -> int | None:
        """The first match after one second and before another."""
        at_s = after_s + 1
        while at_s < until_s:
            start = self.wall(at_s)
            end_s = min(until_s, at_s - at_s % QUARTER_S + QUARTER_S)
            end = self.wall(end_s - 1)
            if start.utcoffset() == end.utcoffset() and start.hour == end.hour:
                if start.hour in self.hours and self._date(start):
                    for second in range(end_s - at_s):
                        wall = start + timedelta(seconds=second)
                        if wall.minute in self.minutes and wall.second in self.seconds:
                            return at_s + second
            else:
                for second in range(at_s, end_s):
                    if self.matches(second):
                        return second
            at_s = end_s
        return None


def transitions(zone: str, start_s: int, end_s: int, step_s: int = 6 * 3_600) -> list[int]:
    """The first second of each new offset from UTC, between two instants."""
    tz = ZoneInfo(zone)

    def offset(at_s: int) -> timedelta | None:
        return datetime.fromtimestamp(at_s, UTC).astimezone(tz).utcoffset()

    found = []
    for at_s in range(start_s, end_s, step_s):
        low, high = at_s, at_s + step_s
        if offset(low) != offset(high):
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
            found.append(high)
    return found
