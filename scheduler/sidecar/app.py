"""One sidecar: builds its parts, owns the root task group, the signals and the order of starting and stopping."""

import asyncio
import contextlib
import os
import random
import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.aio.clock import SystemClock
from scheduler.aio.endpoint import Endpoints
from scheduler.config import ConfigError, SidecarSettings
from scheduler.http2.limits import Limits
from scheduler.http2.server import Server
from scheduler.logs import get_logger
from scheduler.metrics import ProcessStatistics
from scheduler.sidecar.app_health import AppHealth
from scheduler.sidecar.channels import app_channel
from scheduler.sidecar.command import AppProcess
from scheduler.sidecar.delivery import Delivery
from scheduler.sidecar.grpc_api import SERVICE, GrpcApi
from scheduler.sidecar.http_api import HttpApi
from scheduler.sidecar.http_server import HttpServer
from scheduler.sidecar.jobs_api import JobsApi
from scheduler.sidecar.metadata import Metadata
from scheduler.sidecar.metrics import SidecarCollector, SidecarStatistics
from scheduler.sidecar.security import source_of
from scheduler.upstream.schedulers import Schedulers
from scheduler.upstream.security import ClientIdentity, Security

_METRICS_PORT = 9090
_FORCED_EXIT_S = 0.1

_log = get_logger("sidecar")


class Sidecar:
    """The parts of one sidecar, fitted together."""

    def __init__(self, settings: SidecarSettings, rng: random.Random, security: Security | None) -> None:
        """Builds; nothing runs yet."""
        self.settings = settings
        self.stop = asyncio.Event()
        self.statistics = SidecarStatistics()
        self.tracing = _tracing(settings)
        app = app_channel(settings)
        self.app = self.tracing.channel(app) if self.tracing and app else app
        self.delivery = Delivery(self.app, concurrency_max=settings.app_max_concurrency, statistics=self.statistics)
        self.schedulers = Schedulers(
            addresses=settings.scheduler_host_address,
            streams_per_host=settings.scheduler_job_streams,
            receiver=self.delivery,
            rng=rng,
            security=security,
        )
        calls = self.tracing.schedulers(self.schedulers) if self.tracing else self.schedulers
        self.jobs = JobsApi(schedulers=calls, app_id=settings.app_id, namespace=settings.namespace)
        self.metadata = Metadata(settings, lambda: self.schedulers.hosts)
        self.health = AppHealth(settings, self.app, self.app_changed) if self.app is not None else None

    def not_ready(self) -> list[str]:
        """What /v1.0/healthz waits for."""
        missing = ["runtime"] if self.health is not None and not self.health.reached else []
        if not self.schedulers.hosts_known.is_set():
            missing.append("scheduler-watch-hosts")
        return missing

    def app_changed(self, healthy: bool) -> None:  # noqa: FBT001 - a callback's only argument
        """Streams stand while the app is healthy; meanwhile due jobs wait at the schedulers."""
        initial = pb.WatchJobsRequestInitial(
            app_id=self.settings.app_id,
            namespace=self.settings.namespace,
            accept_job_types=[pb.JOB_TARGET_TYPE_JOB],
        )
        first = pb.WatchJobsRequest(initial=initial).SerializeToString()
        self.schedulers.watch(first if healthy else None)

    def shutdown(self, force: bool) -> None:  # noqa: FBT001 - a callback's only argument
        """Begin to stop; by force the process ends at once, as soon as the caller has its answer."""
        if force:
            asyncio.get_running_loop().call_later(_FORCED_EXIT_S, os._exit, 1)
        else:
            self.stop.set()


def _tracing(settings: SidecarSettings) -> Any:
    """Spans where they are asked for. Raises ConfigError where OpenTelemetry is not installed."""
    if not settings.tracing:
        return None
    try:
        # Only here: it is an extra, and its import takes time.
        from scheduler.sidecar import tracing
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--tracing is on, and {error.name} is not installed: pip install '.[otel]' in a checkout"
        ) from error
    return tracing.start(
        app_id=settings.app_id,
        namespace=settings.namespace,
        spans_per_second=settings.tracing_spans_per_second,
        wall_ns=SystemClock().wall_ns,
    )


class _Ports:
    """Everything that listens."""

    def __init__(self, sidecar: Sidecar, process: ProcessStatistics) -> None:
        self._sidecar = sidecar
        self._process = process
        settings = self._settings = sidecar.settings
        http = HttpApi(
            jobs=sidecar.jobs,
            app_id=settings.app_id,
            token=settings.dapr_api_token,
            not_ready=sidecar.not_ready,
            metadata=sidecar.metadata.json,
            set_metadata=sidecar.metadata.set,
            shutdown=sidecar.shutdown,
            log_calls=settings.enable_api_logging,
        )
        grpc = GrpcApi(
            jobs=sidecar.jobs,
            token=settings.dapr_api_token,
            metadata=sidecar.metadata.message,
            set_metadata=sidecar.metadata.set,
            shutdown=sidecar.shutdown,
            log_calls=settings.enable_api_logging,
        )
        tracing = sidecar.tracing
        self._http, self._public = (
            HttpServer(
                tracing.http(http.answer) if tracing else http.answer,
                body_max_bytes=settings.max_body_size_bytes,
                headers_max_bytes=settings.read_buffer_size_bytes,
                http2=not settings.disable_h2c,
                public=public,
            )
            for public in (False, True)
        )
        self._grpc = Server(
            methods=tracing.traced(grpc.methods(), SERVICE) if tracing else grpc.methods(),
            limits=Limits(message_max_bytes=settings.max_body_size_bytes, keepalive_idle_s=10.0),
            on_error=lambda path, error: _log.error("handler_failed", path=path, error=repr(error)),
        )
        self._endpoints = Endpoints()
        self._sockets: list[Path] = []
        # What an app that we start is told (dapr run's names).
        self.environment = {"APP_ID": settings.app_id}
        if settings.app_port is not None:
            self.environment["APP_PORT"] = str(settings.app_port)

    async def open(self) -> None:
        """Raises OSError for a port that is taken."""
        settings, environment = self._settings, self.environment
        if settings.unix_domain_socket is not None:
            await self._open_sockets(settings.unix_domain_socket)
        else:
            http_port, grpc_port = settings.dapr_http_port, settings.dapr_grpc_port
            for host in settings.dapr_listen_addresses:
                http_port = await self._http.listen(host, http_port)
                grpc_port = await self._grpc.listen(host, grpc_port)
            environment |= {"DAPR_HTTP_PORT": str(http_port), "DAPR_GRPC_PORT": str(grpc_port)}
        if settings.dapr_public_port is not None:
            for host in settings.dapr_listen_addresses:
                await self._public.listen(host, settings.dapr_public_port)
        if settings.enable_metrics:
            environment["DAPR_METRICS_PORT"] = str(await self._open_metrics())
        _log.info("sidecar_serving", **{name.lower(): value for name, value in environment.items()})

    async def _open_sockets(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 - before anything is served
        http, grpc = (directory / f"dapr-{self._settings.app_id}-{face}.socket" for face in ("http", "grpc"))
        for path in (http, grpc):
            # Left by a predecessor that was killed: nobody can be listening on our own app's socket.
            path.unlink(missing_ok=True)
        self._sockets = [http, grpc]
        await self._http.listen_unix(http)
        await self._grpc.listen_unix(str(grpc))
        self.environment |= {"DAPR_HTTP_SOCKET": str(http), "DAPR_GRPC_ENDPOINT": f"unix://{grpc.absolute()}"}

    async def _open_metrics(self) -> int:
        settings, sidecar = self._settings, self._sidecar
        registry = CollectorRegistry()
        registry.register(
            SidecarCollector(
                sidecar.statistics,
                self._process,
                app_id=settings.app_id,
                namespace=settings.metrics_namespace,
                in_flight=lambda: sidecar.delivery.in_flight,
            )
        )
        host, port = settings.metrics_listen_address, settings.metrics_port
        try:
            return await self._endpoints.serve_metrics(host, _METRICS_PORT if port is None else port, registry)
        except OSError:
            if port is not None:
                raise
            # Nobody has asked for this port: a second sidecar on the machine, or a scheduler, has it.
            return await self._endpoints.serve_metrics(host, 0, registry)

    async def close(self) -> None:
        await self._grpc.close(grace_s=1.0)
        await self._http.close()
        await self._public.close()
        await self._endpoints.close()
        for path in self._sockets:
            path.unlink(missing_ok=True)


async def run(
    settings: SidecarSettings, command: Sequence[str] = (), *, process: ProcessStatistics | None = None
) -> int:
    """Serve until SIGTERM, SIGINT, a shutdown call, or the end of `command`, which is started as the app. `process` tells of its settings.

    Returns the exit code. Raises OSError for a port that is taken or a command that cannot be started.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Over HTTP/1.1 each trigger in flight has a connection to the app.
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rng = random.Random(int.from_bytes(os.urandom(8), "big"))
    source = source_of(settings, rng)
    identity = None
    if source is not None:
        identity = ClientIdentity(source, await source.fetch(), server=settings.scheduler_identity)
    try:
        sidecar = Sidecar(settings, rng, identity.security if identity else None)
    except ValueError as error:
        raise ConfigError(f"--scheduler-host-address: {error}") from error
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, sidecar.stop.set)
    ports = _Ports(sidecar, process or ProcessStatistics())
    child: AppProcess | None = None
    asked_to_stop = True
    try:
        await ports.open()
        if command:
            child = AppProcess(command, ports.environment)
            await child.start()
        asked_to_stop = await _serve(sidecar, identity, child)
    finally:
        if child is not None:
            await child.stop(settings.graceful_shutdown_s)
        await ports.close()
        if sidecar.tracing:
            await sidecar.tracing.close()
    return child.exit_code(asked_to_stop=asked_to_stop) if child is not None else 0


async def _serve(sidecar: Sidecar, identity: ClientIdentity | None, child: AppProcess | None) -> bool:
    """Run until something says stop; whether that was anything but the app's own end."""
    asked = True

    async def follow_child(process: AppProcess) -> None:
        nonlocal asked
        await process.wait()
        asked = sidecar.stop.is_set()
        sidecar.stop.set()

    async with asyncio.TaskGroup() as tasks:
        delivery = tasks.create_task(sidecar.delivery.run(), name="delivery")
        schedulers = tasks.create_task(sidecar.schedulers.run(), name="schedulers")
        others: list[asyncio.Task[None]] = []
        if identity is not None:
            others.append(tasks.create_task(identity.follow(), name="certificate"))
        if child is not None:
            others.append(tasks.create_task(follow_child(child), name="app process"))
        if sidecar.health is not None:
            others.append(tasks.create_task(sidecar.health.run(), name="app health"))
        else:
            _log.warning("no_app", hint="without --app-port no jobs are watched for; the Jobs API works")
        await sidecar.stop.wait()
        _log.info("sidecar_stopping", app_id=sidecar.settings.app_id)
        if asked:
            await _drain(sidecar)
        for task in others:
            task.cancel()
        # Streams before deliveries: their last answers leave with them.
        schedulers.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await schedulers
        delivery.cancel()
    return asked


async def _drain(sidecar: Sidecar) -> None:
    """The API goes on for as long as is asked for; then the app finishes what it has, and its answers still count."""
    if sidecar.settings.block_shutdown_s > 0:
        await asyncio.sleep(sidecar.settings.block_shutdown_s)
    await sidecar.delivery.drain(sidecar.settings.graceful_shutdown_s)
