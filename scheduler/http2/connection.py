"""One HTTP/2 connection without I/O: bytes in by `receive`, bytes out by `take_output` (RFC 9113; h11 is the model).

Both roles. The connection owns frames, windows, header tables and the streams' states; what a stream's messages mean is the
business of the `Stream` subclass that the role brings. There are no event objects: a stream's methods are called as its frames are parsed.
The sending half is in `sending`, the frames about windows, settings and the connection itself are in `control`; this is what carries calls.
Whatever a peer sends costs at most its own stream (RST_STREAM) or connection (GOAWAY); `receive` never raises.
"""

from collections.abc import Callable

from hpack import HPACKError

from scheduler.http2 import frames
from scheduler.http2.control import ConnectionFault, Controls, StreamFault
from scheduler.http2.frames import ErrorCode
from scheduler.http2.grpc import RpcError, Status
from scheduler.http2.headers import HeaderDecoder, HeaderListTooLarge, Headers, MalformedRequest, check_request
from scheduler.http2.limits import Limits
from scheduler.http2.stream import Stream

# A header list up to so many times its limit costs its call alone: it is decoded and refused. A larger one costs the connection.
_HARD_FACTOR = 4


class Connection(Controls):
    """One connection, whole. `make_stream` makes the server role's streams; `on_output` is told when output begins to wait."""

    def __init__(
        self,
        *,
        client: bool,
        limits: Limits,
        make_stream: Callable[["Connection", int], Stream] | None,
        on_output: Callable[[], None],
        on_idle_output: Callable[[], None] | None = None,
        on_refusal: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """`on_refusal` hears which limit was reached, each time that one costs a stream or the connection."""
        super().__init__(client=client, limits=limits, on_output=on_output, on_idle_output=on_idle_output)
        self.refused = on_refusal
        self._make_stream = make_stream
        self._buffer = b""
        self._preface_left = b"" if client else frames.PREFACE
        self._block_max_bytes = limits.header_list_max_bytes * _HARD_FACTOR
        self._decoder = HeaderDecoder(limits.header_list_max_bytes, hard_max_bytes=self._block_max_bytes)
        self._headers_stream = 0
        self._headers_flags = 0
        self._headers_parts: list[bytes] = []
        self._receive_window = limits.connection_window_bytes
        self._consumed = 0
        self.failed: str | None = None  # set by a connection error; the shell closes once the output has left

    def open_stream(self, stream_of: Callable[["Connection", int], Stream]) -> Stream:
        """The client role's next stream."""
        stream = stream_of(self, self._next_stream)
        self.streams[self._next_stream] = stream
        self._next_stream += 2
        return stream

    @property
    def stream_ids_left(self) -> bool:
        """Whether the client role can still number a new stream."""
        return self._next_stream < (1 << 31) - 1

    # Input

    def receive(self, data: bytes, now_s: float) -> None:
        """Take bytes from the peer. A connection error queues GOAWAY and sets `failed`."""
        if self.failed is not None:
            return
        self.now_s = now_s
        if now_s - self.second_s >= 1.0:
            self.second_s, self.resets, self.controls = now_s, 0, 0
        try:
            self._parse(self._buffer + data if self._buffer else data)
        except ConnectionFault as error:
            self.fail(error.code, str(error))

    def fail(self, code: ErrorCode, text: str) -> None:
        """End the connection for a reason that the peer is told."""
        self.refused(text if code is ErrorCode.ENHANCE_YOUR_CALM else code.name)
        self.failed = f"{code.name}: {text}"
        self.closing = True
        self.write(frames.goaway(self.last_peer_stream, code, text))

    def lost(self, text: str) -> None:
        """The connection is gone: every stream hears of it."""
        self.closing = True
        for stream in [self.forget(stream_id) for stream_id in list(self.streams)]:
            if stream is not None:
                stream.broken(RpcError(Status.UNAVAILABLE, text))
        # Our shell is told nothing more; or the two would hold each other until the collector finds them.
        self._make_stream = None
        self.muted()

    def _parse(self, data: bytes) -> None:
        position, end = 0, len(data)
        if self._preface_left:
            expected = self._preface_left
            got = data[: len(expected)]
            if expected[: len(got)] != got:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the client's preface is not HTTP/2's")
            self._preface_left = expected[len(got) :]
            position = len(got)
        frame_max = frames.DEFAULT_FRAME_BYTES
        while end - position >= 9:
            length = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
            kind = data[position + 3]
            if length > frame_max:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes is larger than {frame_max}")
            start = position + 9
            stop = start + length
            if stop > end:
                break
            flags = data[position + 4]
            stream_id = int.from_bytes(data[position + 5 : start], "big") & 0x7FFFFFFF
            position = stop
            if self._headers_stream and kind != frames.CONTINUATION:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
            try:
                if kind == frames.DATA:
                    self._data(data, start, stop, flags, stream_id)
                elif not self.settings_seen and kind != frames.SETTINGS:
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
                elif kind == frames.HEADERS:
                    self._headers(flags, stream_id, data[start:stop])
                elif kind == frames.CONTINUATION:
                    self._continuation(flags, stream_id, data[start:stop])
                else:
                    self.control(kind, flags, stream_id, data[start:stop])
            except StreamFault as error:
                self._break(error.stream_id, error.code, str(error))
            except RpcError as error:
                self._break_call(stream_id, error)
        self._buffer = data[position:] if position < end else b""

    def _break(self, stream_id: int, code: ErrorCode, text: str) -> None:
        self.write(frames.rst_stream(stream_id, code))
        self.count_reset()
        stream = self.forget(stream_id)
        if stream is not None:
            stream.broken(RpcError(Status.INTERNAL, text))

    def _break_call(self, stream_id: int, error: RpcError) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.drop_partial(stream)
            stream.broken(error)

    # Messages

    def _data(self, data: bytes, start: int, stop: int, flags: int, stream_id: int) -> None:
        size = stop - start
        self._receive_window -= size
        if self._receive_window < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is overrun")
        self._consumed += size
        if self._consumed > self.limits.connection_window_bytes >> 1:
            self.write(frames.window_update(0, self._consumed))
            self._receive_window += self._consumed
            self._consumed = 0
        stream = self.streams.get(stream_id)
        if stream is None or stream.remote_done:
            self._data_nowhere(stream_id, stream)
            return
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is overrun")
        stream.consumed += size
        if stream.consumed > self.limits.stream_window_bytes >> 1 and not flags & frames.END_STREAM:
            self.write(frames.window_update(stream_id, stream.consumed))
            stream.receive_window += stream.consumed
            stream.consumed = 0
        if flags & frames.PADDED:
            if size == 0 or data[start] >= size:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding is longer than its frame")
            stop -= data[start]
            start += 1
        if start == stop and not flags & frames.END_STREAM:
            self.count_control()
        if stream.content_left is not None:
            stream.content_left -= stop - start
            if stream.content_left < 0 or (flags & frames.END_STREAM and stream.content_left):
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "content-length does not match the body")
        if stream.deaf:
            stream.raw_received(data[start:stop])
        else:
            stream.take(data, start, stop)
        if flags & frames.END_STREAM:
            self._remote_ended(stream)

    def _data_nowhere(self, stream_id: int, stream: Stream | None) -> None:
        """DATA for a stream that is closed, half-closed or was never opened."""
        if stream is not None:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "DATA after the end of the stream")
        self._closed_or_idle(stream_id, "DATA")

    def _closed_or_idle(self, stream_id: int, what: str) -> None:
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} on stream 0")
        self.late_frame(stream_id, what)
        if not self.client:
            self.write(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))

    def _remote_ended(self, stream: Stream) -> None:
        stream.remote_done = True
        if stream.partial:
            self.drop_partial(stream)
            raise RpcError(Status.INTERNAL, "the stream ended inside a message")
        stream.remote_ended()
        if stream.local_done:
            self.release_if_done(stream)

    # Header blocks

    def _headers(self, flags: int, stream_id: int, body: bytes) -> None:
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & frames.PADDED:
            if not body or body[0] >= len(body):
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding is longer than its frame")
            body = body[1 : len(body) - body[0]]
        if flags & frames.PRIORITY_FLAG:
            if len(body) < 5:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
            if int.from_bytes(body[:4], "big") & 0x7FFFFFFF == stream_id:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
            body = body[5:]
        if flags & frames.END_HEADERS:
            self._header_block(flags, stream_id, body)
            return
        self._headers_stream, self._headers_flags, self._headers_parts = stream_id, flags, [body]

    def _continuation(self, flags: int, stream_id: int, body: bytes) -> None:
        if stream_id == 0 or stream_id != self._headers_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without its HEADERS")
        self._headers_parts.append(body)
        size = sum(map(len, self._headers_parts))
        # The number counts CONTINUATION frames; the first part is of HEADERS.
        too_many = len(self._headers_parts) - 1 > self.limits.continuation_frames_max
        if too_many or size > self._block_max_bytes:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "header block is too long")
        if flags & frames.END_HEADERS:
            self._headers_stream = 0
            self._header_block(self._headers_flags, stream_id, b"".join(self._headers_parts))
            self._headers_parts = []

    def _header_block(self, flags: int, stream_id: int, block: bytes) -> None:
        oversized: str | None = None
        headers: Headers = []
        try:
            headers = self._decoder.decode(block)
        except HeaderListTooLarge as error:
            oversized = str(error)
        except HPACKError as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"header block: {error}") from error
        ended = bool(flags & frames.END_STREAM)
        stream = self.streams.get(stream_id)
        trailers = stream is not None and not self.client
        if stream is None:
            stream = self._new_peer_stream(stream_id)
            if stream is None:
                return
        elif stream.remote_done:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "HEADERS after the end of the stream")
        if oversized is not None:
            stream.remote_done = ended
            raise self.exceeded("header list too large", oversized)
        if trailers:
            if not ended:
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "trailers without the end of the stream")
            if any(name.startswith(":") for name, _ in headers):
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "pseudo header in trailers")
            if stream.content_left:
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "content-length does not match the body")
            self._remote_ended(stream)
            return
        if not self.client:
            try:
                stream.content_left = check_request(headers, ended=ended)
            except MalformedRequest as error:
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, str(error)) from error
        stream.headers_received(headers, ended=ended)
        if ended and stream_id in self.streams:
            self._remote_ended(stream)

    def _new_peer_stream(self, stream_id: int) -> Stream | None:
        """The server role's new stream; None where it is refused or was closed before."""
        if self.client:
            if stream_id % 2 == 0 or stream_id >= self._next_stream:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}, which is idle")
            return None
        if stream_id % 2 == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a client's stream has the even number {stream_id}")
        if stream_id <= self.last_peer_stream:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which is closed")
        self.last_peer_stream = stream_id
        if self.closing or len(self.streams) >= self.limits.concurrent_streams_max:
            if not self.closing:
                self.refused("too many streams")
            self.write(frames.rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            self.count_reset()
            return None
        if self._make_stream is None:
            raise ConnectionFault(ErrorCode.INTERNAL_ERROR, "no streams here")
        stream = self.streams[stream_id] = self._make_stream(self, stream_id)
        return stream
