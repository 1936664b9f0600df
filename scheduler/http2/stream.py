"""One stream of a connection: its windows, what waits to be sent, and what either role does with what arrives."""

from collections import deque
from typing import TYPE_CHECKING

from scheduler.http2.grpc import RpcError, Status, decompress
from scheduler.http2.headers import Headers

if TYPE_CHECKING:
    from scheduler.http2.connection import Connection


_MESSAGE_HEAD = 5


class Stream:
    """One HTTP/2 stream that carries one call; the roles subclass it. All methods are called synchronously by the connection."""

    __slots__ = (
        "above_high",
        "compressed",
        "connection",
        "consumed",
        "content_left",
        "deaf",
        "id",
        "local_done",
        "opened_s",
        "partial",
        "pending",
        "pending_bytes",
        "progress_bytes",
        "progress_s",
        "receive_window",
        "remote_done",
        "send_window",
        "trailing",
    )

    def __init__(self, connection: "Connection", stream_id: int) -> None:
        """Both windows start as the settings in force say."""
        self.connection = connection
        self.id = stream_id
        self.send_window = connection.peer_initial_window
        self.receive_window = connection.limits.stream_window_bytes
        self.consumed = 0
        self.partial: bytearray | None = None
        self.pending: deque[memoryview] | None = None
        self.pending_bytes = 0
        self.opened_s = connection.now_s
        # Since when the peer has taken so little of what is pending, and how little.
        self.progress_s = 0.0
        self.progress_bytes = 0
        # What is left of a declared content-length; few requests declare one.
        self.content_left: int | None = None
        # The frame that ends our side, kept back until all pending data has gone.
        self.trailing: bytes | None = None
        self.local_done = False
        self.remote_done = False
        self.above_high = False
        # What the peer sends is not read as gRPC messages: it is counted against its windows and goes to `raw_received`.
        self.deaf = False
        self.compressed = False

    @property
    def send_buffered(self) -> int:
        """Bytes queued here that flow control or the socket has not taken yet."""
        return self.pending_bytes

    def take(self, data: bytes, start: int, stop: int) -> None:
        """DATA has come: hand out the whole messages in data[start:stop] and keep the rest. Raises RpcError to end the call."""
        if self.partial is not None:
            self._complete(self.partial, memoryview(data)[start:stop])
            return
        message_max = self.connection.limits.message_max_bytes
        while stop - start >= _MESSAGE_HEAD:
            body = start + _MESSAGE_HEAD
            size = int.from_bytes(data[start + 1 : body], "big")
            if size > message_max:
                raise self._too_large(size)
            end = body + size
            if end > stop:
                break
            if data[start]:
                self._compressed(data[start], data[body:end])
            else:
                self.message_received(data[body:end])
            start = end
        # A message may have ended the stream.
        if start < stop and self.id in self.connection.streams:
            self.partial = bytearray(data[start:stop])
            self._hold(stop - start)

    def _complete(self, partial: bytearray, more: memoryview) -> None:
        """Once a message's length is known nothing is parsed until it is there: a large message costs one pass."""
        partial += more
        self._hold(len(more))
        if len(partial) < _MESSAGE_HEAD:
            return
        size = int.from_bytes(partial[1:_MESSAGE_HEAD], "big")
        if size > self.connection.limits.message_max_bytes:
            raise self._too_large(size)
        end = _MESSAGE_HEAD + size
        if len(partial) >= end:
            self.connection.drop_partial(self)
            message, rest = bytes(memoryview(partial)[_MESSAGE_HEAD:end]), bytes(memoryview(partial)[end:])
            if partial[0]:
                self._compressed(partial[0], message)
            else:
                self.message_received(message)
            if rest and self.id in self.connection.streams:
                self.take(rest, 0, len(rest))

    def _hold(self, size: int) -> None:
        connection = self.connection
        connection.held_bytes += size
        if connection.held_bytes > connection.held_max_bytes:
            raise connection.overfull()

    def _compressed(self, flag: int, body: bytes) -> None:
        if flag != 1 or not self.compressed:
            raise RpcError(Status.INTERNAL, "compressed message without a known grpc-encoding")
        limit = self.connection.limits.message_max_bytes
        message = decompress(body, limit)
        if message is None:
            raise self.connection.exceeded(
                "message too large", f"compressed message is larger than the limit of {limit}"
            )
        self.message_received(message)

    def _too_large(self, size: int) -> RpcError:
        limit = self.connection.limits.message_max_bytes
        return self.connection.exceeded(
            "message too large", f"message of {size} bytes is larger than the limit of {limit}"
        )

    def headers_received(self, headers: Headers, *, ended: bool) -> None:
        """A header block for this stream: the first, or trailers. Raises RpcError to end the call."""
        raise NotImplementedError

    def message_received(self, message: bytes) -> None:
        """One whole gRPC message."""
        raise NotImplementedError

    def raw_received(self, chunk: bytes) -> None:
        """Bytes for a deaf stream; dropped unless a subclass wants them."""

    def remote_ended(self) -> None:
        """The peer has ended its side."""
        raise NotImplementedError

    def broken(self, error: RpcError) -> None:
        """The stream is over: reset by the peer, ended by a protocol error, or lost with the connection. Called at most once."""
        raise NotImplementedError

    def writable(self) -> None:
        """The send buffer fell below its low mark after it had been above its high mark."""
        raise NotImplementedError
