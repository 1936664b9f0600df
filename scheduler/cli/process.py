"""From flags to a running process: settings that are checked, logs, exit codes, and errors as one line that says what to do."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from scheduler.cli.output import fail
from scheduler.config import ConfigError
from scheduler.core.errors import SchedulerError


def run(work: Coroutine[Any, Any, int], *, loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    """Run to the end, on the loop that `loop` makes, and exit with its code."""
    from scheduler.etcd.binary import EtcdBinaryMissing

    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            sys.exit(runner.run(work))
    except (ConfigError, EtcdBinaryMissing, SchedulerError, OSError, RuntimeError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def settings_of(make: Callable[[], Any]) -> Any:
    """Settings from flags; what cannot be is told, and ends us."""
    try:
        return make()
    except ConfigError as error:
        fail(str(error))


def configure_logs(level: str, *, as_json: bool, file: Path | None = None) -> None:
    """See `scheduler.logs`; a file that cannot be written is told, and ends us."""
    from scheduler import logs

    try:
        logs.configure(level=level, as_json=as_json, file=file)
    except OSError as error:
        fail(f"--log-file: {error}")
