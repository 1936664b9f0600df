"""Calendar arithmetic on seconds since the epoch, without datetime's limits, and time zones (scheduler-service.md 2.2, 2.3)."""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DAY_S = 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# datetime ends here; zones are taken to keep their last known offset beyond.
_ZONE_MIN_S, _ZONE_MAX_S = -62_135_500_000, 253_402_200_000


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since the epoch of a proleptic Gregorian date; month and day may overflow into their neighbours, as Go's time.Date."""
    carry, month0 = divmod(month - 1, 12)
    year += carry
    shifted = (month0 + 10) % 12
    year -= month0 < 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * shifted + 2) // 5
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year + day - 1 - 719_468


def civil_from_days(days: int) -> tuple[int, int, int]:
    """Year, month, day of a day since the epoch."""
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, day


def weekday(days: int) -> int:
    """0 is Sunday."""
    return (days + 4) % 7


class Zone:
    """A time zone's offsets. Equal names are one object."""

    __slots__ = ("_tz", "name")

    def __init__(self, name: str, tz: tzinfo | None) -> None:
        """`tz` None: the machine's local zone."""
        self.name = name
        self._tz = tz

    def offset_s(self, utc_s: int) -> int:
        """Seconds east of UTC at an instant."""
        at = _EPOCH + timedelta(seconds=min(_ZONE_MAX_S, max(_ZONE_MIN_S, utc_s)))
        offset = at.astimezone(self._tz).utcoffset()
        return int(offset.total_seconds()) if offset is not None else 0

    def next_change(self, start_s: int, end_s: int) -> int:
        """The first second of another offset, after an instant and up to one whose offset differs."""
        offset = self.offset_s(start_s)
        while end_s - start_s > 1:
            middle = (start_s + end_s) // 2
            if self.offset_s(middle) == offset:
                start_s = middle
            else:
                end_s = middle
        return end_s


@lru_cache(maxsize=1_024)
def load_zone(name: str) -> Zone | None:
    """A zone by its IANA name; None is UTC. Raises ValueError with the text of Go's LoadLocation."""
    if name in {"", "UTC"}:
        return None
    if name == "Local":
        return Zone(name, None)
    if name[0] in "/\\" or ".." in name or len(name) > 255:
        raise ValueError("time: invalid location name")
    try:
        return Zone(name, ZoneInfo(name))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"unknown time zone {name}") from error
