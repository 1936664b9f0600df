"""`scheduler schedule explain`: when a schedule fires, in words and in times, by the same rules as the servers. No server is needed."""

from typing import Any

import click

from scheduler.cli.output import echo, fail, output_option, print_document, print_table, say
from scheduler.core.calendar import Zone, load_zone
from scheduler.core.cron import NS, Cron
from scheduler.core.errors import InvalidJob
from scheduler.core.explain import clock_changes, describe, local_text, next_times, weekday_name, wrong_field
from scheduler.core.schedule import Schedule, resolve
from scheduler.core.timestamps import format_rfc3339, parse_rfc3339

_ZONE_PREFIXES = ("TZ=", "CRON_TZ=")


@click.group()
def schedule() -> None:
    """Look at schedules."""


@schedule.command()
@click.argument("expression")
@click.option("--tz", default="", help="IANA time zone, such as Europe/Paris.  [default: UTC]")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many times.")
@click.option("--from", "start", default=None, help="Instant to start from, RFC 3339.  [default: now]")
@output_option
def explain(expression: str, tz: str, count: int, start: str | None, output: str) -> None:
    """Tell when EXPRESSION fires next, and what changes of the clock do to it.

    \b
    Example: scheduler schedule explain "0 30 2 * * *" --tz Europe/Paris
    """
    now_ns, zone = _instant(start), _zone(tz)
    text = expression
    if tz and expression.startswith(_ZONE_PREFIXES):
        fail("--tz: the schedule names its zone itself; leave one of them out")
    if zone is not None and not expression.startswith("@every"):
        text = f"TZ={tz} {expression}"
    parsed = _parsed(text, now_ns)
    if isinstance(parsed, Cron):
        zone = parsed.zone
    times = next_times(parsed, now_ns, count)
    changes = clock_changes(parsed, now_ns, times[-1]) if isinstance(parsed, Cron) else []
    name = zone.name if zone else "UTC"
    notes = [change.words(name) for change in changes]
    if output != "table":
        shown = [{"time": format_rfc3339(at), "local": local_text(at // NS, zone)} for at in times]
        document: dict[str, Any] = {"schedule": text, "words": describe(parsed), "zone": name}
        print_document(output, {**document, "from": format_rfc3339(now_ns), "times": shown, "notes": notes})
        return
    echo(f"{text}: {describe(parsed)} ({name})")
    echo("")
    rows = [
        (f"{weekday_name(at // NS, zone)[:3]} {local_text(at // NS, zone)}", format_rfc3339(at), _distance(at - now_ns))
        for at in times
    ]
    print_table((f"TIME IN {name}" if zone else "TIME", "RFC 3339", "IN" if start is None else "AFTER --from"), rows)
    for note in notes:
        echo(f"note: {note}", fg="yellow")


def _instant(start: str | None) -> int:
    if start is None:
        from scheduler.aio.clock import SystemClock

        return SystemClock().wall_ns()
    try:
        return parse_rfc3339(start)
    except ValueError as error:
        fail(f"--from: {error}; 2026-03-01T00:00:00Z is")


def _zone(name: str) -> Zone | None:
    try:
        return load_zone(name)
    except ValueError as error:
        fail(f"--tz: {error}; names such as Europe/Paris and America/New_York are known")


def _parsed(text: str, now_ns: int) -> Schedule:
    """The schedule, or the server's error with the field that it is about."""
    try:
        parsed = resolve(schedule=text, repeats=None, due_time=None, ttl=None, now_ns=now_ns).schedule
    except InvalidJob as error:
        if where := wrong_field(text):
            begin, end, name = where
            say(f"  {text}\n  {' ' * begin}{'^' * (end - begin)} {name}")
        elif "6 fields" in error.message and len(fields := text.split()) in {5, 6}:
            say(
                f"  fields are: second minute hour day-of-month month day-of-week; seconds come first, as in: 0 {' '.join(fields[-5:])}"
            )
        fail(f"{error.field}: {error.message}")
    assert parsed is not None
    return parsed


def _distance(ns: int) -> str:
    """A time span as people say it, to the second."""
    days, second = divmod(max(0, -(-ns // NS)), 86_400)
    parts = ((days, "d"), (second // 3600, "h"), (second // 60 % 60, "m"), (second % 60, "s"))
    return " ".join([f"{value}{unit}" for value, unit in parts if value][:3]) or "0s"
