"""Delivery of triggers to the app (sidecar-and-jobs-api.md 3): over HTTP or gRPC, with the verdict that goes back."""

import asyncio
import json
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value
from yarl import URL

from scheduler._pb.dapr.proto.common.v1.common_pb2 import HTTPExtension
from scheduler._pb.dapr.proto.runtime.v1.appcallback_pb2 import JobEventRequest
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core.timestamps import format_rfc3339
from scheduler.http2.client import Channel
from scheduler.http2.grpc import Metadata, RpcError, Status
from scheduler.logs import get_logger
from scheduler.sidecar.schedulers import JobStream

_VALUE_URL = "type.googleapis.com/google.protobuf.Value"
# What the HTTP client need not encode in a path; a valid escape that is there already stays.
_PATH_SAFE = "/%!$&'()*+,;=:@~"
_NS = 1_000_000_000

_log = get_logger("sidecar.delivery")


def body_of(trigger: pb.WatchJobsResponse) -> bytes:
    """The request body for an HTTP app. Raises ValueError for a Value that JSON cannot tell."""
    if not trigger.HasField("data"):
        return b""
    if trigger.data.type_url == _VALUE_URL:
        value = Value.FromString(trigger.data.value)
        if value.WhichOneof("kind") is None:
            return b""
        return json.dumps(_plain(json_format.MessageToDict(value)), ensure_ascii=False, allow_nan=False).encode()
    return trigger.data.value.strip()


def _plain(value: Any) -> Any:
    """Whole numbers without a decimal point, as Go writes them."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e21:
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


def identity_of(trigger: pb.WatchJobsResponse) -> dict[str, str]:
    """The occurrence's identity as headers; empty from a scheduler that does not send it."""
    if not trigger.HasField("occurrence"):
        return {}
    occurrence = trigger.occurrence
    scheduled_ns = occurrence.scheduled_seconds * _NS + occurrence.scheduled_nanos
    return {
        "scheduler-replica": occurrence.replica,
        "scheduler-scheduled-time": format_rfc3339(scheduled_ns),
        "scheduler-attempt": str(occurrence.attempt),
        "scheduler-generation": f"{occurrence.generation:016x}",
        "scheduler-epoch": str(occurrence.epoch),
        "scheduler-index": str(occurrence.index),
    }


class AppChannel(Protocol):
    """A way to the app."""

    async def deliver(self, trigger: pb.WatchJobsResponse) -> bool:
        """Whether the app took it. Never raises but for cancellation."""

    async def close(self) -> None:
        """Drop connections."""


class HttpApp:
    """An app that is told by POST /job/<name>. 2xx and 404 count as taken."""

    def __init__(self, *, host: str, port: int, token: str) -> None:
        """No time limit of our own: an app may take as long as it likes."""
        self._base = f"http://{host}:{port}/job/"
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def deliver(self, trigger: pb.WatchJobsResponse) -> bool:
        """See AppChannel."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
                auto_decompress=False,
            )
        headers = {"content-type": "application/json", **identity_of(trigger)}
        if self._token:
            headers["dapr-api-token"] = self._token
        name = trigger.name.removeprefix("/")
        try:
            url = URL(self._base + quote(name, safe=_PATH_SAFE), encoded=True)
            async with self._session.post(
                url, data=body_of(trigger), headers=headers, allow_redirects=False, skip_auto_headers=["User-Agent"]
            ) as answer:
                await answer.read()
                return 200 <= answer.status < 300 or answer.status == 404
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            _log.debug("app_unreachable", error=repr(error))
            return False

    async def close(self) -> None:
        """See AppChannel."""
        if self._session is not None:
            await self._session.close()


class GrpcApp:
    """An app that is told by OnJobEvent, or by OnJobEventAlpha1 where it does not know that. OK and NOT_FOUND count as taken."""

    def __init__(self, *, host: str, port: int, token: str) -> None:
        """Connects with the first trigger."""
        self._channel = Channel(f"{host}:{port}")
        self._token = token

    async def deliver(self, trigger: pb.WatchJobsResponse) -> bool:
        """See AppChannel."""
        request = JobEventRequest(
            name=trigger.name,
            method=f"job/{trigger.name}",
            content_type=trigger.data.type_url,
            http_extension=HTTPExtension(verb=HTTPExtension.POST),
        )
        if trigger.HasField("data"):
            request.data.CopyFrom(trigger.data)
        metadata: Metadata = tuple(identity_of(trigger).items())
        if self._token:
            metadata = (*metadata, ("dapr-api-token", self._token))
        data = request.SerializeToString()
        service = "/dapr.proto.runtime.v1.AppCallback"
        for path in (f"{service}/OnJobEvent", f"{service}Alpha/OnJobEventAlpha1"):
            try:
                await self._channel.unary(path, data, timeout_s=None, metadata=metadata)
            except RpcError as error:
                if error.status is Status.UNIMPLEMENTED:
                    continue
                _log.debug("app_failed", error=str(error))
                return error.status is Status.NOT_FOUND
            return True
        return False

    async def close(self) -> None:
        """See AppChannel."""
        await self._channel.close()


class Delivery:
    """Takes triggers off the streams and answers each when the app has. Every trigger runs by itself, in a task of `run`'s group."""

    def __init__(self, app: AppChannel | None, *, concurrency_max: int) -> None:
        """`app` None: there is no app, and every trigger fails. `concurrency_max` -1: no limit."""
        self._app = app
        self._slots = asyncio.Semaphore(concurrency_max) if concurrency_max > 0 else None
        self._tasks: asyncio.TaskGroup | None = None
        self.succeeded = 0
        self.failed = 0

    async def run(self) -> None:
        """Deliver until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                await asyncio.get_running_loop().create_future()
        finally:
            self._tasks = None
            if self._app is not None:
                await self._app.close()

    def take(self, stream: JobStream, message: bytes) -> None:
        """A trigger has come."""
        try:
            trigger = pb.WatchJobsResponse.FromString(message)
        except DecodeError as error:
            _log.error("trigger_corrupt", error=str(error))
            return
        if self._tasks is not None:
            self._tasks.create_task(self._deliver(stream, stream.call, trigger), name=f"trigger {trigger.id}")

    async def _deliver(self, stream: JobStream, call: Any, trigger: pb.WatchJobsResponse) -> None:
        succeeded = False
        if self._app is not None and trigger.metadata.target.WhichOneof("type") == "job":
            if self._slots is None:
                succeeded = await self._app.deliver(trigger)
            else:
                async with self._slots:
                    succeeded = await self._app.deliver(trigger)
        if succeeded:
            self.succeeded += 1
        else:
            self.failed += 1
        stream.acknowledge(call, trigger.id, succeeded=succeeded)
