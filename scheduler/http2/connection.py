"""One HTTP/2 connection without I/O: bytes in by `receive`, bytes out by `take_output` (RFC 9113; h11 is the model).

Both roles. The connection owns frames, windows, header tables and the streams' states; what a stream's messages mean is the
business of the `Stream` subclass that the role brings. There are no event objects: a stream's methods are called as its frames are parsed.
Whatever a peer sends costs at most its own stream (RST_STREAM) or connection (GOAWAY); `receive` never raises.
"""

from collections.abc import Callable

from hpack import HPACKError

from scheduler.http2 import frames
from scheduler.http2.frames import ErrorCode
from scheduler.http2.grpc import RpcError, Status, decompress
from scheduler.http2.headers import HeaderDecoder, Headers
from scheduler.http2.limits import Limits
from scheduler.http2.stream import Stream

_MESSAGE_HEAD = 5


class _ConnectionError(Exception):
    """The peer broke a rule of the connection."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class _StreamError(Exception):
    """The peer broke a rule of one stream."""

    def __init__(self, stream_id: int, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.stream_id = stream_id
        self.code = code


class Connection:
    """One connection. `make_stream` makes the server role's streams; `on_output` is told when output begins to wait."""

    def __init__(
        self,
        *,
        client: bool,
        limits: Limits,
        make_stream: Callable[["Connection", int], Stream] | None,
        on_output: Callable[[], None],
        on_idle_output: Callable[[], None] | None = None,
    ) -> None:
        """The preface and our settings are the first output."""
        self.client = client
        self.limits = limits
        self._make_stream = make_stream
        self._on_output = on_output
        self._on_idle_output = on_idle_output or on_output
        self._told = self._told_idle = False
        self._output: list[bytes] = []
        self._buffer = b""
        self._preface_left = b"" if client else frames.PREFACE
        self._settings_seen = False
        self._decoder = HeaderDecoder(limits.header_list_max_bytes)
        self.streams: dict[int, Stream] = {}
        # Streams with data that waits for a window, in turn.
        self._blocked: dict[int, Stream] = {}
        # What is left of the declared content-length, of the few streams that declare one.
        self._content_left: dict[int, int] = {}
        self._headers_stream = 0
        self._headers_flags = 0
        self._headers_parts: list[bytes] = []
        self.last_peer_stream = 0
        self._next_stream = 1
        self.peer_initial_window = frames.DEFAULT_WINDOW
        self.peer_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self.peer_streams_max = 1 << 31
        self.send_window = frames.DEFAULT_WINDOW
        self._receive_window = limits.connection_window_bytes
        self._consumed = 0
        # The socket does not take more: everything waits in the streams.
        self.paused = False
        self.closing = False  # GOAWAY sent for good: no more streams
        self.failed: str | None = None  # set by a connection error; the shell closes once the output has left
        self.peer_going_away = False
        self.now_s = 0.0
        self._second = 0.0
        self._resets = 0
        self._controls = 0
        self.ping_acked = True
        settings = {
            frames.ENABLE_PUSH: 0,
            frames.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            frames.MAX_HEADER_LIST_SIZE: limits.header_list_max_bytes,
        }
        if not client:
            del settings[frames.ENABLE_PUSH]
            settings[frames.MAX_CONCURRENT_STREAMS] = limits.concurrent_streams_max
        grown = limits.connection_window_bytes - frames.DEFAULT_WINDOW
        self._output.append(
            (frames.PREFACE if client else b"")
            + frames.settings(settings)
            + (frames.window_update(0, grown) if grown > 0 else b"")
        )

    # Output

    def write(self, data: bytes) -> None:
        """Queue frames; the first of a turn tells the shell."""
        if not self._told:
            self._told = True
            self._on_output()
        self._output.append(data)

    def write_idly(self, data: bytes) -> None:
        """Queue frames that may wait a few milliseconds for company, such as answers to bandwidth probes."""
        if not self._told and not self._told_idle:
            self._told_idle = True
            self._on_idle_output()
        self._output.append(data)

    def take_output(self) -> bytes:
        """All frames that wait, in one piece."""
        output, self._output = self._output, []
        self._told = self._told_idle = False
        return output[0] if len(output) == 1 else b"".join(output)

    def ping(self) -> None:
        """Ask the peer for a sign of life; `ping_acked` turns true with its answer."""
        self.ping_acked = False
        self.write(frames.ping(b"keepaliv"))

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, text: str = "") -> None:
        """No new streams of the peer from here on; those that are open go on."""
        if not self.closing:
            self.closing = True
            self.write(frames.goaway(self.last_peer_stream, code, text))

    def send_data(self, stream: Stream, payload: bytes) -> None:
        """Send a stream's bytes as far as windows allow; the rest waits, in order."""
        size = len(payload)
        if not stream.pending and size <= stream.send_window and size <= self.send_window and not self.paused:
            stream.send_window -= size
            self.send_window -= size
            stream_id, limit = stream.id, self.peer_frame_bytes
            if size <= limit:
                self.write(frames.head(size, frames.DATA, 0, stream_id) + payload)
                return
            for start in range(0, size, limit):
                chunk = payload[start : start + limit]
                self.write(frames.head(len(chunk), frames.DATA, 0, stream_id) + chunk)
            return
        if not stream.pending:
            stream.progress_s = self.now_s
        stream.pending.append(memoryview(payload))
        stream.pending_bytes += size
        self._blocked[stream.id] = stream
        self._pump(stream)
        if stream.pending_bytes > self.limits.send_high_bytes:
            stream.above_high = True

    @property
    def send_backlog_bytes(self) -> int:
        """What waits for the peer, in all streams."""
        return sum(stream.pending_bytes for stream in self._blocked.values())

    def stalled(self, before_s: float) -> list[Stream]:
        """Streams with data of which the peer has taken nothing since then."""
        return [stream for stream in self._blocked.values() if stream.progress_s < before_s]

    def end_stream(self, stream: Stream, trailing: bytes) -> None:
        """Send the frame that ends our side, behind whatever of the stream still waits."""
        stream.local_done = True
        if stream.pending:
            stream.trailing = trailing
            return
        self.write(trailing)
        self._release_if_done(stream)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream from our side; the caller knows, so it is not told."""
        if self.streams.pop(stream.id, None) is not None:
            self._blocked.pop(stream.id, None)
            stream.pending.clear()
            stream.pending_bytes = 0
            self.write(frames.rst_stream(stream.id, code))

    def resume(self) -> None:
        """The socket takes bytes again."""
        self.paused = False
        self._pump_all()

    def _pump_all(self) -> None:
        for stream in list(self._blocked.values()):
            if self.paused or self.send_window <= 0:
                return
            self._pump(stream)

    def _pump(self, stream: Stream) -> None:
        """Send what waits, as far as both windows allow."""
        stream.progress_s = self.now_s if self.send_window > 0 and stream.send_window > 0 else stream.progress_s
        while stream.pending and not self.paused:
            room = min(stream.send_window, self.send_window, self.peer_frame_bytes)
            if room <= 0:
                break
            chunk = stream.pending[0]
            if len(chunk) > room:
                stream.pending[0] = chunk[room:]
                chunk = chunk[:room]
            else:
                del stream.pending[0]
            size = len(chunk)
            stream.send_window -= size
            self.send_window -= size
            stream.pending_bytes -= size
            self.write(frames.head(size, frames.DATA, 0, stream.id) + chunk)
        if stream.pending:
            # To the end of the line, so that streams take turns at the connection's window.
            self._blocked.pop(stream.id, None)
            self._blocked[stream.id] = stream
        else:
            self._blocked.pop(stream.id, None)
            if stream.trailing is not None:
                trailing, stream.trailing = stream.trailing, None
                self.write(trailing)
                self._release_if_done(stream)
        if stream.above_high and stream.pending_bytes <= self.limits.send_low_bytes:
            stream.above_high = False
            stream.writable()

    def _release_if_done(self, stream: Stream) -> None:
        if self._content_left and stream.remote_done:
            self._content_left.pop(stream.id, None)
        if not stream.local_done or stream.pending or stream.trailing is not None:
            return
        if stream.remote_done:
            self.streams.pop(stream.id, None)
        elif not self.client and self.streams.pop(stream.id, None) is not None:
            # The answer is complete and the request is not: tell the client to stop sending (RFC 9113, 8.1).
            self.write(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))

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
        if now_s - self._second >= 1.0:
            self._second, self._resets, self._controls = now_s, 0, 0
        try:
            self._parse(self._buffer + data if self._buffer else data)
        except _ConnectionError as error:
            self.fail(error.code, str(error))

    def fail(self, code: ErrorCode, text: str) -> None:
        """End the connection for a reason that the peer is told."""
        self.failed = f"{code.name}: {text}"
        self.closing = True
        self.write(frames.goaway(self.last_peer_stream, code, text))

    def lost(self, text: str) -> None:
        """The connection is gone: every stream hears of it."""
        self.closing = True
        streams, self.streams, self._blocked = list(self.streams.values()), {}, {}
        for stream in streams:
            stream.broken(RpcError(Status.UNAVAILABLE, text))

    def _parse(self, data: bytes) -> None:
        position, end = 0, len(data)
        if self._preface_left:
            expected = self._preface_left
            got = data[: len(expected)]
            if expected[: len(got)] != got:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "the client's preface is not HTTP/2's")
            self._preface_left = expected[len(got) :]
            position = len(got)
        frame_max = frames.DEFAULT_FRAME_BYTES
        while end - position >= 9:
            length = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
            kind = data[position + 3]
            if length > frame_max:
                raise _ConnectionError(
                    ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes is larger than {frame_max}"
                )
            start = position + 9
            stop = start + length
            if stop > end:
                break
            flags = data[position + 4]
            stream_id = int.from_bytes(data[position + 5 : start], "big") & 0x7FFFFFFF
            position = stop
            if self._headers_stream and kind != frames.CONTINUATION:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
            try:
                if kind == frames.DATA:
                    self._data(data, start, stop, flags, stream_id)
                elif not self._settings_seen and kind != frames.SETTINGS:
                    raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
                else:
                    self._control(kind, flags, stream_id, data[start:stop])
            except _StreamError as error:
                self._break(error.stream_id, error.code, str(error))
            except RpcError as error:
                self._break_call(stream_id, error)
        self._buffer = data[position:] if position < end else b""

    def _break(self, stream_id: int, code: ErrorCode, text: str) -> None:
        self.write(frames.rst_stream(stream_id, code))
        self._count_reset()
        self._content_left.pop(stream_id, None)
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            self._blocked.pop(stream_id, None)
            stream.broken(RpcError(Status.INTERNAL, text))

    def _break_call(self, stream_id: int, error: RpcError) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.partial = None
            stream.broken(error)

    def _count_reset(self) -> None:
        self._resets += 1
        if self._resets > self.limits.resets_per_second_max:
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many reset streams")

    def _data(self, data: bytes, start: int, stop: int, flags: int, stream_id: int) -> None:  # noqa: C901, PLR0912 - the hot path, in one piece
        size = stop - start
        self._receive_window -= size
        if self._receive_window < 0:
            raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is overrun")
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
            raise _StreamError(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is overrun")
        stream.consumed += size
        if stream.consumed > self.limits.stream_window_bytes >> 1 and not flags & frames.END_STREAM:
            self.write(frames.window_update(stream_id, stream.consumed))
            stream.receive_window += stream.consumed
            stream.consumed = 0
        if flags & frames.PADDED:
            if size == 0 or data[start] >= size:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "padding is longer than its frame")
            stop -= data[start]
            start += 1
        if start == stop and not flags & frames.END_STREAM:
            self._count_control()
        if self._content_left and stream_id in self._content_left:
            self._count_content(stream_id, stop - start, ended=bool(flags & frames.END_STREAM))
        partial = stream.partial
        if stream.deaf:
            stream.raw_received(data[start:stop])
        elif partial is None:
            start = self._messages(stream, data, start, stop)
            if start < stop:
                stream.partial = bytearray(data[start:stop])
                self._check_partial(stream)
        else:
            partial += data[start:stop]
            # Once the message's length is known nothing is parsed until it is there: a large message costs one pass.
            if len(partial) >= _MESSAGE_HEAD and len(partial) >= _MESSAGE_HEAD + int.from_bytes(partial[1:5], "big"):
                whole = bytes(partial)
                stream.partial = None
                used = self._messages(stream, whole, 0, len(whole))
                if used < len(whole):
                    stream.partial = bytearray(whole[used:])
            if stream.partial is not None:
                self._check_partial(stream)
        if flags & frames.END_STREAM:
            self._remote_ended(stream)

    def _count_content(self, stream_id: int, size: int, *, ended: bool) -> None:
        """A body must be as long as it was declared (RFC 9113, 8.1.1)."""
        left = self._content_left[stream_id] - size
        self._content_left[stream_id] = left
        if left < 0 or (ended and left):
            del self._content_left[stream_id]
            raise _StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "content-length does not match the body")
        if ended:
            del self._content_left[stream_id]

    def _messages(self, stream: Stream, data: bytes, start: int, stop: int) -> int:
        """Hand out the whole messages in data[start:stop]; where the rest begins."""
        while stop - start >= _MESSAGE_HEAD:
            body = start + _MESSAGE_HEAD
            end = body + int.from_bytes(data[start + 1 : body], "big")
            if end > stop:
                break
            if data[start]:
                self._compressed(stream, data[start], data[body:end])
            else:
                stream.message_received(data[body:end])
            start = end
        return start

    def _compressed(self, stream: Stream, flag: int, body: bytes) -> None:
        if flag != 1 or not stream.compressed:
            raise RpcError(Status.INTERNAL, "compressed message without a known grpc-encoding")
        stream.message_received(decompress(body, self.limits.message_max_bytes))

    def _check_partial(self, stream: Stream) -> None:
        partial = stream.partial
        if partial is not None and len(partial) >= _MESSAGE_HEAD:
            size = int.from_bytes(partial[1:5], "big")
            if size > self.limits.message_max_bytes:
                limit = self.limits.message_max_bytes
                raise RpcError(
                    Status.RESOURCE_EXHAUSTED, f"message of {size} bytes is larger than the limit of {limit}"
                )

    def _data_nowhere(self, stream_id: int, stream: Stream | None) -> None:
        """DATA for a stream that is closed, half-closed or was never opened."""
        if stream is not None:
            raise _StreamError(stream_id, ErrorCode.STREAM_CLOSED, "DATA after the end of the stream")
        self._closed_or_idle(stream_id, "DATA")

    def _closed_or_idle(self, stream_id: int, what: str) -> None:
        ours = stream_id % 2 == 1 if self.client else stream_id % 2 == 0
        opened = stream_id < self._next_stream if ours else stream_id <= self.last_peer_stream
        if stream_id == 0 or not opened or (ours and not self.client):
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is idle")
        if not self.client:
            self._count_control()
            self.write(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))

    def _remote_ended(self, stream: Stream) -> None:
        stream.remote_done = True
        if stream.partial:
            stream.partial = None
            raise RpcError(Status.INTERNAL, "the stream ended inside a message")
        stream.remote_ended()
        self._release_if_done(stream)

    def _count_control(self) -> None:
        self._controls += 1
        if self._controls > self.limits.control_frames_per_second_max:
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames")

    def _control(self, kind: int, flags: int, stream_id: int, body: bytes) -> None:
        match kind:
            case frames.HEADERS:
                self._headers(flags, stream_id, body)
            case frames.CONTINUATION:
                self._continuation(flags, stream_id, body)
            case frames.WINDOW_UPDATE:
                self._window_update(stream_id, body)
            case frames.SETTINGS:
                self._settings(flags, stream_id, body)
            case frames.PING:
                self._ping(flags, stream_id, body)
            case frames.RST_STREAM:
                self._rst_stream(stream_id, body)
            case frames.GOAWAY:
                self._goaway(stream_id, body)
            case frames.PRIORITY:
                self._priority(stream_id, body)
            case frames.PUSH_PROMISE:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE is not accepted")
            case _:
                self._count_control()  # unknown frames are ignored (RFC 9113, 4.1)

    def _headers(self, flags: int, stream_id: int, body: bytes) -> None:
        if stream_id == 0:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & frames.PADDED:
            if not body or body[0] >= len(body):
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "padding is longer than its frame")
            body = body[1 : len(body) - body[0]]
        if flags & frames.PRIORITY_FLAG:
            if len(body) < 5:
                raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is too short for its priority")
            if int.from_bytes(body[:4], "big") & 0x7FFFFFFF == stream_id:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
            body = body[5:]
        if flags & frames.END_HEADERS:
            self._header_block(flags, stream_id, body)
            return
        self._headers_stream, self._headers_flags, self._headers_parts = stream_id, flags, [body]

    def _continuation(self, flags: int, stream_id: int, body: bytes) -> None:
        if stream_id == 0 or stream_id != self._headers_stream:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without its HEADERS")
        self._headers_parts.append(body)
        size = sum(map(len, self._headers_parts))
        too_many = len(self._headers_parts) > self.limits.continuation_frames_max
        if too_many or size > self.limits.header_list_max_bytes * 4:
            raise _ConnectionError(ErrorCode.ENHANCE_YOUR_CALM, "header block is too long")
        if flags & frames.END_HEADERS:
            self._headers_stream = 0
            self._header_block(self._headers_flags, stream_id, b"".join(self._headers_parts))
            self._headers_parts = []

    def _header_block(self, flags: int, stream_id: int, block: bytes) -> None:
        try:
            headers = self._decoder.decode(block)
        except HPACKError as error:
            raise _ConnectionError(ErrorCode.COMPRESSION_ERROR, f"header block: {error}") from error
        ended = bool(flags & frames.END_STREAM)
        stream = self.streams.get(stream_id)
        if stream is None:
            stream = self._new_peer_stream(stream_id)
            if stream is None:
                return
        elif stream.remote_done:
            raise _StreamError(stream_id, ErrorCode.STREAM_CLOSED, "HEADERS after the end of the stream")
        elif not self.client:
            if not ended:
                raise _StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "trailers without the end of the stream")
            if any(name.startswith(":") for name, _ in headers):
                raise _StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "pseudo header in trailers")
            self._remote_ended(stream)
            return
        if not self.client:
            self._check_request(stream_id, headers, ended=ended)
        stream.headers_received(headers, ended=ended)
        if ended and stream_id in self.streams:
            self._remote_ended(stream)

    def _new_peer_stream(self, stream_id: int) -> Stream | None:
        """The server role's new stream; None where it is refused or was closed before."""
        if self.client:
            if stream_id % 2 == 0 or stream_id >= self._next_stream:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}, which is idle")
            return None
        if stream_id % 2 == 0:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, f"a client's stream has the even number {stream_id}")
        if stream_id <= self.last_peer_stream:
            raise _ConnectionError(ErrorCode.STREAM_CLOSED, f"HEADERS on stream {stream_id}, which is closed")
        self.last_peer_stream = stream_id
        if self.closing or len(self.streams) >= self.limits.concurrent_streams_max:
            self.write(frames.rst_stream(stream_id, ErrorCode.REFUSED_STREAM))
            self._count_reset()
            return None
        if self._make_stream is None:
            raise _ConnectionError(ErrorCode.INTERNAL_ERROR, "no streams here")
        stream = self.streams[stream_id] = self._make_stream(self, stream_id)
        return stream

    def _check_request(self, stream_id: int, headers: Headers, *, ended: bool) -> None:
        """Malformed requests (RFC 9113, 8.1 to 8.3)."""
        pseudo: dict[str, str] = {}
        regular = False
        length: int | None = None
        for name, value in headers:
            if name[:1] == ":":
                if regular or name in pseudo or name not in {":method", ":scheme", ":path", ":authority"}:
                    raise _StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, f"pseudo header {name!r} out of place")
                pseudo[name] = value
                continue
            regular = True
            if not name.islower() and name != name.lower():
                raise _StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, f"header name {name!r} is not lower case")
            if name in {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}:
                raise _StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, f"header {name!r} has no place in HTTP/2")
            if name == "te" and value != "trailers":
                raise _StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "te is not trailers")
            if name == "content-length":
                length = int(value) if value.isascii() and value.isdigit() else -1
        if not pseudo.get(":method") or not pseudo.get(":scheme") or not pseudo.get(":path"):
            raise _StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "a request needs :method, :scheme and :path")
        if length is not None and ended and length != 0:
            raise _StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "content-length does not match the body")
        if length is not None and not ended:
            self._content_left[stream_id] = length

    def _window_update(self, stream_id: int, body: bytes) -> None:
        if len(body) != 4:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not four bytes")
        increment = int.from_bytes(body, "big") & frames.WINDOW_MAX
        if stream_id == 0:
            if increment == 0:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "window increment of 0")
            self.send_window += increment
            if self.send_window > frames.WINDOW_MAX:
                raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
            if self._blocked:
                self._pump_all()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._late_frame(stream_id, "WINDOW_UPDATE")
            return
        if increment == 0:
            raise _StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "window increment of 0")
        stream.send_window += increment
        if stream.send_window > frames.WINDOW_MAX:
            raise _StreamError(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is too large")
        if stream.pending:
            self._pump(stream)

    def _late_frame(self, stream_id: int, what: str) -> None:
        """WINDOW_UPDATE and RST_STREAM may arrive for closed streams, not for idle ones."""
        ours = stream_id % 2 == 1 if self.client else stream_id % 2 == 0
        if stream_id >= self._next_stream if ours else stream_id > self.last_peer_stream:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is idle")
        self._count_control()

    def _settings(self, flags: int, stream_id: int, body: bytes) -> None:
        if stream_id != 0:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if body:
                raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a body")
            return
        if len(body) % 6:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS is no multiple of six bytes")
        self._count_control()
        self._settings_seen = True
        for start in range(0, len(body), 6):
            key = int.from_bytes(body[start : start + 2], "big")
            self._setting(key, int.from_bytes(body[start + 2 : start + 6], "big"))
        self.write(frames.SETTINGS_ACK)

    def _setting(self, key: int, value: int) -> None:
        if key == frames.INITIAL_WINDOW_SIZE:
            if value > frames.WINDOW_MAX:
                raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "initial window is too large")
            change = value - self.peer_initial_window
            self.peer_initial_window = value
            for stream in list(self.streams.values()):
                stream.send_window += change
                if stream.send_window > frames.WINDOW_MAX:
                    raise _ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")
                if change > 0 and stream.pending:
                    self._pump(stream)
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_BYTES <= value < 1 << 24:
                raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, f"maximum frame size of {value}")
            self.peer_frame_bytes = value
        elif key == frames.MAX_CONCURRENT_STREAMS:
            self.peer_streams_max = value
        elif key == frames.ENABLE_PUSH and value > 1:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")

    def _ping(self, flags: int, stream_id: int, body: bytes) -> None:
        if stream_id != 0:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(body) != 8:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "PING is not eight bytes")
        self._count_control()
        if flags & frames.ACK:
            self.ping_acked = True
        else:
            self.write_idly(frames.ping(body, ack=True))

    def _rst_stream(self, stream_id: int, body: bytes) -> None:
        if stream_id == 0:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on stream 0")
        if len(body) != 4:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not four bytes")
        stream = self.streams.pop(stream_id, None)
        if stream is None:
            self._late_frame(stream_id, "RST_STREAM")
            return
        self._count_reset()
        self._blocked.pop(stream_id, None)
        code = int.from_bytes(body, "big")
        if code == ErrorCode.REFUSED_STREAM:
            stream.broken(RpcError(Status.UNAVAILABLE, "the peer refused the stream"))
        elif code in {ErrorCode.CANCEL, ErrorCode.NO_ERROR}:
            stream.broken(RpcError(Status.CANCELLED, "the peer cancelled the stream"))
        else:
            stream.broken(RpcError(Status.INTERNAL, f"the peer reset the stream with code {code}"))

    def _goaway(self, stream_id: int, body: bytes) -> None:
        if stream_id != 0:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(body) < 8:
            raise _ConnectionError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short")
        self.peer_going_away = True
        last = int.from_bytes(body[:4], "big") & 0x7FFFFFFF
        if self.client:
            for number in [number for number in self.streams if number > last]:
                stream = self.streams.pop(number)
                self._blocked.pop(number, None)
                stream.broken(RpcError(Status.UNAVAILABLE, "the server is going away and has not seen this call"))

    def _priority(self, stream_id: int, body: bytes) -> None:
        if stream_id == 0:
            raise _ConnectionError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(body) != 5:
            raise _StreamError(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not five bytes")
        if int.from_bytes(body[:4], "big") & 0x7FFFFFFF == stream_id:
            raise _StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
        self._count_control()
