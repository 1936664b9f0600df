"""Schedules: text to value, the next time, and what a job's four time fields together mean (scheduler-service.md 2)."""

from dataclasses import dataclass
from functools import lru_cache

from scheduler.core.calendar import load_zone
from scheduler.core.cron import Cron
from scheduler.core.duration import parse_go_duration
from scheduler.core.errors import InvalidJob
from scheduler.core.timestamps import RepeatedDuration, parse_time

# Long enough for lists of every second, minute and hour; short enough that no text costs more than it may.
TEXT_MAX = 4_096
_DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}


@dataclass(frozen=True, slots=True)
class Every:
    """A fixed interval in nanoseconds; zero and negative ones are legal (and paced by whoever fires)."""

    interval_ns: int

    def next_after(self, after_ns: int) -> int | None:
        """Exactly one interval later."""
        return after_ns + self.interval_ns


Schedule = Every | Cron


@lru_cache(maxsize=16_384)
def parse_schedule(text: str) -> Schedule:
    """A schedule; equal texts share one object. Raises InvalidJob with the reference's text."""
    if not text:
        raise InvalidJob("schedule", "empty spec string")
    if len(text) > TEXT_MAX:
        raise InvalidJob("schedule", f"schedule of {len(text)} characters is longer than {TEXT_MAX}")
    zone, zoned, spec = None, False, text
    if text.startswith(("TZ=", "CRON_TZ=")):
        name, blank, spec = text.partition("=")[2].partition(" ")
        if not blank:
            raise InvalidJob("schedule", f"timezone prefix {text!r} is not followed by a schedule")
        try:
            zone = load_zone(name)
        except ValueError as error:
            raise InvalidJob("schedule", f"provided bad location {name}: {error}") from error
        zoned, spec = True, spec.strip()
        if not spec:
            raise InvalidJob("schedule", f"timezone prefix {text!r} is not followed by a schedule")
    if spec.startswith("@"):
        if spec.startswith("@every "):
            if zoned:
                raise InvalidJob("schedule", f"timezone is not supported for @every schedules: {spec}")
            try:
                return Every(parse_go_duration(spec.removeprefix("@every ")))
            except ValueError as error:
                raise InvalidJob("schedule", f"failed to parse duration {spec}: {error}") from error
        cron = _DESCRIPTORS.get(spec)
        if cron is None:
            raise InvalidJob("schedule", f"unrecognized descriptor: {spec}")
        spec = cron
    fields = spec.split()
    if len(fields) != 6:
        raise InvalidJob("schedule", f"expected exactly 6 fields, found {len(fields)}: [{' '.join(fields)}]")
    return Cron(fields, zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedTimes:
    """What was decided when a job was accepted. `first_ns` None: nothing ever fires (its ttl is over already)."""

    schedule: Schedule | None
    first_ns: int | None
    expires_ns: int | None


def resolve(  # noqa: C901 - the reference's checks, in the reference's order
    *, schedule: str | None, repeats: int | None, due_time: str | None, ttl: str | None, now_ns: int
) -> ResolvedTimes:
    """Check a job's time fields in the reference's order and resolve them against now. Raises InvalidJob."""
    if schedule is None:
        if due_time is None:
            raise InvalidJob("schedule", "job must have either a due time or a schedule")
        if repeats is not None and repeats > 1:
            raise InvalidJob("repeats", "job must have a schedule to repeat")
    if repeats == 0:
        raise InvalidJob("repeats", "defined repeats must be greater than 0")
    if schedule is None and ttl is not None:
        raise InvalidJob("ttl", "job must have a schedule to have a ttl")
    parsed = parse_schedule(schedule) if schedule is not None else None
    first = expires = None
    if due_time is not None:
        try:
            first = parse_time(due_time, now_ns)
        except RepeatedDuration as error:
            raise InvalidJob("due_time", "repeats not supported for due time") from error
        except ValueError as error:
            raise InvalidJob("due_time", "due time format not recognized") from error
    if ttl is not None:
        try:
            expires = parse_time(ttl, first if first is not None else now_ns)
        except ValueError as error:
            raise InvalidJob("ttl", "ttl format not recognized") from error
        if first is not None and first > expires:
            raise InvalidJob("ttl", "ttl must be greater than due time")
    if parsed is not None:
        following = parsed.next_after(now_ns)
        if following is None:
            raise InvalidJob("schedule", f"schedule never matches: {schedule}")
        if first is None:
            first = following
    if first is not None and expires is not None and first > expires:
        first = None
    return ResolvedTimes(schedule=parsed, first_ns=first, expires_ns=expires)
