"""From flags to a running process: settings that are checked, logs, exit codes, and errors as one line that says what to do."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click

from scheduler.config import ConfigError
from scheduler.core.errors import SchedulerError

LEVELS = click.Choice(["debug", "info", "warn", "error", "fatal"])


def run(work: Coroutine[Any, Any, int], *, loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    """Run to the end, on the loop that `loop` makes, and exit with its code."""
    from scheduler.etcd.binary import EtcdBinaryMissing

    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            sys.exit(runner.run(work))
    except (ConfigError, EtcdBinaryMissing, SchedulerError, OSError, RuntimeError) as error:
        click.echo(f"scheduler: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def settings_of(kind: Callable[..., Any], values: dict[str, Any]) -> Any:
    """Settings from flags; what cannot be is told, and ends us."""
    try:
        return kind(**values)
    except ConfigError as error:
        click.echo(f"scheduler: {error}", err=True)
        sys.exit(1)


def configure_logs(level: str, *, as_json: bool, file: Path | None = None) -> None:
    """See `scheduler.logs`; a file that cannot be written is told, and ends us."""
    from scheduler import logs

    try:
        logs.configure(level=level, as_json=as_json, file=file)
    except OSError as error:
        click.echo(f"scheduler: --log-file: {error}", err=True)
        sys.exit(1)


def split(value: str) -> tuple[str, ...]:
    """The parts of a comma-separated list that are not empty."""
    return tuple(part.strip() for part in value.split(",") if part.strip())
