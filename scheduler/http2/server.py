"""The server role: gRPC calls on our HTTP/2, answered by handlers that run on the event loop.

A handler is a plain function that answers now or later through its `Call`; no task and no future is made for it. `coroutine`
adapts an async function where convenience matters more than microseconds.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from scheduler.http2 import frames
from scheduler.http2.connection import Connection, Stream
from scheduler.http2.frames import ErrorCode
from scheduler.http2.grpc import Metadata, RpcError, Status, encode_binary, encode_text, frame_message, parse_timeout
from scheduler.http2.headers import Headers, encode_block
from scheduler.http2.limits import Limits
from scheduler.http2.transport import Shell, speaks_http2

_RESPONSE_HEADERS = encode_block([(":status", "200"), ("content-type", "application/grpc")])
_OK_TRAILERS = encode_block([("grpc-status", "0")])
_NOT_GRPC = encode_block(
    [(":status", "415"), ("grpc-status", "2"), ("grpc-message", "content-type is not application/grpc")]
)
_NOT_POST = encode_block([(":status", "405"), ("grpc-status", "2"), ("grpc-message", "the method is not POST")])
_OUR_HEADERS = frozenset({"te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding"})
_MAINTENANCE_S = 1.0


class Sink(Protocol):
    """What a streaming handler gives back; every method is called synchronously from the loop."""

    def on_message(self, message: bytes) -> None:
        """One message of the peer."""

    def on_half_close(self) -> None:
        """The peer will send no more."""

    def on_closed(self, error: RpcError | None) -> None:
        """The call is over: exactly once, last. None: we finished it ourselves."""

    def on_writable(self) -> None:
        """The send buffer has drained below its low mark."""


@dataclass(frozen=True, slots=True)
class Unary:
    """A method with one request: `handler(request, call)` answers by `call.reply` or `call.fail`, now or later."""

    handler: Callable[[bytes, "Call"], None]


@dataclass(frozen=True, slots=True)
class Streaming:
    """A method with streams: `handler(call)` gives the sink of the peer's messages."""

    handler: Callable[["Call"], Sink]


Method = Unary | Streaming


class Peer:
    """Who is at the other end of a connection; made once for all its calls."""

    __slots__ = ("address", "attributes", "chain")

    def __init__(self, address: str, chain: tuple[bytes, ...] = ()) -> None:
        """`chain` is what TLS has verified, in DER, the leaf first; `attributes` is a cache for whoever authorises."""
        self.address = address
        self.chain = chain
        self.attributes: dict[str, Any] = {}


class Call(Stream):
    """One call on the server side. Whatever is sent after the call has ended is dropped silently: the peer is gone."""

    __slots__ = (
        "_deadline_timer",
        "_refusal",
        "_request",
        "_sink",
        "_started",
        "deadline",
        "ended",
        "metadata",
        "method",
        "on_end",
        "path",
        "shell",
    )

    def __init__(self, connection: Connection, stream_id: int, shell: "_ServerShell") -> None:
        """Made by the connection, before the request's headers are known."""
        super().__init__(connection, stream_id)
        self.shell = shell
        self.path = ""
        self.metadata: Metadata = ()
        self.deadline: float | None = None
        self.ended = False
        self.method: Method | None = None
        # Told once when a unary call ends without our answer (cancelled, timed out, connection lost).
        self.on_end: Callable[[], None] | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._refusal: bytes | None = None
        self._request: bytes | None = None
        self._sink: Sink | None = None
        self._started = False

    @property
    def peer(self) -> Peer:
        """Who calls."""
        return self.shell.peer

    # What handlers use

    def reply(self, message: bytes) -> None:
        """Answer a unary call: headers, message and OK trailers leave together."""
        if self.ended:
            return
        self._finish_timer()
        self.ended = True
        connection, stream_id = self.connection, self.id
        size = len(message) + 5
        if size <= min(self.send_window, connection.send_window, connection.peer_frame_bytes) and not connection.paused:
            self.send_window -= size
            connection.send_window -= size
            self.local_done = True
            connection.write(
                frames.head(len(_RESPONSE_HEADERS), frames.HEADERS, frames.END_HEADERS, stream_id)
                + _RESPONSE_HEADERS
                + frames.head(size, frames.DATA, 0, stream_id)
                + frame_message(message)
                + frames.head(len(_OK_TRAILERS), frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream_id)
                + _OK_TRAILERS
            )
            connection._release_if_done(self)  # noqa: SLF001 - the base class's own state
            return
        self.start()
        connection.send_data(self, frame_message(message))
        connection.end_stream(self, self._trailers(_OK_TRAILERS))

    def fail(self, status: Status, message: str = "", *, details: bytes = b"") -> None:
        """Answer a call with an error."""
        self._end(status, message, details)

    def finish(self, status: Status = Status.OK, message: str = "", *, details: bytes = b"") -> None:
        """End a streaming call from our side; its sink hears `on_closed(None)`."""
        if not self.ended:
            self._end(status, message, details)
            self._close_sink(None)

    def start(self) -> None:
        """Send the response headers now, if they have not gone yet."""
        if not self._started:
            self._started = True
            head = frames.head(len(_RESPONSE_HEADERS), frames.HEADERS, frames.END_HEADERS, self.id)
            self.connection.write(head + _RESPONSE_HEADERS)

    def send(self, message: bytes) -> None:
        """Send one message of a streaming answer."""
        self.send_framed(frame_message(message))

    def send_framed(self, chunk: bytes) -> None:
        """Send whole messages that carry their five-byte prefixes already."""
        if self.ended:
            return
        if not self._started:
            self.start()
        self.connection.send_data(self, chunk)

    def _trailers(self, block: bytes) -> bytes:
        return frames.head(len(block), frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, self.id) + block

    def _end(self, status: Status, message: str, details: bytes) -> None:
        if self.ended:
            return
        self._finish_timer()
        self.ended = True
        fields: Headers = [] if self._started else [(":status", "200"), ("content-type", "application/grpc")]
        fields.append(("grpc-status", str(int(status))))
        if message:
            fields.append(("grpc-message", encode_text(message)[:4096]))
        if details:
            fields.append(("grpc-status-details-bin", encode_binary(details)))
        self._started = True
        self.connection.end_stream(self, self._trailers(encode_block(fields)))

    def _finish_timer(self) -> None:
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
            self._deadline_timer = None

    # What the connection calls

    def headers_received(self, headers: Headers, *, ended: bool) -> None:  # noqa: ARG002 - the base class's contract
        """The request's headers: find the method, set the deadline."""
        verb = content_type = ""
        metadata: list[tuple[str, str]] = []
        for name, value in headers:
            if name[:1] == ":":
                if name == ":path":
                    self.path = value
                elif name == ":method":
                    verb = value
            elif name in _OUR_HEADERS:
                if name == "content-type":
                    content_type = value
                elif name == "grpc-timeout":
                    self._set_deadline(value)
                elif name == "grpc-encoding" and value != "identity":
                    self._encoding(value)
            else:
                metadata.append((name, value))
        self.metadata = tuple(metadata)
        if self.ended:
            return
        if verb != "POST":
            self._refuse(_NOT_POST)
        elif content_type[:16] != "application/grpc":
            self._refuse(_NOT_GRPC)
        else:
            self._dispatch()

    def _refuse(self, block: bytes) -> None:
        """What is no gRPC call is answered once it is complete, so that its frames are judged like any other's."""
        self._finish_timer()
        self.ended = self._started = self.deaf = True
        self._refusal = block

    def _dispatch(self) -> None:
        method = self.method = self.shell.server.methods.get(self.path)
        if method is None:
            self.fail(Status.UNIMPLEMENTED, f"unknown method {self.path}")
        elif isinstance(method, Streaming):
            try:
                self._sink = method.handler(self)
            except Exception as error:
                self._handler_failed(error)

    def _set_deadline(self, text: str) -> None:
        try:
            timeout_s = parse_timeout(text)
        except ValueError as error:
            self.fail(Status.INTERNAL, str(error))
            return
        loop = self.shell.loop
        self.deadline = loop.time() + timeout_s
        self._deadline_timer = loop.call_at(self.deadline, self._deadline_passed)

    def _deadline_passed(self) -> None:
        self._deadline_timer = None
        self._abandoned(RpcError(Status.DEADLINE_EXCEEDED, "deadline exceeded"))

    def _encoding(self, value: str) -> None:
        if value == "gzip":
            self.compressed = True
        else:
            self.fail(Status.UNIMPLEMENTED, f"grpc-encoding {value!r} is not supported; identity and gzip are")

    def message_received(self, message: bytes) -> None:
        """A message of the request."""
        if self._sink is not None:
            try:
                self._sink.on_message(message)
            except Exception as error:
                self._handler_failed(error)
        elif not self.ended:
            if self._request is not None:
                raise RpcError(Status.INTERNAL, "a unary call carries more than one message")
            self._request = message

    def remote_ended(self) -> None:
        """The request is complete."""
        if self._refusal is not None:
            self.connection.end_stream(self, self._trailers(self._refusal))
            return
        if self._sink is not None:
            try:
                self._sink.on_half_close()
            except Exception as error:
                self._handler_failed(error)
            return
        if self.ended or self.method is None:
            return
        request, self._request = self._request, None
        if request is None:
            self.fail(Status.INTERNAL, "a unary call carries no message")
            return
        assert isinstance(self.method, Unary), self.method
        try:
            self.method.handler(request, self)
        except Exception as error:
            self._handler_failed(error)

    def _handler_failed(self, error: Exception) -> None:
        if isinstance(error, RpcError):
            self.fail(error.status, error.message, details=error.details)
            self._close_sink(error)
            return
        self.shell.server.on_error(self.path, error)
        self.fail(Status.INTERNAL, "internal error")
        self._close_sink(RpcError(Status.INTERNAL, "internal error"))

    def broken(self, error: RpcError) -> None:
        """The call cannot go on; where the stream still stands its peer is told why."""
        self._abandoned(error)

    def _abandoned(self, error: RpcError) -> None:
        if self.id in self.connection.streams:
            self._end(error.status, error.message, b"")
        was_ended = self.ended and self._sink is None and self.on_end is None
        self._finish_timer()
        self.ended = True
        if was_ended:
            return
        callback, self.on_end = self.on_end, None
        if callback is not None:
            callback()
        self._close_sink(error)

    def _close_sink(self, error: RpcError | None) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            try:
                sink.on_closed(error)
            except Exception as failure:
                self.shell.server.on_error(self.path, failure)

    def writable(self) -> None:
        """The buffer has drained."""
        if self._sink is not None:
            self._sink.on_writable()


def coroutine(function: Callable[[bytes, Call], Awaitable[bytes]]) -> Unary:
    """A unary method from an async function; its task belongs to the server and is cancelled when the call ends."""

    def handler(request: bytes, call: Call) -> None:
        async def run() -> None:
            try:
                call.reply(await function(request, call))
            except RpcError as error:
                call.fail(error.status, error.message, details=error.details)
            except Exception as error:
                call.shell.server.on_error(call.path, error)
                call.fail(Status.INTERNAL, "internal error")

        task = call.shell.server.spawn(run(), name=f"call {call.path}")
        call.on_end = task.cancel  # type: ignore[assignment]

    return Unary(handler)


class _ServerShell(Shell):
    """One accepted connection."""

    def __init__(self, server: "Server") -> None:
        super().__init__()
        self.server = server
        self.loop = self._loop
        self.peer = Peer("")
        self.accepted_s = self._loop.time()
        self.connection = Connection(
            client=False,
            limits=server.limits,
            make_stream=self._make_call,
            on_output=self.output_waiting,
            on_idle_output=self.idle_output_waiting,
        )

    def _make_call(self, connection: Connection, stream_id: int) -> Stream:
        self.server.calls += 1
        return Call(connection, stream_id, self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not speaks_http2(transport) or self.server.closing:
            transport.close()
            return
        super().connection_made(transport)
        self.peer = Peer(self.peer_address(), self.peer_chain())
        self.server.shells.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.shells.discard(self)
        if self.connection.failed:
            reason = self.connection.failed.partition(":")[0]
            self.server.failures[reason] = self.server.failures.get(reason, 0) + 1
        super().connection_lost(exc)

    def maintain(self, now_s: float, limits: Limits) -> None:
        """Once a second: a client that never speaks HTTP/2 goes, a silent one is pinged."""
        if not self.connection._settings_seen:  # noqa: SLF001 - the shell and its connection are one thing
            if now_s - self.accepted_s > limits.handshake_timeout_s and self.transport is not None:
                self.transport.abort()
            return
        self.keep_alive(now_s, limits.keepalive_idle_s, limits.keepalive_timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatistics:
    """A snapshot for metrics."""

    connections: int
    open_calls: int
    calls: int
    failures: dict[str, int]


class Server:
    """Serves `methods` (full path to method) on any number of listeners."""

    def __init__(
        self,
        *,
        methods: Mapping[str, Method],
        limits: Limits | None = None,
        on_error: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        """`on_error(path, exception)` hears of handlers that raised what they should not."""
        self.methods = dict(methods)
        self.limits = limits or Limits()
        self.on_error = on_error or (lambda _path, _error: None)
        self.shells: set[_ServerShell] = set()
        self.closing = False
        self.calls = 0
        self.failures: dict[str, int] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._maintenance: asyncio.TimerHandle | None = None

    def spawn(self, work: Any, *, name: str) -> asyncio.Task[None]:
        """A task that lives at most as long as the server."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def listen(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> int:
        """Listen on a TCP address (port 0: any free one) and return the bound port. Raises OSError."""
        loop = asyncio.get_running_loop()
        timeout = self.limits.handshake_timeout_s if tls else None
        server = await loop.create_server(
            lambda: _ServerShell(self), host, port, ssl=tls, backlog=1024, ssl_handshake_timeout=timeout
        )
        self._started(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def listen_unix(self, path: str) -> None:
        """Listen on a Unix socket. Raises OSError."""
        self._started(await asyncio.get_running_loop().create_unix_server(lambda: _ServerShell(self), path))

    def _started(self, server: asyncio.Server) -> None:
        self._servers.append(server)
        if self._maintenance is None:
            self._maintain()

    def _maintain(self) -> None:
        loop = asyncio.get_running_loop()
        self._maintenance = loop.call_later(_MAINTENANCE_S, self._maintain)
        now_s = loop.time()
        for shell in list(self.shells):
            shell.maintain(now_s, self.limits)

    def stop_accepting(self) -> None:
        """Close the listeners; connections stay."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()

    async def close(self, *, grace_s: float) -> None:
        """Say GOAWAY, let open calls end within `grace_s`, then end what is left with UNAVAILABLE."""
        self.closing = True
        self.stop_accepting()
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        for shell in list(self.shells):
            shell.connection.go_away(text="the server is shutting down")
        while any(shell.connection.streams for shell in self.shells) and loop.time() < end:  # noqa: ASYNC110 - bounded, once per life
            await asyncio.sleep(0.01)
        for shell in list(self.shells):
            for stream in list(shell.connection.streams.values()):
                stream.broken(RpcError(Status.UNAVAILABLE, "the server is shutting down"))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for shell in list(self.shells):
            if shell.transport is not None:
                shell.transport.close()
        if self._maintenance is not None:
            self._maintenance.cancel()
        while self.shells and loop.time() < end + 1.0:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        for shell in list(self.shells):
            if shell.transport is not None:
                shell.transport.abort()

    def statistics(self) -> ServerStatistics:
        """How things stand."""
        return ServerStatistics(
            connections=len(self.shells),
            open_calls=sum(len(shell.connection.streams) for shell in self.shells),
            calls=self.calls,
            failures=dict(self.failures),
        )


__all__ = [
    "Call",
    "ErrorCode",
    "Method",
    "Peer",
    "Server",
    "ServerStatistics",
    "Sink",
    "Streaming",
    "Unary",
    "coroutine",
]
