"""What the transport's tests share: frames by hand, a stream that remembers, a socket that takes everything."""

import asyncio

from scheduler.http2 import frames
from scheduler.http2.connection import Connection
from scheduler.http2.frames import ErrorCode
from scheduler.http2.grpc import RpcError
from scheduler.http2.headers import encode_block
from scheduler.http2.limits import Limits
from scheduler.http2.server import Server, _ServerShell
from scheduler.http2.stream import Stream

END = frames.END_HEADERS | frames.END_STREAM


def fields(path: str = "/a/B", *more: tuple[str, str]) -> list[tuple[str, str]]:
    start = [(":method", "POST"), (":scheme", "http"), (":path", path), ("content-type", "application/grpc")]
    return [*start, *more]


HEADERS = encode_block(fields())


class Recorder(Stream):
    """A stream that remembers what it was told."""

    __slots__ = ("ended", "error", "messages", "writables")

    def __init__(self, connection: Connection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.messages: list[bytes] = []
        self.ended = False
        self.error: RpcError | None = None
        self.writables = 0

    def headers_received(self, headers, *, ended) -> None:
        pass

    def message_received(self, message: bytes) -> None:
        self.messages.append(message)

    def remote_ended(self) -> None:
        self.ended = True

    def broken(self, error: RpcError) -> None:
        assert self.error is None, "told twice"
        self.error = error
        self.connection.reset(self, ErrorCode.CANCEL)

    def writable(self) -> None:
        self.writables += 1


class Bench:
    """A server's connection, its streams, and the limits that were reached."""

    def __init__(self, **limits) -> None:
        self.made: dict[int, Recorder] = {}
        self.reached: list[str] = []
        self.connection = Connection(
            client=False,
            limits=Limits(**limits),
            make_stream=self._make,
            on_output=lambda: None,
            on_refusal=self.reached.append,
        )
        self.receive(frames.PREFACE + frames.settings({}))
        self.connection.take_output()

    def _make(self, connection: Connection, stream_id: int) -> Recorder:
        self.made[stream_id] = Recorder(connection, stream_id)
        return self.made[stream_id]

    def receive(self, data: bytes, now_s: float = 0.0) -> "Bench":
        self.connection.receive(data, now_s)
        return self

    @property
    def failed(self) -> str:
        return (self.connection.failed or "").partition(":")[0]

    def sent(self) -> list[tuple[int, int, bytes]]:
        """Frames that have been sent since last time: kind, stream, body."""
        return parse(self.connection.take_output())


def parse(data: bytes) -> list[tuple[int, int, bytes]]:
    found = []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append((data[3], int.from_bytes(data[5:9], "big"), data[9 : 9 + size]))
        data = data[9 + size :]
    return found


def headers(stream_id: int, flags: int = frames.END_HEADERS, block: bytes = HEADERS) -> bytes:
    return frames.head(len(block), frames.HEADERS, flags, stream_id) + block


def data(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    return frames.head(len(payload), frames.DATA, flags, stream_id) + payload


class Wire(asyncio.Transport):
    """A socket that takes everything, or nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.unread = 0
        self.gone = False

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))

    def taken(self) -> list[tuple[int, int, bytes]]:
        written, self.written = b"".join(self.written), []
        return parse(written)

    def is_closing(self) -> bool:
        return self.gone

    def set_write_buffer_limits(self, high=None, low=None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.unread

    def close(self) -> None:
        self.gone = True

    abort = close


def connected(server: Server, *, window: int = 1 << 30) -> _ServerShell:
    """A connection of the server's whose other end is the test."""
    shell = _ServerShell(server)
    shell.connection_made(Wire())
    shell.data_received(frames.PREFACE + frames.settings({}) + frames.window_update(0, window))
    shell._flush()
    shell.transport.taken()
    return shell
