"""Our server and client on real sockets: with each other, and with grpcio as a stranger on either side."""

import asyncio
import threading

import grpc
import pytest

from scheduler.http2.call import Call, Streaming, Unary, coroutine
from scheduler.http2.client import Channel
from scheduler.http2.grpc import RpcError, Status, frame_message
from scheduler.http2.limits import Limits
from scheduler.http2.server import Server


class Echo:
    """Sends every message back."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def on_message(self, message: bytes) -> None:
        self.call.send(message)

    def on_half_close(self) -> None:
        self.call.finish()

    def on_writable(self) -> None:
        pass

    def on_closed(self, error: RpcError | None) -> None:
        pass


async def slow(request: bytes, _call: Call) -> bytes:
    await asyncio.sleep(30)
    return request


async def refuse(_request: bytes, _call: Call) -> bytes:
    raise RpcError(Status.ALREADY_EXISTS, "schon da: ü")


def explode(_request: bytes, _call: Call) -> None:
    raise RuntimeError("a bug in a handler")


@pytest.fixture
async def server():
    failures: list[str] = []
    methods = {
        "/t/Echo": Unary(lambda request, call: call.reply(request)),
        "/t/Stream": Streaming(Echo),
        "/t/Slow": coroutine(slow),
        "/t/Refuse": coroutine(refuse),
        "/t/Explode": Unary(explode),
    }
    one = Server(methods=methods, on_error=lambda path, _error: failures.append(path))
    one.port = await one.listen("127.0.0.1", 0)
    one.failed_paths = failures
    yield one
    await one.close(grace_s=0.1)


class Collector:
    """A sink that a test can wait on."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue = asyncio.Queue()

    def on_message(self, message: bytes) -> None:
        self.queue.put_nowait(message)

    def on_half_close(self) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, error: RpcError | None) -> None:
        self.queue.put_nowait(error)


async def test_unary_small_large_and_refused(server) -> None:
    channel = Channel(f"127.0.0.1:{server.port}")
    assert await channel.unary("/t/Echo", b"hello", timeout_s=30) == b"hello"
    large = bytes(4_000_000)
    assert await channel.unary("/t/Echo", large, timeout_s=20) == large
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t/Refuse", b"", timeout_s=30)
    assert (caught.value.status, caught.value.message) == (Status.ALREADY_EXISTS, "schon da: ü")
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t/Nothing", b"", timeout_s=30)
    assert caught.value.status is Status.UNIMPLEMENTED
    await channel.close()


async def test_a_handlers_bug_costs_its_call_alone(server) -> None:
    channel = Channel(f"127.0.0.1:{server.port}")
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t/Explode", b"", timeout_s=30)
    assert caught.value.status is Status.INTERNAL and "bug" not in caught.value.message
    assert server.failed_paths == ["/t/Explode"]
    assert await channel.unary("/t/Echo", b"still here", timeout_s=30) == b"still here"
    await channel.close()


async def test_deadlines_and_cancellation(server) -> None:
    channel = Channel(f"127.0.0.1:{server.port}")
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t/Slow", b"", timeout_s=0.2)
    assert caught.value.status is Status.DEADLINE_EXCEEDED
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await channel.unary("/t/Slow", b"", timeout_s=None)
    async with asyncio.timeout(30):
        while server.statistics().open_calls:
            await asyncio.sleep(0.01)
    await channel.close()


async def test_streams_carry_many_messages_both_ways(server) -> None:
    channel = Channel(f"127.0.0.1:{server.port}")
    sink = Collector()
    call = channel.stream("/t/Stream", sink)
    for number in range(500):
        call.send(str(number).encode())
    call.send_framed(frame_message(b"a") + frame_message(b"b"))
    call.half_close()
    got = [await asyncio.wait_for(sink.queue.get(), 5) for _ in range(503)]
    assert got == [*(str(number).encode() for number in range(500)), b"a", b"b", None]
    await channel.close()


async def test_a_target_that_is_not_there_and_one_that_comes_later(server) -> None:
    channel = Channel("127.0.0.1:1")
    with pytest.raises(RpcError) as caught:
        await channel.unary("/t/Echo", b"", timeout_s=30)
    assert caught.value.status is Status.UNAVAILABLE and "127.0.0.1:1" in caught.value.message
    await channel.close()
    late = Server(methods={"/t/Echo": Unary(lambda request, call: call.reply(request))})
    port = await late.listen("127.0.0.1", 0)
    late.stop_accepting()
    channel = Channel(f"127.0.0.1:{port}")
    waiting = asyncio.ensure_future(channel.unary("/t/Echo", b"patience", timeout_s=15, wait_for_ready=True))
    await asyncio.sleep(0)
    again = Server(methods=late.methods)
    await again.listen("127.0.0.1", port)
    assert await waiting == b"patience"
    await channel.close()
    await again.close(grace_s=0.1)
    await late.close(grace_s=0.1)


async def test_closing_the_server_ends_open_calls(server) -> None:
    channel = Channel(f"127.0.0.1:{server.port}")
    sink = Collector()
    channel.stream("/t/Stream", sink).send(b"x")
    assert await asyncio.wait_for(sink.queue.get(), 5) == b"x"
    await server.close(grace_s=0.1)
    error = await asyncio.wait_for(sink.queue.get(), 5)
    assert isinstance(error, RpcError) and error.status is Status.UNAVAILABLE
    await channel.close()


async def test_a_client_that_never_speaks_is_dropped() -> None:
    one = Server(methods={}, limits=Limits(handshake_timeout_s=0.5))
    port = await one.listen("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(30):
        while await reader.read(1_000):
            pass
    writer.close()
    await one.close(grace_s=0.1)


async def test_grpcio_as_a_client_gzip_included(server) -> None:
    def talk() -> tuple[bytes, list[bytes], grpc.StatusCode]:
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            echo = channel.unary_unary("/t/Echo")(b"z" * 100_000, timeout=30, compression=grpc.Compression.Gzip)
            streamed = list(channel.stream_stream("/t/Stream")(iter([b"1", b"2"]), timeout=30))
            try:
                channel.unary_unary("/t/Refuse")(b"", timeout=30)
            except grpc.RpcError as error:
                return echo, streamed, error.code()
            raise AssertionError("not refused")

    echo, streamed, code = await asyncio.to_thread(talk)
    assert (echo, streamed, code) == (b"z" * 100_000, [b"1", b"2"], grpc.StatusCode.ALREADY_EXISTS)


async def test_grpcio_as_a_server() -> None:
    from concurrent.futures import ThreadPoolExecutor

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            if details.method == "/t/Echo":
                return grpc.unary_unary_rpc_method_handler(lambda request, _context: request)
            return grpc.stream_stream_rpc_method_handler(lambda requests, _context: iter([*requests, b"end"]))

    stranger = grpc.server(ThreadPoolExecutor(2))
    stranger.add_generic_rpc_handlers((Handler(),))
    port = stranger.add_insecure_port("127.0.0.1:0")
    stranger.start()
    channel = Channel(f"127.0.0.1:{port}")
    assert await channel.unary("/t/Echo", b"q" * 300_000, timeout_s=10) == b"q" * 300_000
    sink = Collector()
    call = channel.stream("/t/Stream", sink)
    call.send(b"one")
    call.half_close()
    assert [await asyncio.wait_for(sink.queue.get(), 5) for _ in range(3)] == [b"one", b"end", None]
    await channel.close()
    stopped: threading.Event = stranger.stop(0)
    await asyncio.to_thread(stopped.wait, 5)
