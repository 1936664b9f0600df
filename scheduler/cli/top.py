"""`scheduler top`: a cluster as it works now. Two looks at every member give the rates between them."""

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import click

from scheduler._pb.scheduler_admin.v1 import admin_pb2 as pb
from scheduler.aio.clock import SystemClock
from scheduler.cli.endpoint import Endpoint, connection_options, explain, run_or_explain
from scheduler.cli.members import ClusterClient, Seen, lateness_ms
from scheduler.cli.output import duration, milliseconds, table_lines
from scheduler.cli.screen import Line, screen
from scheduler.http2.grpc import RpcError

_HEADER = (
    "REPLICA", "STATE", "PARTITIONS", "JOBS", "STREAMS", "TRIGGERS/S", "FAILED/S", "LATE P50", "LATE P99", "IN FLIGHT", "STAGED",
    "UNCOMMITTED",
)  # fmt: skip
_INTERVAL_MIN_S = 0.2


@click.command()
@connection_options
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(_INTERVAL_MIN_S),
    default=1.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print one frame and end; without a terminal it is always so.")
def top(endpoint: Endpoint, interval_s: float, once: bool) -> None:
    """Watch a cluster at work: rates, lateness, and what waits, for each member and all together.

    `q` quits. What is shown is the time between two looks; LATE is from the due time to the stream.
    """
    if once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        click.echo("\n".join(_text(line) for line in run_or_explain(endpoint, _once(endpoint, interval_s))))
        return
    run_or_explain(endpoint, _watch(endpoint, interval_s))


class Rates(NamedTuple):
    """What one member did between two looks."""

    seconds: float
    totals: pb.Totals

    def per_s(self, count: int) -> float:
        """A count as a rate."""
        return count / self.seconds if self.seconds > 0 else 0.0


def between(before: pb.GetStatusResponse | None, after: pb.GetStatusResponse) -> Rates | None:
    """The rates of a member; None where there is nothing to compare, or it has been restarted since."""
    if before is None or before.member.started_unix_ms != after.member.started_unix_ms:
        return None
    seconds = after.process.boottime_s - before.process.boottime_s
    old, new = before.totals, after.totals
    # A histogram is empty until its first value.
    earlier = list(old.lateness.counts) or [0] * len(new.lateness.counts)
    lateness = pb.Histogram(
        bounds_s=new.lateness.bounds_s,
        counts=[later - past for past, later in zip(earlier, new.lateness.counts, strict=True)],
    )
    totals = pb.Totals(
        sent=new.sent - old.sent,
        succeeded=new.succeeded - old.succeeded,
        failed=new.failed - old.failed,
        jobs_created=new.jobs_created - old.jobs_created,
        jobs_deleted=new.jobs_deleted - old.jobs_deleted,
        commits=new.commits - old.commits,
        lateness=lateness,
    )
    return Rates(seconds, totals)


def frame(before: Sequence[Seen], after: Sequence[Seen], *, at_s: float, problem: str = "") -> list[Line]:
    """What is shown of two looks. `problem`: why the second could not be made."""
    old = {one.member.replica: one.status for one in before}
    rates = {
        one.member.replica: found
        for one in after
        if one.status is not None and (found := between(old.get(one.member.replica), one.status)) is not None
    }
    statuses = [one.status for one in after if one.status is not None]
    clock = datetime.fromtimestamp(at_s, UTC).strftime("%H:%M:%SZ")
    owned = sum(one.member.partitions for one in after)
    count = max((one.partition_count for one in statuses), default=0)
    jobs, streams = sum(one.load.jobs for one in statuses), sum(one.load.streams for one in statuses)
    title = (
        f"scheduler  {clock}  {len(after)} members  {owned}/{count} partitions owned  {jobs} jobs  {streams} streams"
    )
    lines: list[Line] = [(title, {"bold": True} if owned == count else {"bold": True, "fg": "red"})]
    lines.append((f"no news: {problem}", {"fg": "red"}) if problem else _summary(list(rates.values()), statuses))
    lines.append("")
    table = table_lines(_HEADER, [_row(one, rates.get(one.member.replica)) for one in after])
    lines.append((table[0], {"bold": True}))
    for seen, text in zip(after, table[1:], strict=True):
        well = seen.status is not None and seen.status.ready
        lines.append(text if well else (text, {"fg": "red"}))
    for seen in after:
        name = seen.member.replica
        if seen.status is None:
            lines.append((f"{name} at {seen.member.address} does not answer: {seen.problem}", {"fg": "red"}))
        elif not seen.status.ready:
            lines.append((f"{name} is not ready: {seen.status.not_ready}", {"fg": "red"}))
    return lines


def _summary(rates: list[Rates], statuses: list[pb.GetStatusResponse]) -> str:
    def per_s(field: str) -> float:
        return sum(one.per_s(getattr(one.totals, field)) for one in rates)

    late = [one.totals for one in rates]
    oldest_s = max((one.load.oldest_due_s for one in statuses), default=0.0)
    waits = f"  oldest due {duration(oldest_s)} ago" if oldest_s >= 1 else ""
    return (
        f"triggers {per_s('sent'):.1f}/s  answered {per_s('succeeded'):.1f}/s  failed {per_s('failed'):.1f}/s  "
        f"late p50 {milliseconds(lateness_ms(late, 0.5))} p99 {milliseconds(lateness_ms(late, 0.99))}  "
        f"created {per_s('jobs_created'):.1f}/s  deleted {per_s('jobs_deleted'):.1f}/s  commits {per_s('commits'):.1f}/s{waits}"
    )


def _row(seen: Seen, rates: Rates | None) -> tuple[object, ...]:
    member, status = seen.member, seen.status
    state = "drained" if status is not None and status.drained and not member.partitions else member.state
    if status is None:
        return (member.replica, state, member.partitions, *[None] * 9)
    load = status.load
    shown: tuple[object, ...] = (None, None, None, None)
    if rates is not None:
        totals = rates.totals
        late = (milliseconds(lateness_ms([totals], share)) for share in (0.5, 0.99))
        shown = (f"{rates.per_s(totals.sent):.1f}", f"{rates.per_s(totals.failed):.1f}", *late)
    return (
        member.replica, state, member.partitions, load.jobs, load.streams, *shown, load.in_flight, load.staged, load.uncommitted,
    )  # fmt: skip


def _text(line: Line) -> str:
    return line if isinstance(line, str) else line[0]


def _now_s() -> float:
    return SystemClock().wall_ns() * 1e-9


async def _once(endpoint: Endpoint, interval_s: float) -> list[Line]:
    async with ClusterClient(endpoint) as client:
        before = await client.survey()
        await asyncio.sleep(interval_s)
        return frame(before, await client.survey(), at_s=_now_s())


async def _watch(endpoint: Endpoint, interval_s: float) -> None:
    """Draw until the person quits. Raises RpcError where the first look already fails, with the terminal as it was."""
    async with ClusterClient(endpoint) as client:
        before = after = await client.survey()
        problem = ""

        async def keep_looking() -> None:
            nonlocal before, after, problem
            while True:
                await asyncio.sleep(interval_s)
                try:
                    before, after, problem = after, await client.survey(), ""
                except (RpcError, OSError, ValueError) as error:
                    problem = explain(error) if isinstance(error, RpcError) else str(error)
                terminal.redraw.set()

        with screen() as terminal:
            async with asyncio.TaskGroup() as tasks:
                looking = tasks.create_task(keep_looking(), name="top looks")
                while not terminal.quit.is_set():
                    terminal.draw([*frame(before, after, at_s=_now_s(), problem=problem), "", "q quits"])
                    terminal.redraw.clear()
                    await terminal.redraw.wait()
                looking.cancel()
