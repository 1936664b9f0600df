"""The app as our child, for `scheduler sidecar run -- COMMAND`: it is told where we are, ends when we end, and we end when it ends."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence

from scheduler.etcd.embedded import die_with_parent
from scheduler.logs import get_logger

_log = get_logger("sidecar.command")


class AppProcess:
    """One child, in a process group of its own, so that what it starts is stopped with it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """`environment` is added to ours."""
        self._command = tuple(command)
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Raises OSError for a command that cannot be started."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, **self._environment},
            process_group=0,
            preexec_fn=die_with_parent,
        )
        _log.info("app_started", pid=self._process.pid, command=" ".join(self._command))

    async def wait(self) -> None:
        """Until it has ended."""
        assert self._process is not None
        await self._process.wait()
        _log.info("app_ended", code=self._process.returncode)

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM to the group; SIGKILL to what is left after `timeout_s`."""
        if self._process is None:
            return
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._process.wait()
        self._signal(signal.SIGKILL)
        await self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def exit_code(self, *, asked_to_stop: bool) -> int:
        """What we exit with: the app's own code, 128 and the signal's number as a shell has it; 0 where it ended because we asked."""
        code = self._process.returncode if self._process is not None else None
        if code is None:
            return 0
        if code < 0:
            return 0 if asked_to_stop else 128 - code
        return code
