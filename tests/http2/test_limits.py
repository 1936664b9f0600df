"""Every limit of the transport, one below, at and above it. docs/transport.md is their table, and held against them here."""

import asyncio
import dataclasses
import gzip
import re
import threading

import pytest
from hpack import Encoder

from scheduler.http2 import frames
from scheduler.http2.call import Call, Streaming, Unary
from scheduler.http2.frames import ErrorCode
from scheduler.http2.grpc import RpcError, Status, decode_text, encode_text, frame_message, parse_timeout
from scheduler.http2.headers import HeaderDecoder, encode_block
from scheduler.http2.limits import Limits
from scheduler.http2.server import Server
from tests.http2.wire import END, Bench, Recorder, connected, data, fields, headers
from tests.support.processes import ROOT

CALM = "ENHANCE_YOUR_CALM"


def test_the_page_has_every_limit_and_every_test_that_it_names() -> None:
    page = (ROOT / "docs" / "transport.md").read_text().partition("## What bystanders feel")[0]
    table = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in page.splitlines() if line.startswith("| ")
    ]
    rows = [row for row in table if re.fullmatch(r"`[a-z_]+`", row[0])]
    defaults = {field.name: field.default for field in dataclasses.fields(Limits)}
    shown = {row[0].strip("`"): row[1] for row in rows}
    assert list(shown) == list(defaults)
    for name, value in defaults.items():
        assert shown[name].replace(",", "").split(" ")[0] == f"{value:g}" or shown[name].startswith(size(value)), name
    for row in table:
        tests = re.findall(r"`(?:(\w+/)?(test_\w+)\.py::)?(test_\w+)`", row[-1])
        assert tests or row[0] in {"limit", "what", "---"}, row[0]
        for directory, module, test in tests:
            path = ROOT / "tests" / (directory or "http2/") / f"{module or 'test_limits'}.py"
            assert re.search(rf"def {test}\(", path.read_text()), test


def size(value: float) -> str:
    return f"{int(value) >> 20} MiB" if value >= 1 << 20 else f"{int(value) >> 10} KiB"


# Streams and messages


async def test_a_read_is_bounded() -> None:
    shell = connected(Server(methods={}))
    buffer = shell.get_buffer(-1)
    assert len(buffer) == Limits().read_bytes
    ping = frames.ping(b"12345678")
    buffer[: len(ping)] = ping
    shell.transport.taken()
    shell.buffer_updated(len(ping))
    await asyncio.sleep(0)
    assert [kind for kind, _, _ in shell.transport.taken()] == [frames.PING]


async def test_connections_of_a_loop_share_a_read_buffer_and_keep_nothing_in_it() -> None:
    one, other = connected(Server(methods={})), connected(Server(methods={}))
    buffer, ping = one.get_buffer(-1), frames.ping(b"12345678")
    assert other.get_buffer(-1) is buffer
    elsewhere: list[memoryview] = []
    thread = threading.Thread(target=lambda: elsewhere.append(one.get_buffer(-1)))
    thread.start()
    thread.join()
    assert elsewhere[0] is not buffer

    def read(shell, chunk: bytes) -> None:
        shell.get_buffer(-1)[: len(chunk)] = chunk
        shell.buffer_updated(len(chunk))

    read(one, ping[:12])
    read(other, b"x" * 20)
    read(one, ping[12:])
    await asyncio.sleep(0)
    assert [body for kind, _, body in one.transport.taken() if kind == frames.PING] == [b"12345678"]


def test_concurrent_streams() -> None:
    bench = Bench(concurrent_streams_max=3)
    bench.receive(b"".join(headers(number) for number in (1, 3, 5)))
    assert not bench.sent() and not bench.reached
    bench.receive(headers(7) + data(1, frame_message(b"goes on")))
    assert bench.sent() == [(frames.RST_STREAM, 7, bytes((0, 0, 0, ErrorCode.REFUSED_STREAM)))]
    assert bench.reached == ["too many streams"] and bench.made[1].messages == [b"goes on"]
    bench.receive(frames.rst_stream(3, 8) + headers(9))
    assert 9 in bench.made and bench.failed == ""


@pytest.mark.parametrize("cut", [7, 100, 16_384], ids=["in crumbs", "in pieces", "whole"])
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
def test_message_size(cut: int, compressed: bool) -> None:
    bench = Bench(message_max_bytes=1_000)
    for number, length in enumerate((999, 1_000, 1_001)):
        stream_id = number * 2 + 1
        message = b"x" * length
        body = frame_message(message)
        if compressed:
            packed = gzip.compress(message)
            body = b"\1" + len(packed).to_bytes(4, "big") + packed
        bench.receive(headers(stream_id))
        bench.made[stream_id].compressed = compressed
        for start in range(0, len(body), cut):
            bench.receive(data(stream_id, body[start : start + cut]))
            if bench.made[stream_id].error:
                break
        if length <= 1_000:
            assert bench.made[stream_id].messages == [message]
        else:
            assert bench.made[stream_id].messages == []
            assert bench.made[stream_id].error.status is Status.RESOURCE_EXHAUSTED
            assert "1000" in bench.made[stream_id].error.message
    assert bench.failed == "" and bench.reached == ["message too large"] and bench.connection.held_bytes == 0


def test_a_compressed_bomb_never_unfolds() -> None:
    """16 KiB that would become 16 MiB cost what the limit allows, and their own call alone."""
    import tracemalloc

    bomb = gzip.compress(bytes(12 << 20))
    bench = Bench(message_max_bytes=64 << 10)
    bench.receive(headers(1) + headers(3))
    bench.made[1].compressed = True
    tracemalloc.start()
    bench.receive(data(1, b"\1" + len(bomb).to_bytes(4, "big") + bomb))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert bench.made[1].error.status is Status.RESOURCE_EXHAUSTED and peak < 1 << 20
    bench.receive(data(3, frame_message(b"fine")))
    assert bench.made[3].messages == [b"fine"] and bench.failed == ""


def answering(answer: bytes, **limits) -> Server:
    return Server(methods={"/a/B": Unary(lambda _request, call: call.reply(answer))}, limits=Limits(**limits))


def request(stream_id: int, message: bytes = b"", *more: tuple[str, str]) -> bytes:
    block = encode_block(fields("/a/B", *more))
    return headers(stream_id, block=block) + data(stream_id, frame_message(message), frames.END_STREAM)


def status_of(shell, stream_id: int) -> tuple[str | None, str]:
    """grpc-status and grpc-message that a stream has ended with."""
    found: dict[str, str] = {}
    for kind, number, body in shell.transport.taken():
        if kind == frames.HEADERS and number == stream_id:
            found |= dict(HeaderDecoder(1 << 20, hard_max_bytes=1 << 20).decode(body))
    return found.get("grpc-status"), found.get("grpc-message", "")


@pytest.mark.parametrize("length", [99_999, 100_000, 100_001])
async def test_answer_size(length: int) -> None:
    server = answering(bytes(length), answer_max_bytes=100_000)
    shell = connected(server)
    shell.data_received(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20}) + request(1))
    shell._flush()
    status, text = status_of(shell, 1)
    if length <= 100_000:
        assert status == "0"
    else:
        assert (status, "100001" in text) == ("8", True)
        assert server.failures == {"answer too large": 1}


# Header blocks


def sized(total: int) -> list[tuple[str, str]]:
    """A header list of that many bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts them."""
    have = sum(len(name) + len(value) + 32 for name, value in fields())
    return [*fields(), ("x", "v" * (total - have - 33))]


@pytest.mark.parametrize("total", [1_023, 1_024, 1_025])
def test_header_list_size(total: int) -> None:
    """A list that is too long costs its call; the table of the connection stays right, so the next call is understood."""
    bench = Bench(header_list_max_bytes=1_024)
    encoder = Encoder()
    bench.receive(headers(1, block=encoder.encode(sized(total))) + headers(3, block=encoder.encode(sized(1_000))))
    error = bench.made[1].error
    assert (error is None) == (total <= 1_024)
    assert error is None or (error.status is Status.RESOURCE_EXHAUSTED and "1025" in error.message)
    assert bench.made[3].error is None and bench.failed == ""


def test_a_header_list_far_too_long_ends_the_connection() -> None:
    """References to one large entry of the table: a small block, an endless list."""
    encoder = Encoder()
    block = encoder.encode([*fields(), ("x", "v" * 900)]) + b"\xbe" * 10
    assert Bench(header_list_max_bytes=1_024).receive(headers(1, block=block)).failed == "COMPRESSION_ERROR"


@pytest.mark.parametrize("number", [3, 4, 5])
def test_continuation_frames(number: int) -> None:
    """CVE-2024-27316 and its like: HEADERS without an end."""
    bench = Bench(continuation_frames_max=4)
    pieces = [b""] * (number - 1)
    bench.receive(headers(1, flags=0))
    for piece in pieces:
        bench.receive(frames.head(len(piece), frames.CONTINUATION, 0, 1) + piece)
    bench.receive(frames.head(0, frames.CONTINUATION, frames.END_HEADERS, 1))
    assert bench.failed == ("" if number <= 4 else CALM)
    assert (1 in bench.made) == (number <= 4)


def test_a_header_block_is_bounded_before_it_is_whole() -> None:
    bench = Bench(header_list_max_bytes=1_024)
    bench.receive(headers(1, flags=0, block=b"\0" * 2_048))
    bench.receive(frames.head(2_048, frames.CONTINUATION, 0, 1) + bytes(2_048))
    assert bench.failed == ""
    bench.receive(frames.head(1, frames.CONTINUATION, 0, 1) + b"\0")
    assert bench.failed == CALM and bench.reached == ["header block is too long"]


# Floods


@pytest.mark.parametrize("number", [31, 32, 33])
def test_settings_entries(number: int) -> None:
    body = (b"\0\x03" + bytes(4)) * number
    bench = Bench().receive(frames.head(len(body), frames.SETTINGS, 0, 0) + body)
    assert bench.failed == ("" if number <= 32 else CALM)


@pytest.mark.parametrize("number", [49, 50, 51])
def test_rapid_reset(number: int) -> None:
    """CVE-2023-44487."""
    bench = Bench(resets_per_second_max=50)
    for count in range(number):
        bench.receive(headers(count * 2 + 1) + frames.rst_stream(count * 2 + 1, 8))
    assert bench.failed == ("" if number <= 50 else CALM)
    assert bench.reached == ([] if number <= 50 else ["too many reset streams"])


@pytest.mark.parametrize("number", [49, 50, 51])
def test_resets_that_we_are_made_to_send(number: int) -> None:
    """CVE-2025-8671: each stream is opened and then broken by a frame that forces our reset."""
    bench = Bench(resets_per_second_max=50)
    for count in range(number):
        stream_id = count * 2 + 1
        bench.receive(headers(stream_id) + frames.head(4, frames.WINDOW_UPDATE, 0, stream_id) + bytes(4))
    assert bench.failed == ("" if number <= 50 else CALM)


def test_resets_of_old_streams_and_of_another_second_do_not_count() -> None:
    """A thousand calls that reach their deadlines together are no attack."""
    bench = Bench(resets_per_second_max=50)
    bench.receive(b"".join(headers(number * 2 + 1) for number in range(500)), 10.0)
    bench.receive(b"".join(frames.rst_stream(number * 2 + 1, 8) for number in range(500)), 11.0)
    assert bench.failed == ""
    for second in range(20, 25):
        for count in range(50):
            stream_id = 2_001 + 2 * (50 * second + count)
            bench.receive(headers(stream_id) + frames.rst_stream(stream_id, 8), float(second))
    assert bench.failed == ""


CONTROLS = {
    "PING": frames.ping(b"12345678"),
    "PING answer": frames.ping(b"12345678", ack=True),
    "empty DATA": data(1, b""),
    "padding alone": frames.head(2, frames.DATA, frames.PADDED, 1) + b"\1\0",
    "PRIORITY": frames.head(5, frames.PRIORITY, 0, 5) + bytes(5),
    "unknown": frames.head(0, 0x2A, 0, 0),
    "late WINDOW_UPDATE": frames.window_update(3, 1),
    "late DATA": data(3, b"x"),
    "GOAWAY": frames.goaway(0, 0),
}


@pytest.mark.parametrize("kind", CONTROLS)
def test_control_frames(kind: str) -> None:
    for number in (48, 49, 50):
        bench = Bench(control_frames_per_second_max=50)
        bench.receive(headers(1) + headers(3) + frames.rst_stream(3, 8))
        bench.receive(CONTROLS[kind] * number)
        assert bench.failed == ("" if number <= 49 else CALM), number  # the SETTINGS of the start is one more
        bench.receive(CONTROLS[kind] * number, 1.0)
        assert bench.failed == ("" if number <= 49 else CALM)


def test_settings_count_for_the_streams_that_they_move() -> None:
    bench = Bench(control_frames_per_second_max=200)
    bench.receive(b"".join(headers(number * 2 + 1) for number in range(99)))
    one = frames.settings({frames.INITIAL_WINDOW_SIZE: 1})
    bench.receive(one)
    assert bench.failed == ""
    bench.receive(one)
    assert bench.failed == CALM


# Windows


@pytest.mark.parametrize("length", [99_999, 100_000, 100_001])
def test_stream_window(length: int) -> None:
    """A window is given back as soon as half is used; what comes in one go beyond it ends the stream."""
    bench = Bench(stream_window_bytes=100_000, message_max_bytes=1 << 20)
    bench.receive(headers(1) + headers(3))
    stream = bench.made[1]
    stream.consumed = -(1 << 30)  # nothing is given back in this test
    payload = frame_message(bytes(200_000))[:length]
    for start in range(0, length, 16_384):
        bench.receive(data(1, payload[start : start + 16_384]))
    assert (stream.error is None) == (length <= 100_000)
    if length > 100_000:
        assert (frames.RST_STREAM, 1, bytes((0, 0, 0, ErrorCode.FLOW_CONTROL_ERROR))) in bench.sent()
    assert bench.failed == "" and bench.connection.held_bytes == (length if length <= 100_000 else 0)


@pytest.mark.parametrize("length", [99_999, 100_000, 100_001])
def test_connection_window(length: int) -> None:
    bench = Bench(connection_window_bytes=100_000, message_max_bytes=1 << 20)
    bench.receive(headers(1))
    bench.connection._consumed = -(1 << 30)
    payload = frame_message(bytes(200_000))[:length]
    for start in range(0, length, 16_384):
        bench.receive(data(1, payload[start : start + 16_384]))
    assert bench.failed == ("" if length <= 100_000 else "FLOW_CONTROL_ERROR")


def test_windows_are_given_back_in_bulk() -> None:
    bench = Bench(stream_window_bytes=40_000, connection_window_bytes=80_000, message_max_bytes=1 << 20)
    bench.receive(headers(1))
    given = 0
    payload = frame_message(bytes(1_000_000))
    for start in range(0, len(payload), 10_000):
        bench.receive(data(1, payload[start : start + 10_000]))
        given += sum(kind == frames.WINDOW_UPDATE for kind, _, _ in bench.sent())
    assert bench.made[1].messages == [bytes(1_000_000)] and bench.failed == ""
    assert given <= 1_000_005 // 20_000 + 1_000_005 // 40_000


@pytest.mark.parametrize(
    ("have", "more", "fails"), [(65_535, frames.WINDOW_MAX - 65_535, False), (65_535, frames.WINDOW_MAX - 65_534, True)]
)
def test_window_overflow(have: int, more: int, fails: bool) -> None:
    bench = Bench().receive(headers(1) + frames.window_update(1, more))
    assert (bench.made[1].error is not None) == fails and bench.failed == ""
    assert Bench().receive(frames.window_update(0, more)).failed == ("FLOW_CONTROL_ERROR" if fails else "")
    bench = Bench().receive(headers(1) + frames.window_update(1, 1_000))
    bench.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: have + more - 1_000}))
    assert bench.failed == ("FLOW_CONTROL_ERROR" if fails else "")


def test_a_window_may_become_negative_and_recovers() -> None:
    bench = Bench().receive(headers(1))
    bench.connection.send_data(bench.made[1], bytes(10_000))
    bench.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    assert bench.made[1].send_window == -10_000
    bench.sent()
    bench.connection.send_data(bench.made[1], b"later")
    assert bench.sent() == []
    bench.receive(frames.window_update(1, 10_003))
    assert bench.sent() == [(frames.DATA, 1, b"lat")]


def test_windows_of_one_byte_cost_a_frame_each_and_no_walk_over_streams() -> None:
    """Hundreds of streams that wait for their own windows: an update of one touches that one, and an update of the connection none."""
    bench = Bench(concurrent_streams_max=1_000)
    bench.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    bench.receive(b"".join(headers(number * 2 + 1) for number in range(500)))
    for stream in bench.made.values():
        bench.connection.send_data(stream, b"x" * 100)
    pumped = 0
    pump = bench.connection.pump

    def counting(stream: Recorder) -> None:
        nonlocal pumped
        pumped += 1
        pump(stream)

    bench.connection.pump = counting
    bench.sent()
    bench.receive(frames.window_update(0, 1) * 1_000)
    assert pumped == 0
    bench.receive(frames.window_update(1, 1) * 100)
    assert pumped == 100
    assert bench.sent() == [(frames.DATA, 1, b"x")] * 100
    assert bench.connection.held_bytes == 499 * 100


def test_streams_take_turns_at_the_connections_window() -> None:
    bench = Bench()
    bench.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 20}) + headers(1) + headers(3) + headers(5))
    bench.connection.send_data(bench.made[1], bytes(65_535))
    bench.sent()
    for number in (1, 3, 5):
        bench.connection.send_data(bench.made[number], bytes(300))
    order = []
    for _ in range(6):
        bench.receive(frames.window_update(0, 150))
        order += [number for _, number, _ in bench.sent()]
    assert order == [1, 3, 5, 1, 3, 5]


# What is held for a peer


@pytest.mark.parametrize("length", [999, 1_000, 1_001])
def test_held_bytes_of_unfinished_messages(length: int) -> None:
    """Slow writers: many messages that never end, over many streams."""
    bench = Bench(held_max_bytes=1_000, message_max_bytes=1_000)
    bench.receive(headers(1) + headers(3) + headers(5))
    body = frame_message(bytes(900))
    bench.receive(data(1, body[:500]) + data(3, body[: length - 500]))
    assert (bench.made[3].error is None) == (length <= 1_000)
    if length > 1_000:
        assert bench.made[3].error.status is Status.RESOURCE_EXHAUSTED and bench.reached == ["too much held"]
    bench.receive(data(5, frame_message(b"whole")) + frames.rst_stream(3, 8) + data(1, body[500:]))
    assert bench.made[5].messages == [b"whole"] and bench.made[1].messages == [bytes(900)]
    assert bench.failed == ""


class Flood:
    """A streaming method that sends what it is told."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.closed: list[RpcError | None] = []

    def __call__(self, call: Call) -> "Flood":
        self.calls.append(call)
        return self

    def on_message(self, message: bytes) -> None:
        pass

    def on_half_close(self) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, error: RpcError | None) -> None:
        self.closed.append(error)


@pytest.mark.parametrize("length", [999, 1_000, 1_001])
async def test_held_bytes_of_unread_answers(length: int) -> None:
    """Slow readers: behind too much that is not read a further answer is refused, by unary calls and by streams."""
    flood = Flood()
    server = Server(
        methods={"/a/B": Unary(lambda _request, call: call.reply(bytes(200))), "/a/S": Streaming(flood)},
        limits=Limits(held_max_bytes=1_000, message_max_bytes=1_000),
    )
    shell = connected(server)
    streaming = encode_block(fields("/a/S"))
    shell.data_received(
        frames.settings({frames.INITIAL_WINDOW_SIZE: 0}) + headers(1, block=streaming) + headers(3, block=streaming)
    )
    first, second = flood.calls
    first.send(bytes(length - 5))
    shell.data_received(request(5))
    shell._flush()
    second.send(b"more")
    shell._flush()
    ends = shell.transport.taken()
    refused = [number for kind, number, body in ends if kind == frames.HEADERS and b"wait to be read" in body]
    # Up to the limit the unary answer is taken on, and with it more is held than the stream may add to.
    assert refused == ([3] if length <= 1_000 else [5, 3])
    assert [error.status for error in flood.closed] == [Status.RESOURCE_EXHAUSTED]
    assert not first.ended and server.failures == {"too much held": len(refused)}
    shell.data_received(frames.rst_stream(1, 8) + frames.rst_stream(3, 8) + frames.rst_stream(5, 8))
    shell._flush()
    assert server.held_bytes == 0


async def test_held_bytes_of_all_connections() -> None:
    """When all peers together make us hold too much, the one that holds the most goes, and only that one."""
    server = Server(methods={}, limits=Limits(held_total_max_bytes=1_000))
    flood = Flood()
    server.methods["/a/S"] = Streaming(flood)
    shells = [connected(server) for _ in range(3)]
    for shell in shells:
        shell.data_received(headers(1, block=encode_block(fields("/a/S"))))
    for shell, length in zip(shells, (500, 300, 200), strict=True):
        shell.data_received(data(1, frame_message(bytes(900))[:length]))
    assert server.held_bytes == 1_000 and not any(shell.transport.gone for shell in shells)
    shells[2].data_received(data(1, b"x"))
    assert [shell.transport.gone for shell in shells] == [True, False, False]
    shells[0].connection_lost(None)
    assert server.held_bytes == 501 and server.failures == {"most held": 1}
    assert isinstance(flood.closed[0], RpcError)


@pytest.mark.parametrize("unread", [999, 1_000, 1_001])
async def test_frames_without_a_window_that_nobody_reads(unread: int) -> None:
    """PING answers and refusals wait in the socket's buffer, where no window holds them back."""
    server = Server(methods={}, limits=Limits(unread_frames_max_bytes=1_000))
    shell = connected(server)
    wire = shell.transport
    shell.pause_writing()
    wire.unread = unread
    shell.data_received(frames.ping(b"12345678"))
    shell._flush()
    assert wire.gone == (unread > 1_000)
    assert server.failures == ({"unread output": 1} if unread > 1_000 else {})
    assert server.held_bytes == unread
    shell.connection_lost(None)
    assert server.held_bytes == 0


async def test_a_large_answer_leaves_in_portions_and_others_between_them() -> None:
    answers = {b"large": bytes(5 << 20), b"small": b"quick"}
    server = Server(methods={"/a/B": Unary(lambda name, call: call.reply(answers[name]))})
    shell = connected(server)
    shell.data_received(frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30}) + request(1, b"large"))
    shell._flush()
    assert sum(len(body) for kind, _, body in shell.transport.taken() if kind == frames.DATA) == 256 << 10
    shell.data_received(request(3, b"small"))
    sizes, small_at = [], 0
    while shell.connection._output:
        shell._flush()
        taken = shell.transport.taken()
        sizes.append(sum(len(body) for kind, _, body in taken if kind == frames.DATA))
        if any(number == 3 and b"quick" in body for _, number, body in taken):
            small_at = len(sizes)
    assert max(sizes) <= 1 << 20 and small_at == 2 and sum(sizes) == (5 << 20) - (256 << 10) + 5 + 10


@pytest.mark.parametrize("high", [1_000])
def test_writers_hear_when_they_may_go_on(high: int) -> None:
    bench = Bench(send_high_bytes=high, send_low_bytes=200)
    bench.receive(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}) + headers(1) + headers(3))
    one, other = bench.made[1], bench.made[3]
    bench.connection.send_data(one, bytes(1_000))
    bench.connection.send_data(other, bytes(1_001))
    assert (one.above_high, other.above_high) == (False, True)
    bench.receive(frames.window_update(3, 800))
    assert other.writables == 0
    bench.receive(frames.window_update(3, 1))
    assert other.writables == 1
    bench.receive(frames.window_update(3, 200) + frames.window_update(1, 1_000))
    assert (one.writables, other.writables) == (0, 1)


# Time


async def test_stalled_readers() -> None:
    """A stream of which nothing, or next to nothing, is read for 60 s is reset; one that is read slowly but really is not."""
    flood = Flood()
    server = Server(methods={"/a/S": Streaming(flood)})
    shell = connected(server)
    block = encode_block(fields("/a/S"))
    shell.data_received(
        frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
        + headers(1, block=block)
        + headers(3, block=block)
        + headers(5, block=block)
    )
    start = shell.connection.now_s
    for call in flood.calls:
        call.send(bytes(1 << 20))
    for second in range(1, 60):
        shell.connection.now_s = start + second
        shell.connection.receive(frames.window_update(3, 1) + frames.window_update(5, 300), start + second)
        shell.maintain(start + second, server.limits)
        shell.last_received_s = start + second
    assert not flood.closed
    shell.connection.receive(frames.window_update(3, 1) + frames.window_update(5, 300), start + 61)
    shell.maintain(start + 61, server.limits)
    assert [error.status for error in flood.closed] == [Status.RESOURCE_EXHAUSTED] * 2
    assert set(shell.connection.streams) == {5} and server.failures == {"stalled reader": 2}


@pytest.mark.parametrize("kind", ["body", "refused"])
async def test_slow_requests(kind: str) -> None:
    """A request that is not complete in time is answered and gone: the call of a unary method, and what was no gRPC at all."""
    server = answering(b"")
    shell = connected(server)
    block = encode_block(fields()) if kind == "body" else encode_block([(":method", "GET"), *fields()[1:]])
    shell.data_received(headers(1, block=block) + data(1, b"\0\0"))
    start = shell.connection.now_s
    shell.maintain(start + 29.9, server.limits)
    assert shell.connection.streams
    shell.maintain(start + 30.1, server.limits)
    shell._flush()
    assert not shell.connection.streams and server.failures == {"slow request": 1}
    assert shell.connection.held_bytes == 0
    if kind == "body":
        assert status_of(shell, 1)[0] == str(int(Status.DEADLINE_EXCEEDED))


async def test_no_settings() -> None:
    """Connected and silent, or a preface that never ends."""
    server = Server(methods={})
    from scheduler.http2.server import _ServerShell
    from tests.http2.wire import Wire

    shell = _ServerShell(server)
    shell.connection_made(Wire())
    shell.data_received(frames.PREFACE[:10])
    wire = shell.transport
    shell.maintain(shell.accepted_s + 9.9, server.limits)
    assert not wire.gone
    shell.maintain(shell.accepted_s + 10.1, server.limits)
    assert wire.gone and server.failures == {"handshake": 1}


async def test_keepalive_of_the_server() -> None:
    server = Server(methods={})
    shell = connected(server)
    wire, start = shell.transport, shell.last_received_s

    def pings() -> int:
        shell._flush()
        return sum(kind == frames.PING for kind, _, _ in wire.taken())

    shell.maintain(start + 2.9, server.limits)
    assert pings() == 0
    shell.maintain(start + 3.0, server.limits)
    assert pings() == 1
    shell.maintain(start + 7.9, server.limits)
    assert not wire.gone and pings() == 0
    shell.maintain(start + 8.1, server.limits)
    assert wire.gone and server.failures == {"keepalive": 1}


async def test_keepalive_answers_keep() -> None:
    server = Server(methods={})
    shell = connected(server)
    wire, start = shell.transport, shell.last_received_s
    shell.maintain(start + 3.0, server.limits)
    shell.data_received(frames.ping(b"keepaliv", ack=True))
    assert shell.ping_sent_s is None and not wire.gone
    shell.maintain(shell.last_received_s + 2.0, server.limits)
    assert not wire.gone


# Values


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1n", 1e-9),
        ("99999999n", 0.099999999),
        ("0S", 0.0),
        ("1u", 1e-6),
        ("1m", 0.001),
        ("99999999H", 99_999_999 * 3600.0),
    ],
)
def test_timeouts_that_are_allowed(text: str, seconds: float) -> None:
    assert parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "S", "100000000n", "-1S", "+1S", "1.5S", " 1S", "1s", "1S ", "١S", "1_0S"])
async def test_timeouts_that_are_not(text: str) -> None:
    with pytest.raises(ValueError):
        parse_timeout(text)
    shell = connected(answering(b""))
    shell.data_received(request(1, b"", ("grpc-timeout", text)))
    shell._flush()
    assert status_of(shell, 1)[0] == str(int(Status.INTERNAL))


async def test_repeated_timeouts_make_one_timer() -> None:
    calls: list[Call] = []
    server = Server(methods={"/a/B": Unary(lambda _request, call: calls.append(call))})
    shell = connected(server)
    loop = shell.loop
    before = len(loop._scheduled)
    shell.data_received(request(1, b"", *[("grpc-timeout", "99999999H")] * 50))
    assert len(loop._scheduled) == before + 1
    calls[0].reply(b"")
    assert sum(not timer.cancelled() for timer in loop._scheduled) <= before


@pytest.mark.parametrize("text", ["", "plain", "100 %", "naïve\r\n\t\0", "日本語", "%41", "\x7f~", "𝄞" * 3])
def test_texts_are_percent_coded(text: str) -> None:
    coded = encode_text(text)
    assert coded.isascii() and coded.isprintable() and decode_text(coded) == text


@pytest.mark.parametrize("text", ["x" * 5_000, "é" * 5_000, "%" * 5_000, "𝄞" * 5_000])
def test_long_texts_are_cut_between_characters(text: str) -> None:
    coded = encode_text(text)
    assert 3_000 < len(coded) <= 4_096 and text.startswith(decode_text(coded))


def test_broken_percent_codes_stay_as_they_are() -> None:
    assert decode_text("100%, %zz, %4") == "100%, %zz, %4"


async def test_what_is_no_grpc_gets_a_sentence() -> None:
    shell = connected(answering(b""))
    for stream_id, block in (
        (1, encode_block([(":method", "GET"), *fields()[1:]])),
        (3, encode_block([*fields()[:3], ("content-type", "text/html")])),
    ):
        shell.data_received(headers(stream_id, END, block))
        shell._flush()
        (_, _, head), (_, _, body), (kind, _, _) = shell.transport.taken()
        status = dict(HeaderDecoder(1 << 14, hard_max_bytes=1 << 14).decode(head))[":status"]
        assert status == {1: "405", 3: "415"}[stream_id] and b"This is a gRPC server" in body and kind == frames.DATA
    assert not shell.connection.streams


async def test_nothing_of_a_call_is_kept_after_it() -> None:
    """Streams that declare a length, begin a message, or wait for windows, and then end in every way: the connection holds nothing of them."""
    flood = Flood()
    server = Server(methods={"/a/B": Unary(lambda _request, call: call.reply(bytes(100))), "/a/S": Streaming(flood)})
    shell = connected(server)
    connection = shell.connection
    declared = encode_block(fields("/a/B", ("content-length", "1000")))
    streaming = encode_block(fields("/a/S"))
    shell.data_received(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    shell.data_received(headers(1, block=declared) + data(1, b"\0\0\0\0\x09abc") + frames.rst_stream(1, 8))
    shell.data_received(headers(3, block=declared) + data(3, b"\0\0\0\0\x09abc", frames.END_STREAM))
    shell.data_received(headers(5, block=streaming) + data(5, frame_message(b"whole") + b"\0\0"))
    flood.calls[0].send(bytes(1_000))
    flood.calls[0].finish()
    assert connection.held_bytes > 1_000
    shell.data_received(frames.rst_stream(5, 8))
    shell.data_received(request(7) + frames.window_update(7, 1 << 20))
    shell._flush()
    assert not connection.streams and connection.held_bytes == 0 and not connection._ready
    assert server.held_bytes == 0
