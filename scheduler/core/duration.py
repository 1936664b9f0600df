"""Durations as text: Go's (1h30m, 1.5s) and ISO 8601's (PT1M30S), scheduler-service.md 2.3 and 2.4. Values are nanoseconds."""

import re
from typing import NamedTuple

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LIMIT = 1 << 63
_TERM = re.compile(r"([0-9]*)(\.[0-9]*)?([^0-9.]*)")
# Longer texts than any meaning needs are refused before they cost anything.
TEXT_MAX = 1_024


def _quote(text: str) -> str:
    """A text as Go's time package quotes it."""
    quoted = []
    for character in text:
        if character in '"\\':
            quoted.append("\\" + character)
        elif " " <= character < "\x7f":
            quoted.append(character)
        else:
            quoted.extend(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
    return '"' + "".join(quoted) + '"'


def _invalid(text: str) -> ValueError:
    return ValueError(f"time: invalid duration {_quote(text)}")


def parse_go_duration(text: str) -> int:
    """Go's time.ParseDuration. Raises ValueError with Go's text."""
    if len(text) > TEXT_MAX:
        raise ValueError(f"time: invalid duration of {len(text)} characters, at most {TEXT_MAX} are allowed")
    rest = text
    negative = rest[:1] == "-"
    if rest[:1] in {"-", "+"}:
        rest = rest[1:]
    if rest == "0":
        return 0
    if not rest:
        raise _invalid(text)
    total, position = 0, 0
    while position < len(rest):
        match = _TERM.match(rest, position)
        assert match is not None
        whole, fraction, unit = match.group(1), match.group(2) or "", match.group(3)
        if not whole and len(fraction) < 2:
            raise _invalid(text)
        value = int(whole or "0") if len(whole) < 40 else _LIMIT + 1
        if value > _LIMIT:
            raise _invalid(text)
        if not unit:
            raise ValueError(f"time: missing unit in duration {_quote(text)}")
        unit_ns = _UNITS_NS.get(unit)
        if unit_ns is None:
            raise ValueError(f"time: unknown unit {_quote(unit)} in duration {_quote(text)}")
        value *= unit_ns
        if len(fraction) > 1:
            digits = fraction[1:19]
            value += int(int(digits) * (unit_ns / 10 ** len(digits)))
        total += value
        if value > _LIMIT or total > _LIMIT:
            raise _invalid(text)
        position = match.end()
    if negative:
        return -total
    if total > _LIMIT - 1:
        raise _invalid(text)
    return total


def format_go_duration(ns: int) -> str:
    """Go's Duration.String, e.g. 1h30m0s, 1.5s, 500ms, 0s."""
    if ns == 0:
        return "0s"
    sign, ns = ("-", -ns) if ns < 0 else ("", ns)
    for unit, unit_ns in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if ns < unit_ns * 1_000 and ns < 1_000_000_000:
            return f"{sign}{_decimal(ns, unit_ns)}{unit}"
    hours, ns = divmod(ns, 3_600_000_000_000)
    minutes, ns = divmod(ns, 60_000_000_000)
    text = f"{_decimal(ns, 1_000_000_000)}s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else f"{sign}{text}"


def _decimal(ns: int, unit_ns: int) -> str:
    whole, rest = divmod(ns, unit_ns)
    digits = len(str(unit_ns)) - 1
    return str(whole) if not rest else f"{whole}.{rest:0{digits}d}".rstrip("0")


class IsoDuration(NamedTuple):
    """Calendar and clock parts; `repetitions` is None without an R prefix."""

    years: int
    months: int
    days: int
    clock_ns: int
    repetitions: int | None


def parse_iso_duration(text: str) -> IsoDuration:
    """ISO 8601 as the reference reads it: whole numbers, upper case, an optional R<n>/ prefix. Raises ValueError."""
    if len(text) > TEXT_MAX:
        raise ValueError(f"duration of {len(text)} characters, at most {TEXT_MAX} are allowed")
    repetitions: int | None = None
    rest = text
    if rest[:1] == "R":
        count, slash, rest = rest[1:].partition("/")
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", count):
            raise ValueError(f"unsupported repetition in {text!r}")
        repetitions = int(count)
        if not slash:
            return IsoDuration(0, 0, 0, 0, repetitions)
    if len(rest) < 2 or rest[0] != "P":
        raise ValueError(f"{text!r} is no ISO 8601 duration")
    years = months = days = clock_ns = 0
    in_time = False
    number = ""
    for character in rest[1:]:
        if character.isascii() and (character.isdigit() or character in "-+"):
            number += character
            continue
        if character == "T":
            in_time = True
            number = ""
            continue
        if character not in ("HMS" if in_time else "YMWD"):
            raise ValueError(f"{text!r}: {character!r} is no unit of an ISO 8601 duration")
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", number):
            raise ValueError(f"{text!r}: no number before {character!r}")
        value, number = int(number), ""
        if in_time:
            clock_ns += value * {"H": 3_600, "M": 60, "S": 1}[character] * 1_000_000_000
        elif character == "Y":
            years = value
        elif character == "M":
            months = value
        else:
            days += value * (7 if character == "W" else 1)
    return IsoDuration(years, months, days, clock_ns, repetitions)
