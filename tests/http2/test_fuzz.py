"""Sequences of valid frames, damaged or not, against both roles, while our side sends, ends, resets and waits as it likes.

Held after each step: nothing raises; what we send stays within what the peer has granted, and is well-formed; what we hold is what we count, and bounded;
each stream hears of its end once. `FUZZ_EXAMPLES` makes it longer than CI's few seconds: 20,000 take about ten minutes.
"""

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.http2 import frames
from scheduler.http2.connection import Connection
from scheduler.http2.frames import ErrorCode
from scheduler.http2.grpc import frame_message
from scheduler.http2.headers import encode_block
from scheduler.http2.limits import Limits
from tests.http2.wire import HEADERS, Recorder, parse

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
# In CI the same plays each time; longer runs look further.
ALWAYS_THE_SAME = not EXAMPLES
EXAMPLES = EXAMPLES or 200
LIMITS = Limits(
    concurrent_streams_max=6,
    message_max_bytes=2_000,
    header_list_max_bytes=500,
    stream_window_bytes=5_000,
    connection_window_bytes=70_000,
    resets_per_second_max=20,
    control_frames_per_second_max=120,
    held_max_bytes=4_000,
    send_high_bytes=600,
    send_low_bytes=200,
)
IDS = st.integers(0, 9)
RESPONSE = encode_block([(":status", "200"), ("content-type", "application/grpc")])
TRAILERS = encode_block([("grpc-status", "0")])
BLOCKS = st.sampled_from([HEADERS, RESPONSE, TRAILERS, encode_block([("x", "y" * 600)]), b"\x82\xbe", b""])
BODIES = st.one_of(
    st.integers(0, 2_500).map(lambda size: frame_message(bytes(size))),
    st.lists(st.integers(0, 30), max_size=5).map(lambda sizes: b"".join(frame_message(bytes(size)) for size in sizes)),
    st.binary(max_size=40),
    st.just(b"\1\0\0\0\5abcde"),
)
WINDOWS = st.sampled_from([0, 1, 100, 65_535, frames.WINDOW_MAX, 1 << 31])


def frame(kind: int, flags: int, stream_id: int, body: bytes) -> bytes:
    return frames.head(len(body), kind, flags, stream_id) + body


# Whole frames, most of them such as a peer may send.
FRAMES = st.one_of(
    st.builds(lambda number, flags, block: frame(frames.HEADERS, flags, number, block), IDS, st.sampled_from([0, 4, 5]), BLOCKS),
    st.builds(lambda number: frame(frames.HEADERS, 4, number, HEADERS), st.sampled_from([1, 3, 5, 7, 9])),
    st.builds(lambda number, flags, block: frame(frames.CONTINUATION, flags, number, block), IDS, st.sampled_from([0, 4]), BLOCKS),
    st.builds(
        lambda number, flags, body, cut: frame(frames.DATA, flags, number, body[:cut]), IDS, st.sampled_from([0, 0, 0, 1]), BODIES, st.integers(0, 2_600)
    ),
    st.builds(lambda number, pad, body: frame(frames.DATA, 8, number, bytes((pad,)) + body + bytes(pad)), IDS, st.integers(0, 20), st.binary(max_size=20)),
    st.builds(lambda number, size: frame(frames.WINDOW_UPDATE, 0, number, size.to_bytes(4, "big")), IDS, WINDOWS),
    st.builds(lambda key, value: frames.settings({key: value}), st.integers(1, 7), st.one_of(WINDOWS, st.integers(16_384, 70_000))),
    st.builds(lambda flags, body: frame(frames.PING, flags, 0, body), st.sampled_from([0, 1]), st.just(b"12345678")),
    st.builds(lambda number, code: frame(frames.RST_STREAM, 0, number, code.to_bytes(4, "big")), IDS, st.integers(0, 20)),
    st.builds(lambda last: frames.goaway(last, 0), st.integers(0, 9)),
    st.builds(lambda number: frame(frames.PRIORITY, 0, number, bytes(5)), IDS),
    st.builds(frame, st.integers(0, 12), st.integers(0, 255), IDS, st.binary(max_size=60)),
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(FRAMES))
    match draw(st.integers(0, 9)):
        case 0:
            data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
        case 1:
            del data[draw(st.integers(0, len(data) - 1)) :]
        case 2:
            data *= 2
        case 3:
            data += draw(st.binary(max_size=20))
    return bytes(data)


WHICH = st.integers(0, 5)
# What the peer does where both sides agree on which streams there are; ids are filled in as the play goes on.
PEER = st.one_of(
    st.tuples(
        st.just("headers"),
        st.sampled_from([False, False, False, True]),
        st.sampled_from([HEADERS] * 6 + [encode_block([("x", "y" * 600)])]),
    ),
    st.tuples(st.just("data"), WHICH, BODIES, st.sampled_from([0, 0, 0, 0, 1])),
    st.tuples(st.just("part"), WHICH, st.integers(1, 2_000)),
    st.tuples(st.just("window"), st.one_of(st.none(), WHICH), st.sampled_from([1, 1, 100, 5_000, 65_535])),
    st.tuples(st.just("initial window"), st.sampled_from([0, 1, 100, 65_535, 1 << 20])),
    st.tuples(st.just("rst"), WHICH, st.integers(0, 14)),
    st.tuples(st.just("answer"), WHICH, st.booleans()),
    st.tuples(st.just("ping"), st.sampled_from([0, 1])),
)
OURS = st.one_of(
    st.tuples(st.just("send"), WHICH, st.integers(5, 3_000)),
    st.tuples(st.just("send"), WHICH, st.integers(5, 200)),
    st.tuples(st.sampled_from(["end", "reset"]), WHICH),
    st.tuples(st.sampled_from(["open", "open", "pause", "resume", "take", "take", "later", "ping"])),
)
WILD = st.tuples(st.just("wild"), damaged())
STEPS = st.lists(st.one_of(PEER, PEER, OURS, OURS), min_size=15, max_size=60)
# A play that goes well, and what may then go wrong.
PLAYS = st.tuples(STEPS, st.lists(st.one_of(WILD, PEER, OURS, st.tuples(st.just("farewell"))), max_size=8))


class Play:
    """One connection, what its peer has granted, and what has left it."""

    def __init__(self, *, client: bool) -> None:
        self.client = client
        self.now_s = 0.0
        self.streams: dict[int, Recorder] = {}
        self.connection = Connection(client=client, limits=LIMITS, make_stream=self.make, on_output=lambda: None)
        self.granted: dict[int, int] = {0: frames.DEFAULT_WINDOW}
        self.initial_max = frames.DEFAULT_WINDOW
        self.sent: dict[int, int] = {}
        self.over: set[int] = set()
        first = b"" if client else frames.PREFACE
        self.connection.receive(first + frames.settings({}), 0.0)
        greeting = self.connection.take_output()
        self.unread = b""
        parse(greeting.removeprefix(frames.PREFACE))

    def make(self, connection: Connection, stream_id: int) -> Recorder:
        self.streams[stream_id] = Recorder(connection, stream_id)
        return self.streams[stream_id]

    def stream(self, which: int) -> Recorder | None:
        """One of the open streams."""
        numbers = list(self.connection.streams)
        return self.connection.streams[numbers[which % len(numbers)]] if numbers else None

    def step(self, what: str, *values) -> None:
        if what in {"send", "end", "reset"}:
            self.ours(what, self.stream(values[0]), *values[1:])
        elif what in {"data", "part", "rst", "answer"}:
            stream = self.stream(values[0])
            if stream is not None:
                self.peer(self.framed(what, stream, *values[1:]))
        elif what == "headers":
            if not self.client:
                self.peer(
                    frame(
                        frames.HEADERS,
                        5 if values[0] else 4,
                        self.connection.last_peer_stream + 2 - (self.connection.last_peer_stream == 0),
                        values[1],
                    )
                )
        elif what == "window":
            stream = None if values[0] is None else self.stream(values[0])
            self.peer(frames.window_update(0 if stream is None else stream.id, values[1]))
        elif what == "initial window":
            self.peer(frames.settings({frames.INITIAL_WINDOW_SIZE: values[0]}))
        elif what == "ping" and values:
            self.peer(frame(frames.PING, values[0], 0, b"12345678"))
        elif what == "wild":
            self.peer(values[0])
        else:
            self.ours_alone(what)

    def framed(self, what: str, stream: Recorder, *values) -> bytes:
        """A frame that a peer may send on this stream now, if it has not ended its side."""
        if stream.remote_done:
            return b""
        match what, values:
            case "data", (bytes(body), int(flags)):
                # A message that has begun goes on before the next one begins.
                return frame(
                    frames.DATA,
                    flags if not stream.partial else 0,
                    stream.id,
                    self.rest(stream) or body[: stream.receive_window],
                )
            case "part", (int(size),):
                body = self.rest(stream) or frame_message(bytes(2_000))
                return frame(frames.DATA, 0, stream.id, body[: min(size, stream.receive_window)])
            case "rst", (int(code),):
                return frames.rst_stream(stream.id, code)
            case "answer", (bool(ended),) if self.client:
                return frame(frames.HEADERS, 5 if ended else 4, stream.id, TRAILERS if ended else RESPONSE)
        return b""

    @staticmethod
    def rest(stream: Recorder) -> bytes:
        """What is missing of a message that has begun."""
        partial = stream.partial or b""
        if len(partial) < 5:
            return b"\0\0\0\0\7abcdefg"[len(partial) :] if partial else b""
        return bytes(5 + int.from_bytes(partial[1:5], "big") - len(partial))

    def peer(self, data: bytes) -> None:
        self.grant(data)
        self.connection.receive(data, self.now_s)

    def ours(self, what: str, stream: Recorder | None, size: int = 0) -> None:
        connection = self.connection
        if stream is None:
            return
        if what == "reset":
            connection.reset(stream, ErrorCode.CANCEL)
        elif not stream.local_done and what == "end":
            connection.end_stream(stream, frames.head(0, frames.DATA, frames.END_STREAM, stream.id))
        elif not stream.local_done and connection.held_bytes < LIMITS.held_max_bytes:
            connection.send_data(stream, bytes(size))

    def ours_alone(self, what: str) -> None:
        connection = self.connection
        match what:
            case "open" if self.client and len(connection.streams) < 6:
                stream = connection.open_stream(self.make)
                connection.write(frame(frames.HEADERS, frames.END_HEADERS, stream.id, HEADERS))
            case "pause":
                connection.paused = True
            case "resume":
                connection.resume()
            case "take":
                self.judge(connection.take_output())
            case "later":
                self.now_s += 1.0
            case "ping":
                connection.ping()
            case "farewell":
                connection.go_away()

    def grant(self, data: bytes) -> None:
        """Every window that these bytes may open, read generously: frames may be cut anywhere in the stream of bytes."""
        self.unread += data
        for start in range(len(self.unread) - 12):
            body = self.unread[start + 9 : start + 13]
            if self.unread[start : start + 4] == b"\0\0\4\x08":
                number = int.from_bytes(self.unread[start + 5 : start + 9], "big") & 0x7FFFFFFF
                self.granted[number] = self.granted.get(number, 0) + (int.from_bytes(body, "big") & frames.WINDOW_MAX)
        for start in range(len(self.unread) - 5):
            if self.unread[start : start + 2] == b"\0\4":
                value = int.from_bytes(self.unread[start + 2 : start + 6], "big")
                if value <= frames.WINDOW_MAX:
                    self.initial_max = max(self.initial_max, value)
        self.unread = self.unread[-20:]

    def judge(self, output: bytes) -> None:
        for kind, number, body in parse(output):
            assert len(body) <= 65_536
            if kind == frames.DATA:
                assert number not in self.over, "DATA after RST_STREAM"
                self.sent[0] = self.sent.get(0, 0) + len(body)
                self.sent[number] = self.sent.get(number, 0) + len(body)
                assert self.sent[0] <= self.granted[0]
                assert self.sent[number] <= self.initial_max + self.granted.get(number, 0)
            elif kind == frames.RST_STREAM:
                self.over.add(number)

    def check(self) -> None:
        connection = self.connection
        assert connection.send_window >= 0 or connection.failed
        assert connection._receive_window >= 0 or connection.failed
        held = sum(stream.pending_bytes + len(stream.partial or b"") for stream in connection.streams.values())
        assert connection.held_bytes == held
        assert held <= LIMITS.held_max_bytes + 16_384
        assert len(connection._buffer) <= 16_384 + 9 and len(connection._headers_parts) <= 18
        assert len(connection.streams) <= 6
        for stream in connection.streams.values():
            assert stream.pending_bytes == sum(map(len, stream.pending or ()))
            assert stream.pending_bytes >= 0 and stream.receive_window >= 0
        for number, stream in connection._ready.items():
            assert connection.streams[number] is stream and stream.pending and stream.send_window > 0


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_any_sequence_of_frames(client: bool) -> None:
    @settings(
        max_examples=EXAMPLES, derandomize=ALWAYS_THE_SAME, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(PLAYS)
    def play(acts: tuple[list[tuple], list[tuple]]) -> None:
        one = Play(client=client)
        one.step("open")
        for steps in acts:
            for step in steps:
                one.step(*step)
                one.check()
            depths.append(one.connection.failed is None)
        reached["streams"] += len(one.streams)
        reached["messages"] += sum(len(stream.messages) for stream in one.streams.values())
        reached["sent"] += sum(one.sent.values())
        one.connection.paused = False
        one.connection.resume()
        while output := one.connection.take_output():
            one.judge(output)
        one.connection.lost("gone")
        assert not one.connection.streams and one.connection.held_bytes == 0
        assert all(
            stream.error or stream.ended or number in one.over
            for number, stream in one.streams.items()
            if number not in one.connection.streams
        )

    reached: Counter[str] = Counter()
    depths: list[bool] = []
    play()
    # The plays go deep: most connections live through the first act, with streams, messages and data on them.
    print(
        f"connections alive after act one: {sum(depths[::2]) / len(depths[::2]):.0%}, after two: {sum(depths[1::2]) / len(depths[1::2]):.0%}; {reached}"
    )
    assert sum(depths[::2]) > 0.5 * len(depths[::2])
    assert (
        reached["streams"] > EXAMPLES // 2 and reached["messages"] > EXAMPLES // 10 and reached["sent"] > 20 * EXAMPLES
    )


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_any_bytes(client: bool) -> None:
    @settings(max_examples=EXAMPLES, derandomize=ALWAYS_THE_SAME, deadline=None)
    @given(st.lists(st.one_of(st.binary(max_size=200), damaged()), max_size=12), st.integers(1, 50))
    def play(pieces: list[bytes], cut: int) -> None:
        connection = Connection(client=client, limits=LIMITS, make_stream=Recorder, on_output=lambda: None)
        data = b"".join(pieces) if client else frames.PREFACE + b"".join(pieces)
        for start in range(0, len(data), cut):
            connection.receive(data[start : start + cut], 0.0)
            parse(connection.take_output().removeprefix(frames.PREFACE))
            assert len(connection._buffer) <= 16_384 + 9

    play()
