"""Schedules and times against the reference's recorded answers, and the rules of scheduler-service.md 2."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.core.duration import format_go_duration, parse_go_duration
from scheduler.core.errors import InvalidJob
from scheduler.core.schedule import Every, parse_schedule, resolve
from scheduler.core.timestamps import format_rfc3339, parse_rfc3339, parse_time

VECTORS = Path(__file__).parents[1] / "vectors"
NOW = parse_rfc3339("2026-03-28T12:34:56Z")


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (VECTORS / name).read_text().splitlines()]


def five_next(schedule: str, start: str) -> list[str]:
    times, at = [], parse_rfc3339(start)
    while len(times) < 5:
        at = parse_schedule(schedule).next_after(at)
        if at is None:
            return [*times, "never"]
        times.append(format_rfc3339(at))
    return times


def test_every_recorded_schedule_has_the_same_next_times_or_the_same_error() -> None:
    wrong = []
    for row in rows("schedules.jsonl"):
        try:
            got: object = five_next(row["schedule"], row["from"])
        except InvalidJob as error:
            got = error.message
        if got != row.get("next", row.get("error")):
            wrong.append((row, got))
    assert not wrong


def test_every_recorded_time_is_the_same_or_refused_as_well() -> None:
    wrong = []
    for row in rows("times.jsonl"):
        try:
            got = format_rfc3339(parse_time(row["input"], parse_rfc3339(row["now"])))
        except ValueError:
            got = None
        if got != row.get("time"):
            wrong.append((row, got))
    assert not wrong


@pytest.mark.parametrize("schedule", ["0 0 0 30 2 *", "0 0 0 31 4 *", ", * * * * *", "* , * * * *", "* * * * , *"])
def test_a_schedule_that_never_matches_is_refused_at_creation(schedule: str) -> None:
    with pytest.raises(InvalidJob, match="never matches"):
        resolve(schedule=schedule, repeats=None, due_time=None, ttl=None, now_ns=NOW)


# scheduler-service.md 1.8, row by row, in its order: fields, the reference's text.
ERRORS = [
    ({}, "job must have either a due time or a schedule"),
    ({"repeats": 2, "due_time": "1s"}, "job must have a schedule to repeat"),
    ({"repeats": 0, "schedule": "@daily"}, "defined repeats must be greater than 0"),
    ({"repeats": 0, "due_time": "1s"}, "defined repeats must be greater than 0"),
    ({"ttl": "1s", "due_time": "1s"}, "job must have a schedule to have a ttl"),
    ({"schedule": ""}, "empty spec string"),
    ({"schedule": "* * * * *"}, "expected exactly 6 fields, found 5: [* * * * *]"),
    ({"schedule": "* * * * * * *"}, "expected exactly 6 fields, found 7: [* * * * * * *]"),
    ({"schedule": "x * * * * *"}, 'failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax'),
    ({"schedule": "*/-1 * * * * *"}, "negative number (-1) not allowed: -1"),
    ({"schedule": "* * * 0 * *"}, "beginning of range (0) below minimum (1): 0"),
    ({"schedule": "60 * * * * *"}, "end of range (60) above maximum (59): 60"),
    ({"schedule": "* * * * * 7"}, "end of range (7) above maximum (6): 7"),
    ({"schedule": "5-2 * * * * *"}, "beginning of range (5) beyond end of range (2): 5-2"),
    ({"schedule": "*/0 * * * * *"}, "step of range should be a positive number: */0"),
    ({"schedule": "1-2-3 * * * * *"}, "too many hyphens: 1-2-3"),
    ({"schedule": "1/2/3 * * * * *"}, "too many slashes: 1/2/3"),
    ({"schedule": "@reboot"}, "unrecognized descriptor: @reboot"),
    ({"schedule": "@Daily"}, "unrecognized descriptor: @Daily"),
    ({"schedule": "@every soon"}, 'failed to parse duration @every soon: time: invalid duration "soon"'),
    ({"schedule": "TZ=Mars/Base * * * * * *"}, "provided bad location Mars/Base: unknown time zone Mars/Base"),
    ({"schedule": "CRON_TZ=UTC @every 1s"}, "timezone is not supported for @every schedules: @every 1s"),
    ({"schedule": "@daily", "due_time": "soon"}, "due time format not recognized"),
    ({"schedule": "@daily", "due_time": "R3/PT5S"}, "repeats not supported for due time"),
    ({"schedule": "@daily", "ttl": "soon"}, "ttl format not recognized"),
    ({"schedule": "@daily", "ttl": "R3/PT5S"}, "ttl format not recognized"),
    (
        {"schedule": "@daily", "due_time": "2026-03-28T13:00:00Z", "ttl": "2026-03-28T12:59:59Z"},
        "ttl must be greater than due time",
    ),
]


def message_of(**fields) -> str | None:
    try:
        resolve(**{"schedule": None, "repeats": None, "due_time": None, "ttl": None, **fields}, now_ns=NOW)
    except InvalidJob as error:
        return error.message
    return None


@pytest.mark.parametrize(("fields", "text"), ERRORS)
def test_bad_jobs_get_the_references_texts(fields: dict, text: str) -> None:
    assert message_of(**fields) == text


def test_what_the_table_allows() -> None:
    assert message_of(due_time="1s", repeats=1) is None
    assert message_of(schedule="@daily", due_time="1h", ttl="0s") is None, (
        "a ttl counts from the due time: equal is allowed"
    )
    assert "is not followed by a schedule" in str(message_of(schedule="TZ=UTC"))
    assert "is not followed by a schedule" in str(message_of(schedule="TZ=UTC "))


def test_of_several_faults_the_first_of_the_table_is_told() -> None:
    """Structure, then schedule, then due time, then ttl."""
    bad = {"schedule": "bad", "due_time": "bad", "ttl": "bad"}
    assert message_of(**bad, repeats=0) == "defined repeats must be greater than 0"
    assert message_of(**bad) == "expected exactly 6 fields, found 1: [bad]"
    assert message_of(**{**bad, "schedule": "@daily"}) == "due time format not recognized"
    assert message_of(schedule="@daily", due_time="1s", ttl="bad") == "ttl format not recognized"
    assert message_of(repeats=5, ttl="bad") == "job must have either a due time or a schedule"
    assert message_of(repeats=5, due_time="bad", ttl="bad") == "job must have a schedule to repeat"
    assert message_of(repeats=0, due_time="bad", ttl="bad") == "defined repeats must be greater than 0"
    assert message_of(due_time="bad", ttl="bad") == "job must have a schedule to have a ttl"


def test_first_tick_rules() -> None:
    """Section 2.5: due_time is the first tick even where the schedule does not match it."""
    both = resolve(schedule="0 0 * * * *", repeats=None, due_time="10s", ttl=None, now_ns=NOW)
    assert both.first_ns == NOW + 10_000_000_000
    every = resolve(schedule="@every 3s", repeats=None, due_time=None, ttl=None, now_ns=NOW)
    assert every.first_ns == NOW + 3_000_000_000
    over = resolve(schedule="@every 3s", repeats=None, due_time=None, ttl="1s", now_ns=NOW)
    assert over.first_ns is None


@given(st.integers(min_value=-(1 << 63) + 1, max_value=(1 << 63) - 1))
def test_go_durations_round_trip(ns: int) -> None:
    assert abs(parse_go_duration(format_go_duration(ns)) - ns) <= 1


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.text(max_size=60), st.from_regex(r"(TZ=[A-Z/a-z]{0,12} )?([@*0-9,/?a-z-]{1,8} ){4,7}", fullmatch=True))
)
def test_no_text_raises_anything_but_invalid_job_or_takes_long(text: str) -> None:
    started = time.process_time()
    try:
        parse_schedule(text).next_after(NOW)
        parse_time(text, NOW)
    except (InvalidJob, ValueError):
        pass
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    "text", ["0" * 1_000_000, "@every " + "9" * 100_000 + "h", ",".join(["1"] * 100_000), "P" + "9" * 10_000 + "Y"]
)
def test_huge_inputs_are_refused_quickly(text: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidJob):
        parse_schedule(text)
    with pytest.raises(ValueError):
        parse_time(text, NOW)
    assert time.process_time() - started < 0.5


def test_equal_texts_share_one_schedule() -> None:
    assert parse_schedule("@every 1s") is parse_schedule("@every 1s") == Every(1_000_000_000)


@pytest.mark.parametrize("zone", ["", "TZ=America/New_York "])
@pytest.mark.parametrize(
    "fields", ["0 , * * * *", "* * , * * *", "* * * , * *", ", * * * * *", "* * * * , *", "* * * * * ,"]
)
def test_what_never_matches_is_known_without_a_search(zone: str, fields: str) -> None:
    """An empty minute field once cost a walk through five years of minutes: nine seconds in which the replica did nothing else."""
    started = time.process_time()
    assert parse_schedule(zone + fields).next_after(NOW) is None
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("fields", ["0 0 0 30 2 *", "0 0 0 31 2,4,6,9,11 ?", "0 0 0 ? 2 ,"])
def test_days_that_no_month_has_are_impossible(fields: str) -> None:
    assert parse_schedule(fields).next_after(NOW) is None
    assert parse_schedule("0 0 0 30 2 1").next_after(NOW) is not None, "either day may match: Mondays of February do"
