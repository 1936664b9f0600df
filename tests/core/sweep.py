"""Compare next() with the oracle over all zones: `python -m tests.core.sweep [--seconds 300] [--seed N]`. A short, seeded part runs in CI (test_oracle.py)."""

import argparse
import sys
import time
from datetime import UTC, datetime
from random import Random
from zoneinfo import available_timezones

from scheduler.core.schedule import parse_schedule
from tests.core.oracle import Oracle, transitions

FIRST_S, LAST_S = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (1960, 2038))
# How far the oracle walks; what comes later must come later in both.
HORIZON_S = 40 * 86_400
# Where clocks have changed at midnight, by odd amounts, or by a day.
ODD_ZONES = (
    "America/Sao_Paulo", "Asia/Beirut", "Australia/Lord_Howe", "Pacific/Apia", "Antarctica/Troll",
    "Pacific/Kwajalein", "Pacific/Kiritimati", "America/Goose_Bay", "Asia/Gaza", "Africa/Cairo",
    "America/Havana", "Asia/Kathmandu", "Pacific/Chatham", "Europe/Dublin", "Africa/Casablanca",
    "Asia/Pyongyang", "America/Caracas", "Africa/Monrovia", "America/Scoresbysund", "Asia/Thimphu",
)  # fmt: skip
_COMMON = ("*", "*", "0", "*/5", "1-3", "0,30")


def _field(rng: Random, lowest: int, highest: int) -> str:
    """One field; numbers near the ends are likelier than others: that is where clocks change."""
    kind = rng.random()
    if kind < 0.3:
        return "*"
    if kind < 0.7:
        return str(rng.choice((lowest, lowest + 1, lowest + 2, highest, rng.randrange(lowest, highest + 1))))
    if kind < 0.85:
        return f"{rng.choice(('*', '?', str(lowest)))}/{rng.randrange(1, 7)}"
    first = rng.randrange(lowest, highest + 1)
    return f"{first}-{rng.randrange(first, highest + 1)},{rng.randrange(lowest, highest + 1)}"


def fields(rng: Random) -> str:
    """A schedule that is due now and then within the horizon."""
    second, minute = (
        rng.choice(("0", "0", "59", "*/20", "7,8")),
        rng.choice(("0", "0", "30", "59", "1", _field(rng, 0, 59))),
    )
    return " ".join(
        (
            second,
            minute,
            _field(rng, 0, 23),
            _field(rng, 1, 31),
            rng.choice(("*", "*", "*", _field(rng, 1, 12))),
            _field(rng, 0, 6),
        )
    )


def compare(zone: str, rng: Random, count: int, changes: list[int]) -> list[str]:
    """Differences between ours and the oracle's next time, mostly from shortly before a change of the zone's clock."""
    wrong = []
    for _ in range(count):
        text = fields(rng)
        near = bool(changes) and rng.random() < 0.9
        after_s = (
            rng.choice(changes) - rng.choice((1, 1_800, 3_600, 7_200, 10_800, 86_400, 90_000))
            if near
            else rng.randrange(FIRST_S, LAST_S)
        )
        after_s += rng.randrange(-5, 6)
        want_s = Oracle(text, zone).next_after(after_s, after_s + HORIZON_S)
        got_ns = parse_schedule(f"TZ={zone} {text}").next_after(after_s * 10**9 + rng.randrange(10**9))
        got_s = None if got_ns is None or got_ns >= (after_s + HORIZON_S) * 10**9 else got_ns // 10**9
        if got_s != want_s or (got_ns or 0) % 10**9:
            wrong.append(f"TZ={zone} {text} after {after_s}: {got_s}, the oracle says {want_s}")
    return wrong


def main() -> None:
    """The command: every zone as often as time allows."""
    parser = argparse.ArgumentParser(prog="python -m tests.core.sweep")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng, end = Random(arguments.seed), time.monotonic() + arguments.seconds
    zones = sorted(available_timezones())
    changes = {zone: transitions(zone, FIRST_S, LAST_S, 5 * 86_400) for zone in zones}
    wrong: list[str] = []
    compared = rounds = 0
    while time.monotonic() < end or not rounds:
        for zone in zones:
            wrong += compare(zone, rng, 5, changes[zone])
            compared += 5
        rounds += 1
    print(f"seed {arguments.seed}: {compared} next times in {len(zones)} zones ({rounds} rounds), {len(wrong)} differ")
    print("\n".join(wrong[:50]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
