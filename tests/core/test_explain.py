"""Schedules in words, and what a zone's clock does to them: held against the clock itself, second by second."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.cron import NS, Cron
from scheduler.core.explain import clock_changes, describe, next_times, wrong_field
from scheduler.core.schedule import parse_schedule
from scheduler.core.timestamps import parse_rfc3339


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("* * * * * *", "every second"),
        ("*/5 * * * * *", "every 5 seconds"),
        ("*/7 * * * * *", "every 7 seconds (4 at the turn)"),
        ("3/20 * * * * *", "every 20 seconds from second 3 on"),
        ("0 */5 * * * *", "every 5 minutes"),
        ("0 * * * * *", "every minute"),
        ("0 0 * * * *", "at minute 0, every hour, every day"),
        ("@hourly", "at minute 0, every hour, every day"),
        ("0 0 3 * * *", "at 03:00:00, every day"),
        ("@weekly", "at 00:00:00, on Sunday"),
        ("@yearly", "at 00:00:00, on day 1 of the month, in January"),
        ("0 0 0 ? * MON", "at 00:00:00, on Monday"),
        ("0 */5 9-17 * * MON-FRI", "every 5 minutes, at hours 9 to 17, on Monday to Friday"),
        ("0 0 3 1,15 * 1", "at 03:00:00, on day 1 and 15 of the month and on Monday"),
        ("15 10 8,20 * 1-3,7 *", "at 08:10:15 and 20:10:15, every day, in January to March and July"),
        ("1,2,7 0,30 */2 * * *", "at seconds 1, 2 and 7, at minutes 0 and 30, every 2 hours, every day"),
        ("@every 1m30s", "every 90 s from the due time, or from scheduling, on"),
        ("@every 0s", "again and again, without a pause"),
    ],
)
def test_words(text: str, words: str) -> None:
    assert describe(parse_schedule(text)) == words


def changes(text: str, start: str) -> list[str]:
    cron = parse_schedule(text)
    assert isinstance(cron, Cron) and cron.zone is not None
    at = parse_rfc3339(start)
    return [change.words(cron.zone.name) for change in clock_changes(cron, at, at)]


def test_a_gap_and_a_doubled_hour_are_named_with_their_dates() -> None:
    assert changes("TZ=Europe/Paris 0 30 2 * * *", "2026-03-01T00:00:00Z") == [
        "2026-03-29 02:30:00 does not exist in Europe/Paris (the clock goes from 02:00:00 to 03:00:00): it does not fire",
        "2026-10-25 02:30:00 is shown twice in Europe/Paris (the clock goes from 03:00:00 to 02:00:00): it fires twice",
    ]
    assert changes("TZ=Europe/Paris 0 30 4 * * *", "2026-03-01T00:00:00Z") == []
    assert "(with 3 more)" in changes("TZ=Europe/Paris 0 */15 * * * *", "2026-03-01T00:00:00Z")[0]


def test_a_zone_that_loses_a_whole_day() -> None:
    (first, *_) = changes("TZ=Pacific/Apia 0 0 12 * * *", "2011-12-01T00:00:00Z")
    assert first.startswith("2011-12-30 12:00:00 does not exist") and "from 00:00:00 to 2011-12-31 00:00:00" in first


zones = st.sampled_from(["Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo", "Asia/Tehran"])


@settings(max_examples=25)
@given(zones, st.integers(0, 23), st.sampled_from(["0", "30", "*/15", "59"]), st.integers(2000, 2030))
def test_notes_are_what_the_clock_shows(zone: str, hour: int, minute: str, year: int) -> None:
    """Each local minute of a year that matches and is not shown, or is shown twice, is told of; and nothing else."""
    tz = ZoneInfo(zone)
    minutes = {"0": {0}, "30": {30}, "*/15": {0, 15, 30, 45}, "59": {59}}[minute]
    begin = datetime(year, 1, 1, tzinfo=UTC)
    skipped, doubled = set(), set()
    local = datetime(year, 1, 1)  # noqa: DTZ001 - the wall's clock
    for _ in range(364 * 24):
        for one in minutes:
            wall = local.replace(minute=one)
            if wall.hour == hour:
                folds = [wall.replace(tzinfo=tz, fold=fold).astimezone(UTC) for fold in (0, 1)]
                if folds[0].astimezone(tz).replace(tzinfo=None) != wall:
                    skipped.add(wall.date())
                elif folds[0] != folds[1]:
                    doubled.add(wall.date())
        local += timedelta(hours=1)
    cron = parse_schedule(f"TZ={zone} 0 {minute} {hour} * * *")
    assert isinstance(cron, Cron)
    start = int(begin.timestamp()) * NS
    found = [one for one in clock_changes(cron, start, start) if one.at_ns < start + 363 * 86_400 * NS]
    told = {kind: {one.first_local[:10] for one in found if one.skipped is kind} for kind in (True, False)}
    assert told == {True: {str(day) for day in skipped}, False: {str(day) for day in doubled}}


def test_next_times_end_where_there_are_no_more() -> None:
    assert next_times(parse_schedule("@every 1s"), 5, 3) == [5 + NS, 5 + 2 * NS, 5 + 3 * NS]
    assert next_times(parse_schedule("0 0 0 30 2 *"), 0, 3) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("0 61 * * * *", (2, 4, "minute")),
        ("TZ=Asia/Tokyo 0 0 24 * * *", (18, 20, "hour")),
        ("0 0 0 * * MONDAY", (10, 16, "day of the week")),
        ("0  0 0 0 * *", (7, 8, "day of the month")),
        ("*/5 * * * *", None),
        ("@dayly", None),
        ("TZ=Mars", None),
        ("0 0 0 30 2 *", None),
    ],
)
def test_the_field_that_is_wrong(text: str, where: tuple[int, int, str] | None) -> None:
    assert wrong_field(text) == where
