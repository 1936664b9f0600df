"""What the sidecar tells about itself (sidecar-and-jobs-api.md 2.4), over gRPC and, in the reference's spelling, over HTTP."""

from collections.abc import Callable
from typing import Any

from google.protobuf import json_format

from scheduler import __version__
from scheduler._pb.dapr.proto.runtime.v1 import dapr_pb2
from scheduler.config import SidecarSettings


class Metadata:
    """The app's connection, the schedulers, and whatever was set."""

    def __init__(self, settings: SidecarSettings, hosts: Callable[[], tuple[str, ...]]) -> None:
        """`hosts()` is the schedulers' list as it was last received."""
        self._settings = settings
        self._hosts = hosts
        self._extended = {"daprRuntimeVersion": __version__}

    def set(self, key: str, value: str) -> None:
        """An empty key is a no-op."""
        if key:
            self._extended[key] = value

    def message(self) -> dapr_pb2.GetMetadataResponse:
        """GetMetadata. `scheduler` is absent while there is no list, or an empty one."""
        settings = self._settings
        shown = dapr_pb2.GetMetadataResponse(
            id=settings.app_id, runtime_version=__version__, extended_metadata=self._extended
        )
        shown.actor_runtime.runtime_status = dapr_pb2.ActorRuntime.DISABLED
        shown.actor_runtime.placement = "placement: disconnected"
        connection = shown.app_connection_properties
        connection.port = settings.app_port or 0
        connection.protocol, connection.channel_address = settings.app_protocol, settings.app_channel_address
        connection.max_concurrency = max(0, settings.app_max_concurrency)
        if settings.enable_app_health_check:
            connection.health.health_check_path = settings.app_health_check_path
            connection.health.health_probe_interval = f"{settings.app_health_probe_interval_s:g}s"
            connection.health.health_probe_timeout = f"{settings.app_health_probe_timeout_ms}ms"
            connection.health.health_threshold = settings.app_health_threshold
        if hosts := self._hosts():
            shown.scheduler.connected_addresses.extend(hosts)
        return shown

    def json(self) -> dict[str, Any]:
        """GET /v1.0/metadata: the same, with two names of its own, and `scheduler` alone in snake case."""
        shown: dict[str, Any] = json_format.MessageToDict(self.message())
        shown["extended"] = shown.pop("extendedMetadata")
        shown["actorRuntime"] = {"hostReady": False, **shown["actorRuntime"]}
        if "scheduler" in shown:
            shown["scheduler"] = {"connected_addresses": shown["scheduler"]["connectedAddresses"]}
        return shown
