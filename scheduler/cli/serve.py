"""`scheduler serve`: one replica, with the reference's flags and ours."""

import asyncio
import sys
from functools import partial
from typing import Any

import click

from scheduler.cli import config_file, reference
from scheduler.cli.options import options
from scheduler.cli.process import configure_logs, run, settings_of
from scheduler.cli.reload import following
from scheduler.config import ServeSettings


@click.command()
@options(ServeSettings, "SERVE")
@reference.options
@click.pass_context
def serve(ctx: click.Context, /, **values: Any) -> None:
    """Run one scheduler replica, or several on this host with --processes.

    Without endpoints it runs an etcd of its own, which suits one machine. Replicas of one cluster share etcd, and
    each has an --id of its own.
    """
    ignored: list[str] = []
    make = partial(serve_settings, ignored=[])
    settings: ServeSettings = settings_of(lambda: serve_settings(values, ignored))
    configure_logs(settings.log_level, as_json=settings.log_as_json, file=settings.log_file)
    if settings.processes > 1:
        from scheduler.processes import Processes

        # Each replica gets the flags and the environment that we got; the last one of a flag counts.
        command = [sys.executable, "-m", "scheduler", *sys.argv[1:], "--processes=1"]
        processes = Processes(settings, command)
        run(following(ctx, settings, processes.run(), make=make, note=lambda _: processes.reload()))
        return
    from scheduler import app
    from scheduler.aio.clock import SystemClock
    from scheduler.aio.turns import TurnTimer
    from scheduler.logs import get_logger
    from scheduler.metrics import ProcessStatistics

    for flag in ignored:
        get_logger("cli").warning("flag_without_effect", flag=flag, reason=reference.reason(flag))

    statistics, clock = ProcessStatistics(), SystemClock()

    def note(taken: bool) -> None:
        statistics.note_settings(clock.wall_ns() * 1e-9, taken=taken)

    note(True)
    work = following(ctx, settings, app.run(settings, statistics), make=make, note=note)
    run(work, loop=lambda: asyncio.SelectorEventLoop(TurnTimer(statistics.turn)))


def serve_settings(values: dict[str, Any], ignored: list[str]) -> ServeSettings:
    """The settings that the values of `serve` make; flags without effect are listed. Raises ConfigError."""
    taken = {name: value for name, value in values.items() if name != config_file.PARAMETER}
    if taken["etcd_embed"] is None:
        taken["etcd_embed"] = not taken["etcd_client_endpoints"]
    return ServeSettings(**reference.take(taken, ignored))
