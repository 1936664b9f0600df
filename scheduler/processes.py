"""`scheduler serve --processes N`: several replicas on one host, each a process and a member of its own, since one process uses one core.

WatchHosts lists members by their addresses, and a sidecar must reach every one of them: so each replica has a port of its own, not a share of one. The
supervisor here serves no job itself: it starts the replicas, starts again what has ended, hands SIGTERM and SIGHUP on, and answers for all of them on one
port of health and one of metrics. An embedded etcd is the supervisor's child, and outlives any replica.
"""

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from dataclasses import replace

import aiohttp
from prometheus_client import CollectorRegistry

from scheduler.aio.endpoint import Check, Endpoints
from scheduler.config import ServeSettings
from scheduler.etcd.embedded import EmbeddedEtcd, die_with_parent, free_port
from scheduler.exposition import merged
from scheduler.logs import get_logger

_RESTART_PAUSE_S = (0.5, 10.0)
# A process that has run so long was well: its end is an accident, and the next pause is the shortest again.
_WELL_S = 60.0
# A first start that is refused so soon (a port is taken, etcd holds another cluster) would be refused again.
_REFUSED_S = 10.0
_PROBE_S = 1.0
_PROBE_TIMEOUT_S = 2.0
_STOP_GRACE_S = 5.0

_log = get_logger("processes")


def settings_of(settings: ServeSettings, index: int) -> ServeSettings:
    """What one of several replicas on a host has of its own: its name, its port, its advertised port."""
    told = settings.override_broadcast_host_port
    if told:
        host, _, port = told.rpartition(":")
        told = f"{host}:{int(port) + index}"
    return replace(
        settings,
        processes=1,
        id=f"{settings.id}-{index}",
        port=settings.port + index if settings.port else 0,
        override_broadcast_host_port=told,
    )


def _before_exec() -> None:
    """Runs in the child."""
    die_with_parent()
    # A SIGHUP that is handed on before the replica follows its file of settings, or where it has none, must not end it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


class _Child:
    """One replica's process; a new one after each end."""

    def __init__(self, index: int, settings: ServeSettings, command: Sequence[str]) -> None:
        self.settings = settings_of(settings, index)
        self.label = str(index)
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self.health_port = self.metrics_port = 0
        self.problem = "starting"

    async def run_once(self, stop: asyncio.Event) -> int:
        """Start it and wait for its end, handing `stop` on; its exit code, negative for a signal."""
        # New ports each time: somebody may have taken the old ones.
        self.health_port, self.metrics_port = free_port(), free_port()
        mine = self.settings
        flags = [
            f"--id={mine.id}",
            f"--port={mine.port}",
            f"--override-broadcast-host-port={mine.override_broadcast_host_port}",
        ]
        flags += [f"--healthz-port={self.health_port}", "--healthz-listen-address=127.0.0.1"]
        flags += [f"--metrics-port={self.metrics_port}", "--metrics-listen-address=127.0.0.1"]
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command, *flags, stdin=asyncio.subprocess.DEVNULL, preexec_fn=_before_exec,
            # A Ctrl-C reaches the supervisor alone, which hands it on.
            start_new_session=True,
        )  # fmt: skip
        _log.info("process_started", id=mine.id, port=mine.port, pid=process.pid)
        self.problem = "starting"
        stopped = asyncio.ensure_future(stop.wait())
        ended = asyncio.ensure_future(process.wait())
        try:
            await asyncio.wait({stopped, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await self._stop(process)
            return await ended
        finally:
            stopped.cancel()
            self.problem = "not running"

    def reload(self) -> None:
        """Have it read its file of settings again."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGHUP)

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.settings.drain_timeout_s + _STOP_GRACE_S):
                await process.wait()
        except TimeoutError:
            _log.error("process_killed", id=self.settings.id, reason="it did not stop in time")
            process.kill()

    async def probe(self, session: aiohttp.ClientSession) -> None:
        """Ask whether it is ready."""
        if self.problem == "not running":
            return
        port = self.health_port
        try:
            async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                problem = "" if answer.status == 200 else (await answer.text()).strip().replace("\n", "; ")
        except (aiohttp.ClientError, TimeoutError, OSError):
            problem = "does not answer"
        if port == self.health_port and self.problem != "not running":
            self.problem = problem

    async def samples(self, session: aiohttp.ClientSession) -> str:
        """Its metrics; empty while it does not answer."""
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with session.get(f"http://127.0.0.1:{self.metrics_port}/metrics") as answer:
                return await answer.text()
        return ""


class Processes:
    """The supervisor. Use `run`."""

    def __init__(self, settings: ServeSettings, command: Sequence[str]) -> None:
        """`command` starts one replica; flags of its own are put behind."""
        self._settings = settings
        self._command = command
        self._stop = asyncio.Event()
        self._endpoints = Endpoints()
        self._children: list[_Child] = []
        self._codes: list[int] = []
        self._embedded: EmbeddedEtcd | None = None

    async def run(self) -> int:
        """Until SIGTERM or SIGINT, or until a replica is refused at its first start. Returns the exit code; raises OSError for a port that is taken."""
        settings = self._settings
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        # Where there is a file of settings, what follows it takes this signal over, and calls `reload`.
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        ready = {f"process {index}": self._problem_of(index) for index in range(settings.processes)}
        try:
            # Alive as long as it answers: a replica that is stuck ends itself, and is started again here.
            await self._endpoints.serve_health(
                settings.healthz_listen_address, settings.healthz_port, live={}, ready=ready
            )
            etcd = await self._start_etcd()
            command = [*self._command, *etcd]
            self._children = [_Child(index, settings, command) for index in range(settings.processes)]
            timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
            async with aiohttp.ClientSession(timeout=timeout) as session:
                if settings.enable_metrics:
                    await self._endpoints.serve_metrics(
                        settings.metrics_listen_address,
                        settings.metrics_port,
                        CollectorRegistry(),
                        more=lambda: self._metrics(session),
                    )
                await self._supervise(session)
        finally:
            await self._endpoints.close()
            if self._embedded is not None:
                await self._embedded.stop()
        return max((code if code >= 0 else 1 for code in self._codes), default=0)

    def reload(self) -> None:
        """Have every replica read its file of settings again."""
        for child in self._children:
            child.reload()

    async def _start_etcd(self) -> list[str]:
        """The embedded etcd, if that is what there is; what tells the replicas of it."""
        settings = self._settings
        if not settings.etcd_embed:
            return []
        self._embedded = EmbeddedEtcd.of(settings)
        await self._embedded.start(self._stop)
        return ["--etcd-embed=false", f"--etcd-client-endpoints={self._embedded.endpoint}"]

    async def _supervise(self, session: aiohttp.ClientSession) -> None:
        async with asyncio.TaskGroup() as tasks:
            prober = tasks.create_task(self._probe(session), name="probes")
            async with asyncio.TaskGroup() as replicas:
                for child in self._children:
                    replicas.create_task(self._keep(child), name=f"process {child.label}")
            prober.cancel()

    async def _keep(self, child: _Child) -> None:
        """One replica, started again with growing pauses until `stop`."""
        loop = asyncio.get_running_loop()
        first, pause_s = True, _RESTART_PAUSE_S[0]
        while not self._stop.is_set():
            began = loop.time()
            code = await child.run_once(self._stop)
            if self._stop.is_set():
                # SIGTERM found it before it had got as far as listening to that.
                self._codes.append(0 if code == -signal.SIGTERM else code)
                return
            lived_s = loop.time() - began
            if first and code > 0 and lived_s < _REFUSED_S:
                _log.error("process_refused", id=child.settings.id, exit_code=code, hint="its own last lines say why")
                self._codes.append(code)
                self._stop.set()
                return
            first = False
            if lived_s > _WELL_S:
                pause_s = _RESTART_PAUSE_S[0]
            _log.error(
                "process_ended", id=child.settings.id, exit_code=code, lived_s=round(lived_s, 1), next_try_s=pause_s
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()
            pause_s = min(_RESTART_PAUSE_S[1], pause_s * 2)

    async def _probe(self, session: aiohttp.ClientSession) -> None:
        while True:
            for child in self._children:
                await child.probe(session)
            await asyncio.sleep(_PROBE_S)

    def _problem_of(self, index: int) -> Check:
        def problem() -> str | None:
            if self._stop.is_set():
                return "shutting down"
            return (self._children[index].problem or None) if self._children else "starting"

        return problem

    async def _metrics(self, session: aiohttp.ClientSession) -> bytes:
        """All replicas' samples, each with its `process`, and those of the embedded etcd."""
        async with asyncio.TaskGroup() as tasks:
            asked = [(child.label, tasks.create_task(child.samples(session))) for child in self._children]
        text = merged("process", [(label, task.result()) for label, task in asked])
        return text.encode() + (await self._embedded.metrics() if self._embedded else b"")
