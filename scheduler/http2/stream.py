"""One stream of a connection: its windows, what waits to be sent, and what either role does with what arrives."""

from typing import TYPE_CHECKING

from scheduler.http2.grpc import RpcError
from scheduler.http2.headers import Headers

if TYPE_CHECKING:
    from scheduler.http2.connection import Connection


class Stream:
    """One HTTP/2 stream that carries one call; the roles subclass it. All methods are called synchronously by the connection."""

    __slots__ = (
        "above_high",
        "compressed",
        "connection",
        "consumed",
        "deaf",
        "id",
        "local_done",
        "partial",
        "pending",
        "pending_bytes",
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
        # Views, so that taking a frame off a large message copies only the frame.
        self.pending: list[memoryview] = []
        self.pending_bytes = 0
        # When the stream was opened, or when the peer last took some of what is pending.
        self.progress_s = connection.now_s
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
