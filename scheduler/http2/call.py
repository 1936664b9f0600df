"""One call on the server side, what handlers see of it, and the kinds of methods.

A handler is a plain function that answers now or later through its `Call`; no task and no future is made for it. `coroutine`
adapts an async function where convenience matters more than microseconds.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from scheduler.http2 import frames
from scheduler.http2.connection import Connection
from scheduler.http2.frames import ErrorCode
from scheduler.http2.grpc import Metadata, RpcError, Status, encode_binary, encode_text, frame_message, parse_timeout
from scheduler.http2.headers import Headers, encode_block
from scheduler.http2.stream import Stream

if TYPE_CHECKING:
    from scheduler.http2.server import _ServerShell

_RESPONSE_HEADERS = encode_block([(":status", "200"), ("content-type", "application/grpc")])
_OK_TRAILERS = encode_block([("grpc-status", "0")])
_HEADERS_BYTES, _TRAILERS_BYTES = len(_RESPONSE_HEADERS), len(_OK_TRAILERS)
# Both frames around the message of a unary answer, the message's own head included.
_BEFORE = struct.Struct(f">BHBBI{_HEADERS_BYTES}sBHBBIBI").pack
_AFTER = struct.Struct(f">BHBBI{_TRAILERS_BYTES}s").pack
_ENDS = frames.END_HEADERS | frames.END_STREAM
# What browsers and the curious get: a status and a sentence.
_NOT_GRPC = ("415", "content-type is not application/grpc")
_NOT_POST = ("405", "the method is not POST")
_OUR_HEADERS = frozenset({"te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding"})


def _answer(stream_id: int, message: bytes) -> bytes:
    """A unary answer in one piece: headers, message, trailers."""
    size = len(message)
    body = size + 5
    return (
        _BEFORE(
            0, _HEADERS_BYTES, frames.HEADERS, frames.END_HEADERS, stream_id, _RESPONSE_HEADERS,
            body >> 16, body & 0xFFFF, frames.DATA, 0, stream_id, 0, size,
        )
        + message
        + _AFTER(0, _TRAILERS_BYTES, frames.HEADERS, _ENDS, stream_id, _OK_TRAILERS)
    )  # fmt: skip


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
        "_began_s",
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
        # When a unary call's request was complete.
        self._began_s = 0.0
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._refusal: tuple[str, str] | None = None
        self._request: bytes | None = None
        self._sink: Sink | None = None
        self._started = False

    @property
    def peer(self) -> Peer:
        """Who calls."""
        return self.shell.peer

    @property
    def incomplete(self) -> bool:
        """A call that waits for the rest of its request before it does anything."""
        if self.remote_done or isinstance(self.method, Streaming):
            return False
        return not self.ended or self._refusal is not None

    # What handlers use

    def reply(self, message: bytes) -> None:
        """Answer a unary call: headers, message and OK trailers leave together."""
        if self.ended:
            return
        self._finish_timer()
        self.ended = True
        connection = self.connection
        size = len(message) + 5
        room = min(self.send_window, connection.send_window, connection.peer_frame_bytes, connection.portion)
        if size <= room and not connection.paused:
            self.shell.server.seconds[self.path].observe(self.shell.loop.time() - self._began_s)
            self.send_window -= size
            connection.send_window -= size
            connection.portion -= size
            self.local_done = True
            connection.write(_answer(self.id, message))
            connection.release_if_done(self)
            return
        refusal = self._refuses(len(message))
        if refusal is not None:
            self.ended = False
            self.fail(refusal.status, refusal.message)
            return
        self.shell.server.seconds[self.path].observe(self.shell.loop.time() - self._began_s)
        self.start()
        connection.send_data(self, frame_message(message))
        connection.end_stream(self, self._trailers(_OK_TRAILERS))

    def _refuses(self, size: int) -> RpcError | None:
        """Why a message of that size is not sent to this peer."""
        connection = self.connection
        limit = connection.limits.answer_max_bytes
        if size > limit:
            return connection.exceeded(
                "answer too large", f"answer of {size} bytes is larger than the limit of {limit}"
            )
        return connection.overfull() if connection.held_bytes > connection.held_max_bytes else None

    def fail(self, status: Status, message: str = "", *, details: bytes = b"") -> None:
        """Answer a call with an error."""
        self._end(status, message, details)

    def finish(
        self, status: Status = Status.OK, message: str = "", *, details: bytes = b"", metadata: Metadata = ()
    ) -> None:
        """End a streaming call from our side, with `metadata` in the trailers; its sink hears `on_closed(None)`."""
        if not self.ended:
            self._end(status, message, details, metadata)
            self._close_sink(None)

    def start(self, metadata: Metadata = ()) -> None:
        """Send the response headers now, if they have not gone yet."""
        if not self._started:
            self._started = True
            block = _RESPONSE_HEADERS + encode_block(list(metadata)) if metadata else _RESPONSE_HEADERS
            self.connection.write(frames.head(len(block), frames.HEADERS, frames.END_HEADERS, self.id) + block)

    def send(self, message: bytes) -> None:
        """Send one message of a streaming answer."""
        self.send_framed(frame_message(message))

    def send_framed(self, chunk: bytes) -> None:
        """Send whole messages that carry their five-byte prefixes already."""
        if self.ended:
            return
        if self.connection.held_bytes:
            refusal = self._refuses(len(chunk))
            if refusal is not None:
                self._handler_failed(refusal)
                return
        if not self._started:
            self.start()
        self.connection.send_data(self, chunk)

    def _trailers(self, block: bytes) -> bytes:
        return frames.head(len(block), frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, self.id) + block

    def _end(self, status: Status, message: str, details: bytes, metadata: Metadata = ()) -> None:
        if self.ended:
            return
        self._finish_timer()
        self.ended = True
        if self.method is not None:
            self.shell.server.ends[self.path, int(status)] += 1
        fields: Headers = [] if self._started else [(":status", "200"), ("content-type", "application/grpc")]
        fields.append(("grpc-status", str(int(status))))
        if message:
            fields.append(("grpc-message", encode_text(message)))
        if details:
            fields.append(("grpc-status-details-bin", encode_binary(details)))
        fields.extend(metadata)
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
                elif name == "grpc-timeout" and self._deadline_timer is None:
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

    def _refuse(self, refusal: tuple[str, str]) -> None:
        """What is no gRPC call is answered once it is complete, so that its frames are judged like any other's."""
        self._finish_timer()
        self.ended = self._started = self.deaf = True
        self._refusal = refusal

    def _answer_refusal(self, status: str, text: str) -> None:
        block = encode_block([(":status", status), ("content-type", "text/plain; charset=utf-8")])
        self.connection.write(frames.head(len(block), frames.HEADERS, frames.END_HEADERS, self.id) + block)
        self.connection.send_data(self, f"This is a gRPC server: {text}.\n".encode())
        self.connection.end_stream(self, frames.head(0, frames.DATA, frames.END_STREAM, self.id))

    def _dispatch(self) -> None:
        method = self.method = self.shell.server.methods.get(self.path)
        if method is None:
            self.fail(Status.UNIMPLEMENTED, f"unknown method {self.path}")
            return
        self.shell.server.started[self.path] += 1
        if isinstance(method, Streaming):
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
            self._answer_refusal(*self._refusal)
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
        self._began_s = self.shell.last_received_s
        try:
            self.method.handler(request, self)
        except Exception as error:
            self._handler_failed(error)

    def _handler_failed(self, error: Exception) -> None:
        """A handler has raised, or is not to go on."""
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
        if self._refusal is not None:
            self.connection.reset(self, ErrorCode.CANCEL)
        elif self.id in self.connection.streams:
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
