"""The frames of a connection that carry no call: windows, settings, pings, resets, farewells; and how many of them a peer may send."""

from collections.abc import Callable

from scheduler.http2 import frames
from scheduler.http2.frames import ErrorCode
from scheduler.http2.grpc import RpcError, Status
from scheduler.http2.limits import Limits
from scheduler.http2.sending import Sender

# A stream that is reset before this age may be part of a rapid reset.
_YOUNG_S = 1.0
_FRAME_BYTES_MAX = 64 << 10


class ConnectionFault(Exception):
    """The peer broke a rule of the connection."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code


class StreamFault(Exception):
    """The peer broke a rule of one stream."""

    def __init__(self, stream_id: int, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.stream_id = stream_id
        self.code = code


class Controls(Sender):
    """See the module; `Connection` adds the frames that carry calls."""

    def __init__(
        self,
        *,
        client: bool,
        limits: Limits,
        on_output: Callable[[], None],
        on_idle_output: Callable[[], None] | None,
    ) -> None:
        """Nothing has been heard of the peer yet."""
        super().__init__(client=client, limits=limits, on_output=on_output, on_idle_output=on_idle_output)
        self.refused: Callable[[str], None] = lambda _reason: None
        self._next_stream = 1
        self.settings_seen = False
        self.peer_streams_max = 1 << 31
        self.peer_going_away = False
        # What has been counted since then.
        self.second_s = 0.0
        self.resets = 0
        self.controls = 0

    def exceeded(self, reason: str, text: str) -> RpcError:
        """What ends a call that has reached a limit."""
        self.refused(reason)
        return RpcError(Status.RESOURCE_EXHAUSTED, text)

    def overfull(self) -> RpcError:
        """What ends a call that would make this connection hold too much."""
        text = f"{self.held_bytes} bytes on this connection wait to be read or completed; at most {self.held_max_bytes} may"
        return self.exceeded("too much held", text)

    def count_reset(self) -> None:
        """Raises ConnectionFault past the limit."""
        self.resets += 1
        if self.resets > self.limits.resets_per_second_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many reset streams")

    def count_control(self, weight: int = 1) -> None:
        """Raises ConnectionFault past the limit."""
        self.controls += weight
        if self.controls > self.limits.control_frames_per_second_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames")

    def late_frame(self, stream_id: int, what: str) -> None:
        """Frames may arrive for closed streams, not for idle ones."""
        ours = stream_id % 2 == 1 if self.client else stream_id % 2 == 0
        if stream_id >= self._next_stream if ours else stream_id > self.last_peer_stream:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} on stream {stream_id}, which is idle")
        self.count_control()

    def control(self, kind: int, flags: int, stream_id: int, body: bytes) -> None:
        """Any frame but DATA, HEADERS and CONTINUATION. Raises ConnectionFault, StreamFault."""
        match kind:
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
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE is not accepted")
            case _:
                self.count_control()  # unknown frames are ignored (RFC 9113, 4.1)

    def _window_update(self, stream_id: int, body: bytes) -> None:
        if len(body) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not four bytes")
        increment = int.from_bytes(body, "big") & frames.WINDOW_MAX
        if stream_id == 0:
            if increment == 0:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "window increment of 0")
            self.send_window += increment
            if self.send_window > frames.WINDOW_MAX:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
            self._pump_ready()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self.late_frame(stream_id, "WINDOW_UPDATE")
            return
        if increment == 0:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "window increment of 0")
        stream.send_window += increment
        if stream.send_window > frames.WINDOW_MAX:
            raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is too large")
        if stream.pending:
            self.pump(stream)

    def _settings(self, flags: int, stream_id: int, body: bytes) -> None:
        if stream_id != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            if body:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a body")
            return
        if len(body) % 6:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS is no multiple of six bytes")
        if len(body) > 6 * self.limits.settings_entries_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many entries in SETTINGS")
        self.count_control(1 + len(self.streams))
        self.settings_seen = True
        window = self.peer_initial_window
        for start in range(0, len(body), 6):
            key = int.from_bytes(body[start : start + 2], "big")
            value = int.from_bytes(body[start + 2 : start + 6], "big")
            if key == frames.INITIAL_WINDOW_SIZE:
                window = value
            self._setting(key, value)
        self.write(frames.SETTINGS_ACK)
        # Once for all entries, since it moves the windows of all streams.
        if window != self.peer_initial_window and not self.widen(window - self.peer_initial_window):
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")

    def _setting(self, key: int, value: int) -> None:
        if key == frames.INITIAL_WINDOW_SIZE:
            if value > frames.WINDOW_MAX:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "initial window is too large")
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME_BYTES <= value < 1 << 24:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"maximum frame size of {value}")
            # Larger frames would only hold up what is behind them.
            self.peer_frame_bytes = min(value, _FRAME_BYTES_MAX)
        elif key == frames.MAX_CONCURRENT_STREAMS:
            self.peer_streams_max = value
        elif key == frames.ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")

    def _ping(self, flags: int, stream_id: int, body: bytes) -> None:
        if stream_id != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(body) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is not eight bytes")
        self.count_control()
        if flags & frames.ACK:
            self.ping_acked = True
        else:
            self.write_idly(frames.ping(body, ack=True))

    def _rst_stream(self, stream_id: int, body: bytes) -> None:
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on stream 0")
        if len(body) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not four bytes")
        stream = self.forget(stream_id)
        if stream is None:
            self.late_frame(stream_id, "RST_STREAM")
            return
        if not self.client and self.now_s - stream.opened_s < _YOUNG_S:
            self.count_reset()
        code = int.from_bytes(body, "big")
        if code == ErrorCode.REFUSED_STREAM:
            stream.broken(RpcError(Status.UNAVAILABLE, "the peer refused the stream"))
        elif code in {ErrorCode.CANCEL, ErrorCode.NO_ERROR}:
            stream.broken(RpcError(Status.CANCELLED, "the peer cancelled the stream"))
        else:
            stream.broken(RpcError(Status.INTERNAL, f"the peer reset the stream with code {code}"))

    def _goaway(self, stream_id: int, body: bytes) -> None:
        if stream_id != 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(body) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short")
        self.count_control()
        self.peer_going_away = True
        last = int.from_bytes(body[:4], "big") & 0x7FFFFFFF
        if self.client:
            for number in [number for number in self.streams if number > last]:
                stream = self.streams[number]
                self.forget(number)
                stream.broken(RpcError(Status.UNAVAILABLE, "the server is going away and has not seen this call"))

    def _priority(self, stream_id: int, body: bytes) -> None:
        if stream_id == 0:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(body) != 5:
            raise StreamFault(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not five bytes")
        if int.from_bytes(body[:4], "big") & 0x7FFFFFFF == stream_id:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")
        self.count_control()
