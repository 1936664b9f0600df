"""Whether the app may be told of jobs (sidecar-and-jobs-api.md 3.5): its port, then, where that is asked for, its health checks."""

import asyncio
from collections.abc import Callable

from scheduler.config import SidecarSettings
from scheduler.logs import get_logger
from scheduler.sidecar.channels import AppChannel, port_open

_PORT_RETRY_S = 0.1
_PORT_TIMEOUT_S = 0.5

_log = get_logger("sidecar.app")


class Verdicts:
    """The rule alone: unhealthy at first, healthy with one success, unhealthy again with `threshold` failures in a row."""

    def __init__(self, threshold: int) -> None:
        """`threshold` is at least 1."""
        self._threshold = threshold
        self._failures = 0
        self.healthy = False

    def note(self, *, succeeded: bool) -> bool:
        """One probe's result; whether it changes how things stand."""
        before = self.healthy
        if succeeded:
            self._failures, self.healthy = 0, True
        else:
            self._failures += 1
            if self._failures >= self._threshold:
                self.healthy = False
        return self.healthy is not before


class AppHealth:
    """Follows one app."""

    def __init__(self, settings: SidecarSettings, app: AppChannel, on_change: Callable[[bool], None]) -> None:
        """`on_change(healthy)` hears of each change; the app counts as unhealthy before the first."""
        self._settings = settings
        self._app = app
        self._on_change = on_change
        self.reached = False

    async def run(self) -> None:
        """Wait for the port; then probe until cancelled, or be done where no probes are asked for."""
        settings = self._settings
        assert settings.app_port is not None
        while not await port_open(settings.app_channel_address, settings.app_port, _PORT_TIMEOUT_S):  # noqa: ASYNC110 - a port tells nobody that it opens
            await asyncio.sleep(_PORT_RETRY_S)
        self.reached = True
        _log.info("app_reached", port=settings.app_port)
        if settings.enable_app_health_check:
            await self._probe()
        else:
            self._on_change(True)  # noqa: FBT003 - a callback's only argument

    async def _probe(self) -> None:
        loop = asyncio.get_running_loop()
        verdicts = Verdicts(self._settings.app_health_threshold)
        next_s = loop.time()
        while True:
            succeeded = False
            try:
                async with asyncio.timeout(self._settings.app_health_probe_timeout_ms / 1000):
                    succeeded = await self._app.probe(self._settings.app_health_check_path)
            except TimeoutError:
                pass
            if verdicts.note(succeeded=succeeded):
                _log.info("app_health_changed", healthy=verdicts.healthy)
                self._on_change(verdicts.healthy)
            next_s = max(loop.time(), next_s + self._settings.app_health_probe_interval_s)
            await asyncio.sleep(next_s - loop.time())
