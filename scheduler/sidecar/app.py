"""One sidecar: builds its parts, owns the root task group, the signals and the order of stopping."""

import asyncio
import os
import random
import signal
from typing import Any

from aiohttp import web

from scheduler import __version__
from scheduler._pb.dapr.proto.runtime.v1 import dapr_pb2
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.config import SidecarSettings
from scheduler.http2.limits import Limits
from scheduler.http2.server import Server
from scheduler.logs import get_logger
from scheduler.sidecar.delivery import AppChannel, Delivery, GrpcApp, HttpApp
from scheduler.sidecar.grpc_api import GrpcApi
from scheduler.sidecar.http_api import HttpApi
from scheduler.sidecar.jobs_api import JobsApi
from scheduler.sidecar.schedulers import Schedulers

_APP_RETRY_S = 0.1

_log = get_logger("sidecar")


class Sidecar:
    """The parts of one sidecar, fitted together."""

    def __init__(self, settings: SidecarSettings, stop: asyncio.Event) -> None:
        """Builds; nothing runs yet."""
        self.settings = settings
        self.stop = stop
        rng = random.Random(int.from_bytes(os.urandom(8), "big"))
        self.delivery = Delivery(self._app_channel(), concurrency_max=settings.app_max_concurrency)
        self.schedulers = Schedulers(
            addresses=settings.scheduler_host_address,
            streams_per_host=settings.scheduler_job_streams,
            on_trigger=self.delivery.take,
            rng=rng,
        )
        self.jobs = JobsApi(schedulers=self.schedulers, app_id=settings.app_id, namespace=settings.namespace)
        self.app_reached = settings.app_port is None
        self.extended = {"daprRuntimeVersion": __version__}

    def _app_channel(self) -> AppChannel | None:
        settings = self.settings
        if settings.app_port is None:
            return None
        kind = HttpApp if settings.app_protocol == "http" else GrpcApp
        return kind(host=settings.app_channel_address, port=settings.app_port, token=settings.app_api_token)

    def not_ready(self) -> list[str]:
        """What /v1.0/healthz waits for."""
        missing = [] if self.app_reached else ["runtime"]
        if not self.schedulers.hosts_known.is_set():
            missing.append("scheduler-watch-hosts")
        return missing

    def set_metadata(self, key: str, value: str) -> None:
        """An empty key is a no-op."""
        if key:
            self.extended[key] = value

    def metadata_json(self) -> dict[str, Any]:
        """GET /v1.0/metadata."""
        settings = self.settings
        shown: dict[str, Any] = {
            "id": settings.app_id,
            "runtimeVersion": __version__,
            "extended": self.extended,
            "actorRuntime": {"runtimeStatus": "DISABLED", "hostReady": False, "placement": ""},
        }
        if settings.app_port is not None:
            shown["appConnectionProperties"] = {
                "port": settings.app_port,
                "protocol": settings.app_protocol,
                "channelAddress": settings.app_channel_address,
            }
        if self.schedulers.hosts:
            shown["scheduler"] = {"connected_addresses": list(self.schedulers.hosts)}
        return shown

    def metadata_message(self) -> dapr_pb2.GetMetadataResponse:
        """GetMetadata."""
        settings = self.settings
        shown = dapr_pb2.GetMetadataResponse(
            id=settings.app_id, runtime_version=__version__, extended_metadata=self.extended
        )
        shown.actor_runtime.runtime_status = dapr_pb2.ActorRuntime.DISABLED
        if settings.app_port is not None:
            connection = shown.app_connection_properties
            connection.port, connection.protocol = settings.app_port, settings.app_protocol
            connection.channel_address = settings.app_channel_address
        if self.schedulers.hosts:
            shown.scheduler.connected_addresses.extend(self.schedulers.hosts)
        return shown

    async def follow_app(self) -> None:
        """Watch for jobs once the app's port accepts connections."""
        settings = self.settings
        if settings.app_port is None:
            _log.warning("no_app", hint="without --app-port no jobs are watched for; the Jobs API works")
            return
        while True:
            try:
                _, writer = await asyncio.open_connection(settings.app_channel_address, settings.app_port)
            except OSError:
                await asyncio.sleep(_APP_RETRY_S)
                continue
            writer.close()
            break
        self.app_reached = True
        _log.info("app_reached", port=settings.app_port)
        initial = pb.WatchJobsRequestInitial(
            app_id=settings.app_id, namespace=settings.namespace, accept_job_types=[pb.JOB_TARGET_TYPE_JOB]
        )
        self.schedulers.watch(pb.WatchJobsRequest(initial=initial).SerializeToString())


async def run(settings: SidecarSettings) -> int:
    """Serve until SIGTERM, SIGINT or a shutdown call. Returns the exit code; raises OSError for a port that is taken."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    sidecar = Sidecar(settings, stop)
    http = HttpApi(
        jobs=sidecar.jobs,
        app_id=settings.app_id,
        max_body_bytes=settings.max_body_size_bytes,
        token=settings.dapr_api_token,
        not_ready=sidecar.not_ready,
        metadata=sidecar.metadata_json,
        set_metadata=sidecar.set_metadata,
        shutdown=stop.set,
    )
    grpc = GrpcApi(
        jobs=sidecar.jobs,
        token=settings.dapr_api_token,
        metadata=sidecar.metadata_message,
        set_metadata=sidecar.set_metadata,
        shutdown=stop.set,
    )
    runner = web.AppRunner(http.application(), access_log=None)
    await runner.setup()
    server = Server(
        methods=grpc.methods(),
        limits=Limits(message_max_bytes=settings.max_body_size_bytes),
        on_error=lambda path, error: _log.error("handler_failed", path=path, error=repr(error)),
    )
    for host in settings.dapr_listen_addresses:
        await web.TCPSite(runner, host, settings.dapr_http_port).start()
        await server.listen(host, settings.dapr_grpc_port)
    _log.info("sidecar_serving", app_id=settings.app_id, http=settings.dapr_http_port, grpc=settings.dapr_grpc_port)
    try:
        async with asyncio.TaskGroup() as tasks:
            work = [
                tasks.create_task(sidecar.delivery.run(), name="delivery"),
                tasks.create_task(sidecar.schedulers.run(), name="schedulers"),
                tasks.create_task(sidecar.follow_app(), name="app"),
            ]
            await stop.wait()
            _log.info("sidecar_stopping", app_id=settings.app_id)
            for task in reversed(work):
                task.cancel()
    finally:
        await server.close(grace_s=min(1.0, settings.graceful_shutdown_s))
        await runner.cleanup()
    return 0
