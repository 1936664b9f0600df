"""Carries HTTP requests to their answers: HTTP/1.1 by aiohttp and cleartext HTTP/2 by our own transport, on the same ports."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from scheduler.http2 import frames
from scheduler.http2.connection import Connection
from scheduler.http2.frames import ErrorCode
from scheduler.http2.grpc import RpcError
from scheduler.http2.headers import Headers, encode_block
from scheduler.http2.limits import Limits
from scheduler.http2.stream import Stream
from scheduler.http2.transport import Shell
from scheduler.logs import get_logger
from scheduler.sidecar.http_api import Answer, Request

_HEADER_TIMEOUT_S = 10.0
_CLOSE_TIMEOUT_S = 1.0
_FAULT = Answer(500, b'{"errorCode": "ERROR", "message": "internal error"}', "application/json")

_log = get_logger("sidecar.http")
# aiohttp would log a trace for every malformed request of a stranger; what our own handlers do wrong, `respond` logs.
_quiet = logging.getLogger("scheduler.sidecar.http1")
_quiet.setLevel(logging.CRITICAL)


class HttpServer:
    """Serves `answer` on any number of listeners."""

    def __init__(
        self,
        answer: Callable[[Request], Awaitable[Answer]],
        *,
        body_max_bytes: int,
        headers_max_bytes: int,
        http2: bool,
        public: bool = False,
    ) -> None:
        """`public` marks every request as one from the public port."""
        self._answer = answer
        self._body_max_bytes = body_max_bytes
        self._headers_max_bytes = headers_max_bytes
        self.http2 = http2
        self._public = public
        self._servers: list[asyncio.Server] = []
        self._http1 = web.Server(
            self._handle_http1,
            access_log=None,
            logger=_quiet,
            max_line_size=headers_max_bytes,
            max_field_size=headers_max_bytes,
            keepalive_timeout=180.0,
        )
        # Connections on which no request is complete yet.
        self._silent: dict[asyncio.Protocol, asyncio.TimerHandle] = {}
        self._shells: set[_Http2Shell] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> int:
        """Listen on a TCP address (port 0: any free one) and return the bound port. Raises OSError."""
        server = await asyncio.get_running_loop().create_server(lambda: _FirstBytes(self), host, port, backlog=1024)
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def listen_unix(self, path: Path) -> None:
        """Listen on a Unix socket. Raises OSError."""
        server = await asyncio.get_running_loop().create_unix_server(lambda: _FirstBytes(self), str(path))
        self._servers.append(server)

    async def close(self) -> None:
        """Stop listening, let requests that run end within a second, drop every connection."""
        for server in self._servers:
            server.close()
        for shell in self._shells:
            shell.connection.go_away()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_TIMEOUT_S)
        for task in list(self._tasks):
            task.cancel()
        await self._http1.shutdown(_CLOSE_TIMEOUT_S)
        for shell in list(self._shells):
            if shell.transport is not None:
                shell.transport.close()
        for timer in self._silent.values():
            timer.cancel()

    async def respond(self, request: Request) -> Answer:
        """An answer in any case."""
        try:
            return await self._answer(request)
        except Exception as error:
            _log.exception("request_failed", method=request.method, target=request.target[:200], error=repr(error))
            return _FAULT

    # HTTP/1.1

    def http1(self, transport: asyncio.Transport) -> asyncio.Protocol:
        """The protocol of a connection that speaks HTTP/1.1; a request must be there in time."""
        protocol = self._http1()
        loop = asyncio.get_running_loop()
        self._silent[protocol] = loop.call_later(_HEADER_TIMEOUT_S, self._too_slow, protocol, transport)
        return protocol

    def _too_slow(self, protocol: asyncio.Protocol, transport: asyncio.Transport) -> None:
        if self._silent.pop(protocol, None) is not None:
            transport.abort()

    async def _handle_http1(self, request: web.BaseRequest) -> web.StreamResponse:
        timer = self._silent.pop(request.protocol, None)
        if timer is not None:
            timer.cancel()
        if sum(len(name) + len(value) + 4 for name, value in request.raw_headers) > self._headers_max_bytes:
            return web.Response(status=431, text="431 Request Header Fields Too Large")
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > self._body_max_bytes:
                break
        headers = {name.lower(): value for name, value in request.headers.items()}
        read = None if len(body) > self._body_max_bytes else bytes(body)
        answer = await self.respond(Request(request.method, request.raw_path, headers, read, self._public))
        response = web.Response(status=answer.status, body=answer.body or None)
        if answer.content_type:
            response.headers["content-type"] = answer.content_type
        return response

    # HTTP/2

    def http2_shell(self) -> "_Http2Shell":
        """The protocol of a connection that speaks HTTP/2."""
        limits = Limits(header_list_max_bytes=self._headers_max_bytes, concurrent_streams_max=1_000)
        shell = _Http2Shell(self, limits)
        self._shells.add(shell)
        return shell

    def forget(self, shell: "_Http2Shell") -> None:
        """A connection has gone."""
        self._shells.discard(shell)

    def begin(self, stream: "_Http2Request") -> asyncio.Task[None]:
        """Answer a request that is complete; the task lives at most as long as the server."""
        task = asyncio.get_running_loop().create_task(stream.answer(self, public=self._public), name="http2 request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def body_max_bytes(self) -> int:
        """The largest request body that is taken."""
        return self._body_max_bytes


class _FirstBytes(asyncio.Protocol):
    """A new connection until its first bytes tell which protocol it speaks."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._data = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), transport
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(_HEADER_TIMEOUT_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        assert self._timer is not None
        self._data += data
        known = frames.PREFACE.startswith(self._data[: len(frames.PREFACE)])
        if known and self._server.http2 and len(self._data) < len(frames.PREFACE):
            return
        self._timer.cancel()
        http2 = known and self._server.http2
        chosen: asyncio.Protocol | Shell = self._server.http2_shell() if http2 else self._server.http1(self._transport)
        self._transport.set_protocol(chosen)
        chosen.connection_made(self._transport)
        chosen.data_received(self._data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's
        if self._timer is not None:
            self._timer.cancel()


class _Http2Shell(Shell):
    """One connection that speaks HTTP/2."""

    def __init__(self, server: HttpServer, limits: Limits) -> None:
        super().__init__()
        self._server = server
        self.connection = Connection(
            client=False,
            limits=limits,
            make_stream=lambda connection, stream_id: _Http2Request(connection, stream_id, server),
            on_output=self.output_waiting,
            on_idle_output=self.idle_output_waiting,
        )

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.forget(self)
        super().connection_lost(exc)


class _Http2Request(Stream):
    """One request over HTTP/2."""

    __slots__ = ("_body", "_headers", "_server", "_task")

    def __init__(self, connection: Connection, stream_id: int, server: HttpServer) -> None:
        super().__init__(connection, stream_id)
        self.deaf = True  # a body, not gRPC messages
        self._server = server
        self._headers: dict[str, str] = {}
        self._body: bytearray | None = bytearray()
        self._task: asyncio.Task[None] | None = None

    def headers_received(self, headers: Headers, *, ended: bool) -> None:  # noqa: ARG002 - the base class's contract
        self._headers = dict(headers)

    def raw_received(self, chunk: bytes) -> None:
        if self._body is not None:
            self._body += chunk
            if len(self._body) > self._server.body_max_bytes:
                self._body = None

    def message_received(self, message: bytes) -> None:
        """Never: the stream is deaf."""

    def remote_ended(self) -> None:
        self._task = self._server.begin(self)

    async def answer(self, server: HttpServer, *, public: bool) -> None:
        """Have it answered, and send that."""
        headers, body = self._headers, None if self._body is None else bytes(self._body)
        request = Request(headers.get(":method", ""), headers.get(":path", ""), headers, body, public)
        answer = await server.respond(request)
        if self.id not in self.connection.streams:
            return
        fields: Headers = [(":status", str(answer.status)), ("content-length", str(len(answer.body)))]
        if answer.content_type:
            fields.append(("content-type", answer.content_type))
        block = encode_block(fields)
        flags = frames.END_HEADERS
        self.connection.write(frames.head(len(block), frames.HEADERS, flags, self.id) + block)
        if answer.body and request.method != "HEAD":
            self.connection.send_data(self, answer.body)
        self.connection.end_stream(self, frames.head(0, frames.DATA, frames.END_STREAM, self.id))

    def broken(self, error: RpcError) -> None:  # noqa: ARG002 - the base class's contract
        if self._task is not None:
            self._task.cancel()
        elif self.id in self.connection.streams:
            self.connection.reset(self, ErrorCode.CANCEL)

    def writable(self) -> None:
        """Everything has been handed over already."""
