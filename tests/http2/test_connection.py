"""The sans-I/O connection: bytes in, bytes out. No byte sequence raises; a peer's fault costs its stream or connection."""

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.http2 import frames
from scheduler.http2.connection import Connection
from scheduler.http2.grpc import (
    RpcError,
    Status,
    decode_text,
    encode_text,
    format_timeout,
    frame_message,
    parse_timeout,
)
from scheduler.http2.headers import HeaderDecoder, encode_block
from scheduler.http2.limits import Limits
from scheduler.http2.stream import Stream

HEADERS = encode_block(
    [(":method", "POST"), (":scheme", "http"), (":path", "/a/B"), ("content-type", "application/grpc")]
)


class Recorder(Stream):
    """A stream that remembers what it was told."""

    __slots__ = ("ended", "error", "messages")

    def __init__(self, connection: Connection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.messages: list[bytes] = []
        self.ended = False
        self.error: RpcError | None = None

    def headers_received(self, headers, *, ended) -> None:
        pass

    def message_received(self, message: bytes) -> None:
        self.messages.append(message)

    def remote_ended(self) -> None:
        self.ended = True

    def broken(self, error: RpcError) -> None:
        self.error = error

    def writable(self) -> None:
        pass


def server(limits: Limits | None = None) -> tuple[Connection, dict[int, Recorder]]:
    made: dict[int, Recorder] = {}

    def make(connection: Connection, stream_id: int) -> Recorder:
        made[stream_id] = Recorder(connection, stream_id)
        return made[stream_id]

    connection = Connection(client=False, limits=limits or Limits(), make_stream=make, on_output=lambda: None)
    return connection, made


def greet(connection: Connection, data: bytes = b"") -> None:
    connection.receive(frames.PREFACE + frames.settings({}) + data, 0.0)


def headers(stream_id: int, flags: int = frames.END_HEADERS, block: bytes = HEADERS) -> bytes:
    return frames.head(len(block), frames.HEADERS, flags, stream_id) + block


def data(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    return frames.head(len(payload), frames.DATA, flags, stream_id) + payload


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(min_value=1, max_value=40))
def test_messages_arrive_whole_however_the_bytes_are_cut(messages: list[bytes], cut: int) -> None:
    connection, made = server()
    payload = b"".join(frame_message(message) for message in messages)
    stream = b"".join(data(1, payload[start : start + cut]) for start in range(0, len(payload), cut))
    whole = frames.PREFACE + frames.settings({}) + headers(1) + stream + data(1, b"", frames.END_STREAM)
    for start in range(0, len(whole), 7):
        connection.receive(whole[start : start + 7], 0.0)
    assert made[1].messages == messages
    assert made[1].ended and connection.failed is None


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 11), st.integers(0, 255), st.integers(0, 9), st.binary(max_size=40)), max_size=12
    ),
    st.binary(max_size=60),
)
def test_no_bytes_raise(sequence: list[tuple[int, int, int, bytes]], tail: bytes) -> None:
    connection, _ = server()
    greet(connection)
    for kind, flags, stream_id, body in sequence:
        connection.receive(frames.head(len(body), kind, flags, stream_id) + body, 0.0)
        assert connection._receive_window >= 0 or connection.failed
    connection.receive(tail, 0.0)
    connection.lost("gone")
    assert not connection.streams


@given(st.binary(min_size=1, max_size=200))
def test_a_client_that_speaks_something_else_is_told_to_go(noise: bytes) -> None:
    connection, made = server()
    connection.receive(noise + b"\r\n" * 20, 0.0)
    assert connection.failed or frames.PREFACE.startswith(noise)
    assert not made


def test_both_roles_over_a_fake_wire_respect_the_windows() -> None:
    limits = Limits(stream_window_bytes=70_000, connection_window_bytes=140_000)
    connection, made = server(limits)
    client = Connection(client=True, limits=limits, make_stream=None, on_output=lambda: None)
    stream = client.open_stream(Recorder)
    client.write(headers(stream.id))
    big = frame_message(b"x" * 500_000)
    client.send_data(stream, big)
    sent = 0
    for _ in range(100):
        out = client.take_output()
        sent = max(sent, len(out))
        connection.receive(out, 0.0)
        client.receive(connection.take_output(), 0.0)
        if made and made[1].messages:
            break
    assert [len(message) for message in made[1].messages] == [500_000]
    assert sent < 200_000, "more was on the wire than the windows allow"
    assert connection.failed is None and client.failed is None


def test_limits_end_the_connection_and_nothing_else() -> None:
    floods = {
        "resets": b"".join(headers(number) + frames.rst_stream(number, 8) for number in range(1, 201, 2)),
        "pings": frames.ping(b"12345678") * 100,
        "settings": frames.settings({}) * 100,
        "continuations": frames.head(1, frames.HEADERS, 0, 1)
        + b"\x82"
        + (frames.head(0, frames.CONTINUATION, 0, 1)) * 20,
    }
    for name, flood in floods.items():
        connection, _ = server(Limits(resets_per_second_max=50, control_frames_per_second_max=50))
        greet(connection, flood)
        assert connection.failed and "ENHANCE_YOUR_CALM" in connection.failed, name


def test_a_message_over_the_limit_ends_its_call_alone() -> None:
    connection, made = server(Limits(message_max_bytes=100))
    greet(
        connection, headers(1) + headers(3) + data(1, frame_message(b"x" * 101)[:50]) + data(3, frame_message(b"fine"))
    )
    assert made[1].error is not None and made[1].error.status is Status.RESOURCE_EXHAUSTED
    assert made[3].messages == [b"fine"] and connection.failed is None


def test_texts_and_timeouts_round_trip() -> None:
    assert decode_text(encode_text("naïve: 100 % \n||")) == "naïve: 100 % \n||"
    for timeout_s in (0.000001, 0.5, 29.9, 4_000_000.0):
        assert timeout_s <= parse_timeout(format_timeout(timeout_s)) <= timeout_s * 1.1 + 0.002


def test_remembered_header_blocks_follow_the_dynamic_table() -> None:
    from hpack import Encoder

    encoder, decoder = Encoder(), HeaderDecoder(16_384, hard_max_bytes=65_536)
    for number in range(50):
        fields = [(":method", "POST"), ("x-number", str(number % 7)), ("grpc-timeout", f"{number % 3}S")]
        block = encoder.encode(fields)
        assert decoder.decode(block) == fields
