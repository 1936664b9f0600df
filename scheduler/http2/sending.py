"""The sending half of a connection: what leaves, in which order, and what has to wait for the peer's windows or the socket.

A stream's bytes go as far as its window, the connection's window and the socket allow; the rest waits in the stream. Streams that
could send take turns. A stream that waits for its own window stands in no line, so that no window game costs a walk over all streams.
"""

from collections import deque
from collections.abc import Callable

from scheduler.http2 import frames
from scheduler.http2.frames import ErrorCode
from scheduler.http2.limits import Limits
from scheduler.http2.stream import Stream

# What one stream may add to the output before the next one has its turn.
_SHARE_BYTES = 256 << 10


def _nothing() -> None:
    """Nobody listens."""


class Sender:
    """See the module; `Connection` adds the receiving half."""

    def __init__(
        self,
        *,
        client: bool,
        limits: Limits,
        on_output: Callable[[], None],
        on_idle_output: Callable[[], None] | None,
    ) -> None:
        """The preface and our settings are the first output."""
        self.client = client
        self.limits = limits
        self._on_output = on_output
        self._on_idle_output = on_idle_output or on_output
        self._told = self._told_idle = False
        self._output: list[bytes | memoryview] = []
        self.streams: dict[int, Stream] = {}
        # Streams with data and an open window of their own, in turn.
        self._ready: dict[int, Stream] = {}
        # What we keep for this peer: answers that it does not read, messages that it does not finish.
        self.held_bytes = 0
        self.held_max_bytes = max(limits.held_max_bytes, limits.message_max_bytes)
        # How many more bytes of messages may join the output of this turn: a large answer leaves in portions, others between them.
        self.portion = limits.send_high_bytes
        self.peer_initial_window = frames.DEFAULT_WINDOW
        self.peer_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self.send_window = frames.DEFAULT_WINDOW
        self.last_peer_stream = 0
        # The socket does not take more: everything waits in the streams.
        self.paused = False
        self.closing = False  # GOAWAY sent for good: no more streams
        self.now_s = 0.0
        self.ping_acked = True
        self._output.append(self._greeting())

    def _greeting(self) -> bytes:
        limits = self.limits
        settings = {
            frames.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            frames.MAX_HEADER_LIST_SIZE: limits.header_list_max_bytes,
        }
        if self.client:
            settings[frames.ENABLE_PUSH] = 0
        else:
            settings[frames.MAX_CONCURRENT_STREAMS] = limits.concurrent_streams_max
        grown = limits.connection_window_bytes - frames.DEFAULT_WINDOW
        window = frames.window_update(0, grown) if grown > 0 else b""
        return (frames.PREFACE if self.client else b"") + frames.settings(settings) + window

    def muted(self) -> None:
        """Nobody is told of output any more."""
        self._on_output = self._on_idle_output = _nothing

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
        """All frames that wait, in one piece; where a portion was full, the next one begins to wait."""
        output, self._output = self._output, []
        self._told = self._told_idle = False
        self.portion = self.limits.send_high_bytes
        if self._ready:
            self._pump_ready()
        return b"".join(output)

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
        if (
            size <= stream.send_window
            and size <= self.send_window
            and size <= self.peer_frame_bytes
            and size <= self.portion
            and not stream.pending
            and not self.paused
        ):
            stream.send_window -= size
            self.send_window -= size
            self.portion -= size
            self.write(frames.head(size, frames.DATA, 0, stream.id) + payload)
            return
        if stream.pending is None:
            stream.pending = deque()
        if not stream.pending:
            stream.progress_s, stream.progress_bytes = self.now_s, 0
        # A view: a large message is copied when all output is put together, and not before.
        stream.pending.append(memoryview(payload))
        stream.pending_bytes += size
        self.held_bytes += size
        self.pump(stream)
        if stream.pending_bytes > self.limits.send_high_bytes:
            stream.above_high = True

    def stalled(self, before_s: float) -> list[Stream]:
        """Streams with data of which the peer has taken next to nothing since then."""
        if not self.held_bytes:
            return []
        return [stream for stream in self.streams.values() if stream.pending and stream.progress_s < before_s]

    def end_stream(self, stream: Stream, trailing: bytes) -> None:
        """Send the frame that ends our side, behind whatever of the stream still waits."""
        stream.local_done = True
        if stream.pending:
            stream.trailing = trailing
            return
        self.write(trailing)
        self.release_if_done(stream)

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream from our side; the caller knows, so it is not told."""
        if self.forget(stream.id) is not None:
            self.write(frames.rst_stream(stream.id, code))

    def forget(self, stream_id: int) -> Stream | None:
        """A stream is over: nothing of it is kept."""
        stream = self.streams.pop(stream_id, None)
        if stream is not None and (stream.pending or stream.partial is not None):
            self._ready.pop(stream_id, None)
            self.held_bytes -= stream.pending_bytes
            stream.pending, stream.pending_bytes = None, 0
            self.drop_partial(stream)
        return stream

    def drop_partial(self, stream: Stream) -> None:
        """The beginning of a message is not wanted any more."""
        if stream.partial is not None:
            self.held_bytes -= len(stream.partial)
            stream.partial = None

    def release_if_done(self, stream: Stream) -> None:
        """Forget a stream that both sides have ended, or that a client need not go on with."""
        if not stream.local_done or stream.pending or stream.trailing is not None:
            return
        if stream.remote_done:
            self.streams.pop(stream.id, None)
        elif not self.client and self.forget(stream.id) is not None:
            # The answer is complete and the request is not: tell the client to stop sending (RFC 9113, 8.1).
            self.write(frames.rst_stream(stream.id, ErrorCode.NO_ERROR))

    def resume(self) -> None:
        """The socket takes bytes again."""
        self.paused = False
        self._pump_ready()

    def _pump_ready(self) -> None:
        while self._ready and not self.paused and self.send_window > 0 and self.portion > 0:
            self.pump(next(iter(self._ready.values())))

    def pump(self, stream: Stream) -> None:
        """Send what waits in a stream, as far as windows, socket and portion allow."""
        pending = stream.pending
        sent = 0
        share = min(self.portion, _SHARE_BYTES)
        while pending and not self.paused:
            room = min(stream.send_window, self.send_window, self.peer_frame_bytes, share - sent)
            if room <= 0:
                break
            chunk = pending[0]
            if len(chunk) > room:
                pending[0] = chunk[room:]
                chunk = chunk[:room]
            else:
                pending.popleft()
            size = len(chunk)
            stream.send_window -= size
            self.send_window -= size
            sent += size
            self._output += (frames.head(size, frames.DATA, 0, stream.id), chunk)
        if sent and not self._told:
            self._told = True
            self._on_output()
        self.portion -= sent
        self.held_bytes -= sent
        stream.pending_bytes -= sent
        stream.progress_bytes += sent
        if stream.progress_bytes >= self.limits.send_progress_min_bytes:
            stream.progress_s, stream.progress_bytes = self.now_s, 0
        # To the end of the line, so that streams take turns.
        self._ready.pop(stream.id, None)
        if pending:
            if stream.send_window > 0:
                self._ready[stream.id] = stream
        elif stream.trailing is not None:
            trailing, stream.trailing = stream.trailing, None
            self.write(trailing)
            self.release_if_done(stream)
        if stream.above_high and stream.pending_bytes <= self.limits.send_low_bytes:
            stream.above_high = False
            stream.writable()

    def widen(self, change: int) -> bool:
        """The peer has changed its initial window, which moves that of every stream. False: one is too large now."""
        self.peer_initial_window += change
        fits = True
        for stream in list(self.streams.values()):
            stream.send_window += change
            fits = fits and stream.send_window <= frames.WINDOW_MAX
            if stream.send_window <= 0:
                self._ready.pop(stream.id, None)
            elif stream.pending:
                self._ready[stream.id] = stream
        self._pump_ready()
        return fits
