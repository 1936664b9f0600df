"""One call on the client side, and the sink that makes a future of it."""

import asyncio
from typing import Protocol

from scheduler.http2 import frames
from scheduler.http2.call import Sink
from scheduler.http2.connection import Connection
from scheduler.http2.frames import ErrorCode
from scheduler.http2.grpc import Metadata, RpcError, Status, decode_binary, decode_text, frame_message
from scheduler.http2.headers import Headers
from scheduler.http2.stream import Stream

_HTTP_TO_STATUS = {
    "400": Status.INTERNAL,
    "401": Status.UNAUTHENTICATED,
    "403": Status.PERMISSION_DENIED,
    "404": Status.UNIMPLEMENTED,
    "429": Status.UNAVAILABLE,
    "502": Status.UNAVAILABLE,
    "503": Status.UNAVAILABLE,
    "504": Status.UNAVAILABLE,
}


class Owner(Protocol):
    """What a call needs of its channel."""

    def forget(self, call: "ClientCall") -> None:
        """A call has been given up by its caller."""


class ClientCall(Stream):
    """One call on the client side. It may be made before the connection is there; what is sent meanwhile waits."""

    __slots__ = (
        "_channel",
        "_early",
        "_half_closed",
        "_headers",
        "_sink",
        "_timer",
        "ended",
        "response_metadata",
        "wait_for_ready",
    )

    def __init__(self, channel: Owner, headers: bytes, sink: Sink, *, wait_for_ready: bool) -> None:
        """Made by the channel."""
        # The Stream part is set up when the call gets a connection (`attach`).
        self.id = 0
        self.pending_bytes = 0
        self._channel = channel
        self._headers = headers
        self._sink: Sink | None = sink
        self._early: list[bytes] = []
        self._half_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self.ended = False
        self.response_metadata: Metadata = ()
        self.wait_for_ready = wait_for_ready

    # What callers use

    def send(self, message: bytes) -> None:
        """Send one message."""
        self.send_framed(frame_message(message))

    def send_framed(self, chunk: bytes) -> None:
        """Send whole messages that carry their five-byte prefixes already."""
        if self.ended or self._half_closed:
            return
        if self.id:
            self.connection.send_data(self, chunk)
        else:
            self._early.append(chunk)

    def half_close(self) -> None:
        """Say that no more messages will come."""
        if self.ended or self._half_closed:
            return
        self._half_closed = True
        if self.id:
            self.connection.end_stream(self, frames.head(0, frames.DATA, frames.END_STREAM, self.id))

    def cancel(self) -> None:
        """End the call; its sink hears on_closed(CANCELLED)."""
        self._give_up(RpcError(Status.CANCELLED, "cancelled by the caller"))

    # What the channel and the connection call

    def attach(self, connection: Connection) -> None:
        """The connection is there: the call's headers and what was sent early go out."""
        connection.open_stream(self._numbered)
        block = self._headers
        self.connection.write(frames.head(len(block), frames.HEADERS, frames.END_HEADERS, self.id) + block)
        early, self._early = self._early, []
        if early:
            connection.send_data(self, b"".join(early))
        if self._half_closed:
            connection.end_stream(self, frames.head(0, frames.DATA, frames.END_STREAM, self.id))

    def _numbered(self, connection: Connection, stream_id: int) -> Stream:
        Stream.__init__(self, connection, stream_id)
        return self

    def start_timer(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        """Give the call a deadline."""
        self._timer = loop.call_later(timeout_s, self._deadline_passed)

    def _deadline_passed(self) -> None:
        self._timer = None
        self._give_up(RpcError(Status.DEADLINE_EXCEEDED, "deadline exceeded"))

    def _give_up(self, error: RpcError) -> None:
        if self.ended:
            return
        if self.id:
            self.connection.reset(self, ErrorCode.CANCEL)
        self._channel.forget(self)
        self.broken(error)

    def headers_received(self, headers: Headers, *, ended: bool) -> None:
        """Response headers or trailers."""
        fields = dict(headers)
        http_status = fields.get(":status", "200")
        if not ended and "grpc-status" not in fields:
            if http_status != "200":
                self._conclude(RpcError(_HTTP_TO_STATUS.get(http_status, Status.UNKNOWN), f"HTTP status {http_status}"))
                return
            self.compressed = fields.get("grpc-encoding") == "gzip"
            self.response_metadata = tuple((name, value) for name, value in headers if name[:1] != ":")
            return
        text = fields.get("grpc-status")
        if text is None:
            known = _HTTP_TO_STATUS.get(http_status, Status.UNKNOWN)
            self._conclude(RpcError(known, f"the server ended the call without a status (HTTP status {http_status})"))
            return
        try:
            status = Status(int(text))
        except ValueError:
            status = Status.UNKNOWN
        if status is Status.OK:
            self._conclude(None)
            return
        try:
            details = decode_binary(fields.get("grpc-status-details-bin", ""))
        except ValueError:
            details = b""
        metadata = tuple((name, value) for name, value in headers if name[:1] != ":")
        self._conclude(
            RpcError(status, decode_text(fields.get("grpc-message", "")), details=details, metadata=metadata)
        )

    def _conclude(self, error: RpcError | None) -> None:
        """The server has said how the call ended."""
        if not self.local_done:
            self.connection.reset(self, ErrorCode.CANCEL)
        self._end(error)

    def message_received(self, message: bytes) -> None:
        """One message of the answer."""
        if self._sink is not None:
            self._sink.on_message(message)

    def remote_ended(self) -> None:
        """The server's side has ended; without trailers before, that is an error."""
        self._end(RpcError(Status.UNKNOWN, "the server ended the stream without trailers"))

    def broken(self, error: RpcError) -> None:
        """The call cannot go on."""
        if self.id and self.id in self.connection.streams:
            self.connection.reset(self, ErrorCode.CANCEL)
        if error.status is Status.CANCELLED and self._late():
            # A server whose own timer of our deadline was first may just reset the stream, as grpc-go does.
            error = RpcError(Status.DEADLINE_EXCEEDED, "deadline exceeded")
        self._end(error)

    def _late(self) -> bool:
        return self._timer is not None and self._timer.when() <= asyncio.get_running_loop().time()

    def _end(self, error: RpcError | None) -> None:
        if self.ended:
            return
        self.ended = True
        if self._timer is not None:
            self._timer.cancel()
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.on_closed(error)

    def writable(self) -> None:
        """The buffer has drained."""
        if self._sink is not None:
            self._sink.on_writable()


class UnarySink:
    """Collects one answer into a future."""

    __slots__ = ("answer", "future")

    def __init__(self, future: asyncio.Future[bytes]) -> None:
        """The future gets the answer or the error."""
        self.future = future
        self.answer: bytes | None = None

    def on_message(self, message: bytes) -> None:
        """The answer, so far."""
        self.answer = message

    def on_half_close(self) -> None:
        """Never: it is the client's side that closes."""

    def on_writable(self) -> None:
        """A request is sent at once."""

    def on_closed(self, error: RpcError | None) -> None:
        """The call is over."""
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        elif self.answer is None:
            self.future.set_exception(RpcError(Status.INTERNAL, "the server answered OK without a message"))
        else:
            self.future.set_result(self.answer)
