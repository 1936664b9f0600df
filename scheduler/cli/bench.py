"""`scheduler bench`: measure any server of the Scheduler contract, from outside."""

import functools
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from scheduler.cli.endpoint import Endpoint, endpoint_options, run_or_explain
from scheduler.cli.output import output_option, print_document

# Where nobody watches, a line in so many seconds shows that it goes on.
_LINE_S = 10.0
_MODES = click.Choice(["create", "storm", "every", "idle", "mixed", "fair"])


def _progress(now_s: Callable[[], float] = time.monotonic) -> Callable[[str], None]:
    """Says how far it is, on stderr: a terminal's line is written over, elsewhere lines follow each other at leisure."""
    said_s = now_s()

    def say(text: str) -> None:
        nonlocal said_s
        if sys.stderr.isatty():
            click.echo(f"\r\033[K{text}", err=True, nl=False)
        elif text and now_s() - said_s >= _LINE_S:
            said_s = now_s()
            click.echo(text, err=True)

    return say


@click.command(short_help="Measure a scheduler: creates, storms, recurring jobs, memory.")
@click.argument("modes", type=_MODES, nargs=-1, required=True)
@functools.partial(endpoint_options, app_id="bench")
@click.option("-n", "--jobs", type=click.IntRange(1), default=10_000, show_default=True, help="Jobs of each mode.")
@click.option(
    "--seconds", type=click.FloatRange(1), default=20.0, show_default=True, help="How long every and mixed listen."
)
@click.option(
    "--spread",
    "spread_s",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Seconds over which recurring jobs' due instants are spread.",
)
@click.option(
    "--lead",
    "lead_s",
    type=click.FloatRange(0),
    default=None,
    help="Seconds until jobs are due.  [default: twice what creating takes, by a trial]",
)
@click.option("--creates-per-s", default=500.0, show_default=True, help="Of mixed.")
@click.option("--deletes-per-s", default=200.0, show_default=True, help="Of mixed.")
@click.option("--lists-per-s", default=50.0, show_default=True, help="Of mixed: lists of 100 jobs.")
@click.option(
    "--answered/--unanswered", default=True, show_default=True, help="Of fair: whether the storm's app answers."
)
@click.option("--concurrency", type=click.IntRange(1), default=128, show_default=True, help="Creates at once.")
@click.option("--connections", type=click.IntRange(1), default=4, show_default=True, help="Connections for calls.")
@click.option("--streams", type=click.IntRange(1), default=3, show_default=True, help="WatchJobs streams to each host.")
@click.option("--payload-bytes", type=click.IntRange(0), default=32, show_default=True, help="Data of each job.")
@click.option(
    "--pids", default="", help="The server's processes, etcd included, for their CPU and memory; comma separated."
)
@output_option
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="An earlier run's JSON to compare with.",
)
def bench(
    modes: tuple[str, ...],
    endpoint: Endpoint,
    namespace: str,
    app_id: str,
    pids: str,
    output: str,
    against: Path | None,
    **values: Any,
) -> None:
    """Measure a scheduler by MODES, in their order, and say whether each trigger came exactly once and never early.

    create: jobs created per second, and the latency of each create. storm: one-shots that are all due at one instant.
    every: recurring jobs, each once a second, and their lateness. idle: jobs of the far future, and the server's memory.
    mixed: recurring jobs, while others create, delete and list. fair: a storm of one app, and what a quiet app beside it has
    of that: its triggers' lateness and its calls' latency.

    Everything that was created is deleted at the end. The exit code is 1 where a trigger was early, repeated or missing.
    """
    from scheduler.aio.clock import SystemClock
    from scheduler.bench.load import Load, Settings
    from scheduler.bench.modes import Bench, Plan, TooSlow
    from scheduler.bench.report import Processes, document, table

    settings = Settings(namespace, app_id, *(values.pop(name) for name in Settings._fields[2:]))
    try:
        processes = Processes([int(pid) for pid in pids.split(",") if pid])
        processes.cpu_s()
        earlier = json.loads(against.read_text()) if against else None
    except (OSError, ValueError) as error:
        click.echo(f"scheduler: --pids or --against: {error}", err=True)
        sys.exit(1)

    say = _progress()

    async def work() -> bool:
        load = Load(settings, SystemClock())
        run = f"bench-{os.urandom(4).hex()}"
        measured = Bench(load=load, plan=Plan(**values), processes=processes, run=run, say=say)
        async with load.opened(endpoint.connect, endpoint.address, measured.arrived):
            results = []
            for mode in modes:
                results.append(await measured.run(mode))
                say("")
        now = datetime.now(UTC).isoformat(timespec="seconds")  # noqa: TID251 - the report's date
        if output != "table":
            print_document(output, document(results, load.hosts, now, earlier))
        else:
            click.echo("\n".join(table(results, earlier)))
        return all(result.correct for result in results)

    try:
        correct = run_or_explain(endpoint, work())
    except TooSlow as error:
        click.echo(f"scheduler: {error}", err=True)
        sys.exit(1)
    sys.exit(0 if correct else 1)
