"""Takes a changed file of settings over while the process runs: at SIGHUP, and when its content changes. What cannot be is refused; what was in force stays.

Only settings that are marked live in the table take effect; of others the log says that they wait for a restart. Certificates are followed by identity/.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from scheduler import logs
from scheduler.cli import config_file
from scheduler.config import ConfigError, ServeSettings, SidecarSettings, settings_table

Settings = ServeSettings | SidecarSettings

# Reading a small file costs nothing; asking its content, not its time, also sees what Kubernetes does with links.
_POLL_S = 3.0

_log = logs.get_logger("settings")


class Reload:
    """The file of settings of one process, and what of it is in force."""

    def __init__(
        self,
        command: click.Command,
        settings: Settings,
        *,
        path: Path,
        fixed: dict[str, Any],
        make: Callable[[dict[str, Any]], Settings],
        note: Callable[[bool], None],
    ) -> None:
        """`fixed` are values by flags and environment, which a file does not change; `note` hears of each try whether it was taken."""
        self._command = command
        self._settings = settings
        self._path = path
        self._fixed = fixed
        self._make = make
        self._note = note
        self._content = _content(path)

    async def beside(self, work: Coroutine[Any, Any, int]) -> int:
        """Follow the file for as long as `work` takes; its exit code."""
        # No group: the work's errors must leave as they are, for whoever explains them.
        following = asyncio.create_task(self._follow(), name="file of settings")
        try:
            return await work
        finally:
            following.cancel()

    async def _follow(self) -> None:
        asked = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, asked.set)
        while True:
            try:
                async with asyncio.timeout(_POLL_S):
                    await asked.wait()
            except TimeoutError:
                pass
            content = _content(self._path)
            if content != self._content or asked.is_set():
                self._content = content
                self.step()
            asked.clear()

    def step(self) -> None:
        """Read the file and take over what can be."""
        try:
            found = self._read()
        except ConfigError as error:
            self._note(False)
            _log.error("settings_refused", error=str(error), hint="what was in force stays in force")
            return
        kind: type = type(found)
        changed = [
            row for row in settings_table(kind) if getattr(found, row.field) != getattr(self._settings, row.field)
        ]
        if found.log_level != self._settings.log_level:
            logs.set_level(found.log_level)
            # What else differs is not in force, and goes on waiting.
            self._settings = replace(self._settings, log_level=found.log_level)
        self._note(True)
        _log.info("settings_reloaded", file=self._path, changed=",".join(row.flag for row in changed if row.live))
        waiting = [row.flag for row in changed if not row.live]
        if waiting:
            _log.warning("settings_wait_for_a_restart", settings=",".join(waiting))

    def _read(self) -> Settings:
        """The settings that a start would have now. Raises ConfigError."""
        entries = config_file.read(self._path, self._command)
        return self._make({**config_file.values(self._command, entries), **self._fixed})


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


async def _without_file(work: Coroutine[Any, Any, int]) -> int:
    """The work, which SIGHUP does not end: whoever sends it wants a reload, here of nothing."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, _log.info, "no_file_of_settings_to_reload")
    return await work


def following(
    ctx: click.Context,
    settings: Settings,
    work: Coroutine[Any, Any, int],
    *,
    fixed: dict[str, Any] | None = None,
    make: Callable[[dict[str, Any]], Settings],
    note: Callable[[bool], None],
) -> Coroutine[Any, Any, int]:
    """The work, while the command's file of settings is followed where there is one. `fixed` goes before it beside flags and environment."""
    path = ctx.params[config_file.PARAMETER]
    if path is None:
        return _without_file(work)
    source = click.core.ParameterSource
    given = {source.COMMANDLINE, source.ENVIRONMENT}
    named = {name: value for name, value in ctx.params.items() if ctx.get_parameter_source(name) in given}
    return Reload(ctx.command, settings, path=path, fixed={**named, **(fixed or {})}, make=make, note=note).beside(work)
