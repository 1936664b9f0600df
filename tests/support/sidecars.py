"""A sidecar inside the test's own process and loop: real sockets, no start-up; and plain calls to its two faces."""

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status as RpcStatus

from scheduler.config import SidecarSettings
from scheduler.sidecar import app
from tests.support.processes import free_port


@dataclass
class HttpAnswer:
    """One answer of the HTTP face."""

    status: int
    body: bytes
    headers: dict[str, str]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Refusal(Exception):
    """One error of the gRPC face."""

    code: grpc.StatusCode
    message: str
    info: ErrorInfo | None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=40)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def http_call(
    where: int | str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> HttpAnswer:
    """`where` is a port, or the path of a Unix socket; a body that is not bytes goes as JSON."""
    connection = (
        http.client.HTTPConnection("127.0.0.1", where, timeout=40) if isinstance(where, int) else _UnixConnection(where)
    )
    try:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, body=data, headers=headers or {})
        answer = connection.getresponse()
        return HttpAnswer(answer.status, answer.read(), {name.lower(): value for name, value in answer.headers.items()})
    finally:
        connection.close()


def grpc_call(target: str, path: str, request: bytes, metadata: tuple[tuple[str, str], ...] = ()) -> bytes:
    """One unary call by grpcio. Raises Refusal."""
    with grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:
        try:
            return channel.unary_unary(path)(request, metadata=metadata, timeout=40)
        except grpc.RpcError as error:
            info = None
            for key, value in error.trailing_metadata() or ():
                if key == "grpc-status-details-bin":
                    details = RpcStatus.FromString(value).details
                    assert len(details) == 1
                    info = ErrorInfo()
                    assert details[0].Unpack(info)
            raise Refusal(error.code(), error.details() or "", info) from error


@dataclass
class RunningSidecar:
    """A sidecar that serves."""

    settings: SidecarSettings
    task: asyncio.Task[int]
    token: dict[str, str] = field(default_factory=dict)

    async def http(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> HttpAnswer:
        where: int | str = self.settings.dapr_http_port
        if self.settings.unix_domain_socket:
            where = str(self.settings.unix_domain_socket / f"dapr-{self.settings.app_id}-http.socket")
        return await asyncio.to_thread(http_call, where, method, path, body, headers)

    async def grpc(self, method: str, request: Any, metadata: tuple[tuple[str, str], ...] = ()) -> bytes:
        target = f"127.0.0.1:{self.settings.dapr_grpc_port}"
        if self.settings.unix_domain_socket:
            target = f"unix:{self.settings.unix_domain_socket}/dapr-{self.settings.app_id}-grpc.socket"
        path = method if method.startswith("/") else f"/dapr.proto.runtime.v1.Dapr/{method}"
        return await asyncio.to_thread(grpc_call, target, path, request.SerializeToString(), metadata)


async def until(condition: Any, timeout_s: float = 30.0) -> None:
    """Wait for a condition without holding the loop; a coroutine function's result counts too."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running_sidecar(*schedulers: str, ready: bool = True, **settings: Any) -> AsyncIterator[RunningSidecar]:
    """Started, ready (if that is asked for), and stopped in order at the end."""
    values = {
        "app_id": "myapp",
        "dapr_http_port": free_port(),
        "dapr_grpc_port": free_port(),
        "enable_metrics": False,
        "graceful_shutdown_s": 0.2,
        **settings,
    }
    one = SidecarSettings(scheduler_host_address=schedulers, **values)
    task = asyncio.create_task(app.run(one))
    token = {"dapr-api-token": one.dapr_api_token} if one.dapr_api_token else {}
    sidecar = RunningSidecar(one, task, token)

    async def healthy() -> bool:
        if task.done():
            task.result()
        try:
            path = "/v1.0/healthz" if ready else "/v1.0/healthz/outbound"
            return (await sidecar.http("GET", path)).status == 204
        except OSError:
            return False

    try:
        await until(healthy)
        yield sidecar
        if not task.done():
            assert (await sidecar.http("POST", "/v1.0/shutdown", headers=token)).status == 204
            async with asyncio.timeout(30):
                assert await task == 0
    finally:
        task.cancel()
        await asyncio.wait([task])
