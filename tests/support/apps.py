"""Apps under a sidecar's care: an HTTP one by the standard library and a gRPC one by grpcio, which record what they are told and answer as a test says."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc

from scheduler._pb.dapr.proto.runtime.v1 import appcallback_pb2
from tests.support.processes import free_port, wait_until

_CALLBACK = "dapr.proto.runtime.v1.AppCallback"
STABLE, ALPHA = f"/{_CALLBACK}/OnJobEvent", f"/{_CALLBACK}Alpha/OnJobEventAlpha1"
HEALTH = f"/{_CALLBACK}HealthCheck/HealthCheck"


@dataclass
class Told:
    """One delivery as it arrived."""

    name: str
    body: bytes
    metadata: dict[str, str]
    path: str
    at: float = field(default_factory=time.monotonic)
    message: appcallback_pb2.JobEventRequest | None = None


class _App:
    def __init__(self) -> None:
        self.told: list[Told] = []
        self.port = free_port()

    def wait(self, count: int, *, timeout_s: float = 10.0) -> list[Told]:
        wait_until(lambda: len(self.told) >= count, timeout_s=timeout_s, what=f"{count} deliveries")
        return self.told

    @property
    def names(self) -> list[str]:
        return [one.name for one in self.told]


class HttpApp(_App):
    """`answer(told)` gives the status; it may block. Health probes get `health`."""

    def __init__(
        self,
        answer: Callable[[Told], int] = lambda _told: 200,
        *,
        start: bool = True,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__()
        self.answer = answer
        self.tls = tls
        self.health = 200
        self.probed: list[str] = []
        self._server: _Server | None = None
        if start:
            self.start()

    @property
    def probes(self) -> int:
        return len(self.probed)

    def start(self) -> "HttpApp":
        """(Again) on the same port."""
        self._server = _Server(("127.0.0.1", self.port), self)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def close(self) -> None:
        """The port is closed and every connection cut, as if the process had died."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.cut()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def __init__(self, address, app: HttpApp) -> None:
        self.app = app
        self.sockets: set[socket.socket] = set()
        super().__init__(address, _Handler)
        if app.tls is not None:
            self.socket = app.tls.wrap_socket(self.socket, server_side=True)

    def get_request(self):
        accepted = super().get_request()
        self.sockets.add(accepted[0])
        return accepted

    def cut(self) -> None:
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address) -> None:
        """A cut connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        app = self.server.app
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        told = Told(
            self.path.removeprefix("/job/"),
            body,
            {name.lower(): value for name, value in self.headers.items()},
            self.path,
        )
        app.told.append(told)
        self._send(app.answer(told))

    def do_GET(self) -> None:
        self.server.app.probed.append(self.path)
        self._send(self.server.app.health)

    def _send(self, status: int) -> None:
        self.send_response(status)
        if status in {301, 307}:
            self.send_header("location", "/elsewhere")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Quiet."""


class GrpcApp(_App):
    """`answer(told)` gives the status code; `known` are the methods that it has."""

    def __init__(
        self,
        answer: Callable[[Told], grpc.StatusCode] = lambda _told: grpc.StatusCode.OK,
        *,
        known: tuple[str, ...] = (STABLE, ALPHA, HEALTH),
        credentials: grpc.ServerCredentials | None = None,
        port: int = 0,
    ) -> None:
        super().__init__()
        self.port = port or self.port
        self.answer = answer
        self.known = known
        self.health = grpc.StatusCode.OK
        self.probes = 0
        self.calls: list[str] = []
        self._server = grpc.server(ThreadPoolExecutor(16))
        self._server.add_generic_rpc_handlers((self,))
        if credentials is None:
            self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        else:
            self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails):
        """grpcio's: the handler of a call; None is UNIMPLEMENTED."""
        path = details.method
        self.calls.append(path)
        if path not in self.known:
            return None
        if path == HEALTH:
            return grpc.unary_unary_rpc_method_handler(self._probe)
        return grpc.unary_unary_rpc_method_handler(lambda data, context: self._tell(path, data, context))

    def _probe(self, _data: bytes, context: grpc.ServicerContext) -> bytes:
        self.probes += 1
        if self.health is not grpc.StatusCode.OK:
            context.abort(self.health, "not now")
        return b""

    def _tell(self, path: str, data: bytes, context: grpc.ServicerContext) -> bytes:
        message = appcallback_pb2.JobEventRequest.FromString(data)
        metadata = {key: str(value) for key, value in context.invocation_metadata()}
        told = Told(message.name, message.data.value, metadata, path, message=message)
        self.told.append(told)
        code = self.answer(told)
        if code is not grpc.StatusCode.OK:
            context.abort(code, "as the test says")
        return b""

    def close(self) -> None:
        self._server.stop(0).wait(5)
