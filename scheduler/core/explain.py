"""A schedule in words, its next times, and what its zone's clock does to it. For people; nothing fires by this."""

from dataclasses import dataclass
from itertools import pairwise

from scheduler.core.calendar import DAY_S, Zone, civil_from_days
from scheduler.core.cron import NS, Cron
from scheduler.core.errors import InvalidJob
from scheduler.core.schedule import Every, Schedule, parse_schedule

FIELDS = ("second", "minute", "hour", "day of the month", "month", "day of the week")
_MONTHS = ("", "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")  # fmt: skip
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
_BOUNDS = ((0, 59), (0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
# Clocks change at most a few times a year; whoever looks at a schedule wants to know of the next year's changes.
_LOOK_AHEAD_S = 366 * DAY_S
_NOTES_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockChange:
    """Local times of a schedule that a change of the clock leaves out, or shows twice."""

    at_ns: int
    skipped: bool
    first_local: str
    count: int
    clock_from: str
    clock_to: str

    def words(self, zone: str) -> str:
        """One sentence."""
        more = f" (with {self.count - 1:,} more)" if self.count > 1 else ""
        same_day = self.clock_from[:10] == self.clock_to[:10]
        change = f"the clock goes from {self.clock_from[11:]} to {self.clock_to[11 if same_day else 0 :]}"
        if self.skipped:
            return f"{self.first_local}{more} does not exist in {zone} ({change}): it does not fire"
        return f"{self.first_local}{more} is shown twice in {zone} ({change}): it fires twice"


def local_text(at_s: int, zone: Zone | None) -> str:
    """What the zone's clock shows, as "2026-03-29 03:00:00"."""
    return _wall_text(at_s + (zone.offset_s(at_s) if zone else 0))


def weekday_name(at_s: int, zone: Zone | None) -> str:
    """The day of the week in the zone."""
    return _DAYS[((at_s + (zone.offset_s(at_s) if zone else 0)) // DAY_S + 4) % 7]


def next_times(schedule: Schedule, after_ns: int, count: int) -> list[int]:
    """The next times after an instant, fewer where there are no more."""
    times: list[int] = []
    following: int | None = after_ns
    while len(times) < count and following is not None:
        following = schedule.next_after(following)
        if following is not None:
            times.append(following)
    return times


def clock_changes(cron: Cron, start_ns: int, end_ns: int) -> list[ClockChange]:
    """The first changes of the zone's clock that matter to the schedule, from one instant to another or a year later."""
    zone = cron.zone
    if zone is None:
        return []
    naive = cron.in_utc()
    at, end = start_ns // NS, max(end_ns // NS, start_ns // NS + _LOOK_AHEAD_S)
    changes: list[ClockChange] = []
    while at < end and len(changes) < _NOTES_MAX:
        day = at + DAY_S
        before, after = zone.offset_s(at), zone.offset_s(day)
        if before == after:
            at = day
            continue
        change = zone.next_change(at, day)
        after = zone.offset_s(change)
        first, last = sorted((change + before, change + after))
        touched = _count(naive, first, last)
        if touched:
            changes.append(
                ClockChange(
                    at_ns=change * NS,
                    skipped=after > before,
                    first_local=_wall_text((naive.search(first) or 0) // NS),
                    count=touched,
                    clock_from=_wall_text(change + before),
                    clock_to=_wall_text(change + after),
                )
            )
        at = change
    return changes


def _count(naive: Cron, start_s: int, end_s: int) -> int:
    """Matches from one second to another, which is left out; a gap has a few hours at most, and a zone that loses a day 86,400 seconds."""
    count, at = 0, naive.search(start_s)
    while at is not None and at < end_s * NS:
        count, at = count + 1, naive.search(at // NS + 1)
    return count


def _wall_text(wall_s: int) -> str:
    days, second = divmod(wall_s, DAY_S)
    year, month, day = civil_from_days(days)
    return f"{year:04d}-{month:02d}-{day:02d} {second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"


def describe(schedule: Schedule) -> str:
    """The schedule in words."""
    if isinstance(schedule, Every):
        if schedule.interval_ns <= 0:
            return "again and again, without a pause"
        return f"every {schedule.interval_ns / NS:,.9g} s from the due time, or from scheduling, on"
    sets = [[value for value in range(low, high + 1) if bits >> value & 1] for bits, (low, high) in zip(schedule.sets, _BOUNDS, strict=True)]  # fmt: skip
    clock, date = _clock(sets[0], sets[1], sets[2]), _date(sets[3], sets[5], both=schedule.both_days)
    # "every 5 minutes, every day" says nothing more.
    words = [clock, "" if date == "every day" and clock.startswith("every") else date]
    if len(sets[4]) < 12:
        words.append("in " + _listed(sets[4], _MONTHS))
    return ", ".join(word for word in words if word)


def _clock(seconds: list[int], minutes: list[int], hours: list[int]) -> str:
    if len(seconds) == len(minutes) == 1 and 0 < len(hours) <= 4:
        return "at " + _joined([f"{hour:02d}:{minutes[0]:02d}:{seconds[0]:02d}" for hour in hours])
    parts = []
    if seconds != [0]:
        parts.append(_unit(seconds, 0))
    if len(minutes) < 60 or not parts:
        parts.append(_unit(minutes, 1))
    if len(hours) < 24 or len(minutes) == 1:
        parts.append(_unit(hours, 2))
    return ", ".join(parts)


def _unit(values: list[int], field: int) -> str:
    """The values of seconds, minutes or hours."""
    name, (low, high) = FIELDS[field], _BOUNDS[field]
    if len(values) == high - low + 1:
        return f"every {name}"
    steps = {later - earlier for earlier, later in pairwise(values)}
    if len(values) > 2 and len(steps) == 1 and (step := steps.pop()) > 1 and values[0] < step:
        start = "" if values[0] == low else f" from {name} {values[0]} on"
        # 7 does not divide 60: the last step is shorter.
        rest = (high + 1) - values[-1]
        if rest <= step:
            uneven = "" if rest + values[0] == step else f" ({rest + values[0]} at the turn)"
            return f"every {step} {name}s{uneven}{start}"
    return f"at {name}{'s' if len(values) > 1 else ''} {_listed(values)}"


def _date(days: list[int], weekdays: list[int], *, both: bool) -> str:
    in_month, in_week = "on day " + _listed(days) + " of the month", "on " + _listed(weekdays, _DAYS)
    free_month, free_week = len(days) == 31, len(weekdays) == 7
    if (free_month or free_week) and not both:
        return "every day"
    if free_month and free_week:
        return "every day"
    if free_month or free_week:
        return in_week if free_month else in_month
    return f"{in_month}, where that is {in_week[3:]}" if both else f"{in_month} and {in_week}"


def _listed(values: list[int], names: tuple[str, ...] | None = None) -> str:
    """Values with neighbours as ranges."""
    ranges: list[list[int]] = []
    for value in values:
        if ranges and ranges[-1][1] == value - 1:
            ranges[-1][1] = value
        else:
            ranges.append([value, value])
    shown = [str(value) if names is None else names[value] for one in ranges for value in one]
    texts = []
    for (first, last), one, two in zip(ranges, shown[::2], shown[1::2], strict=True):
        texts += [one] if first == last else [one, two] if last == first + 1 else [f"{one} to {two}"]
    return _joined(texts) if texts else "none"


def _joined(texts: list[str]) -> str:
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " and " + texts[-1]


def wrong_field(text: str) -> tuple[int, int, str] | None:
    """Where in a schedule's text the field stands that cannot be, and its name: (begin, end, name). None: it is no single field."""
    begin = text.index(" ") + 1 if text.startswith(("TZ=", "CRON_TZ=")) and " " in text else 0
    fields = text[begin:].split()
    if len(fields) != 6:
        return None
    for number, (field, name) in enumerate(zip(fields, FIELDS, strict=True)):
        begin = text.index(field, begin)
        alone = ["*"] * 6
        alone[number] = field
        try:
            parse_schedule(" ".join(alone))
        except InvalidJob:
            return begin, begin + len(field), name
        begin += len(field)
    return None
