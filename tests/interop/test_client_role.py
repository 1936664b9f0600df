"""Our client role against strangers: the interoperability cases that our Channel has, on test servers in grpc-go and grpcio.

Left out: what our callers have no use for and the Channel therefore has not: trailing metadata of a success, compression.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from scheduler.http2.client import Channel
from scheduler.http2.grpc import RpcError, Status
from tests.interop.messages import (
    INITIAL,
    SERVICE,
    EchoStatus,
    Empty,
    Payload,
    SimpleRequest,
    SimpleResponse,
    StreamingInputCallRequest,
    StreamingInputCallResponse,
    StreamingOutputCallRequest,
    StreamingOutputCallResponse,
)
from tests.support.certificates import Authority
from tests.support.processes import Child, answers, free_port, wait_until
from tests.support.toolchains import go_build

pytestmark = [pytest.mark.interop, pytest.mark.slow]
REQUESTS, ANSWERS = [27182, 8, 1828, 45904], [31415, 9, 2653, 58979]
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"


def grpcio_service() -> grpc.GenericRpcHandler:
    """The test service in grpcio."""

    def simple(request, context):
        if request.response_status.code:
            context.abort(list(grpc.StatusCode)[request.response_status.code], request.response_status.message)
        echoed = [pair for pair in context.invocation_metadata() if pair[0] == INITIAL]
        context.send_initial_metadata(echoed)
        return SimpleResponse(payload=Payload(body=bytes(request.response_size)))

    def output(request, context):
        if request.response_status.code:
            context.abort(list(grpc.StatusCode)[request.response_status.code], request.response_status.message)
        for parameters in request.response_parameters:
            yield StreamingOutputCallResponse(payload=Payload(body=bytes(parameters.size)))

    def duplex(requests, context):
        for request in requests:
            yield from output(request, context)

    def total(requests, _context):
        return StreamingInputCallResponse(aggregated_payload_size=sum(len(one.payload.body) for one in requests))

    def handler(make: Callable, behaviour: Callable, kind: type) -> grpc.RpcMethodHandler:
        return make(
            behaviour, request_deserializer=kind.FromString, response_serializer=lambda m: m.SerializeToString()
        )

    table = {
        "EmptyCall": handler(grpc.unary_unary_rpc_method_handler, lambda request, _context: request, Empty),
        "UnaryCall": handler(grpc.unary_unary_rpc_method_handler, simple, SimpleRequest),
        "StreamingOutputCall": handler(grpc.unary_stream_rpc_method_handler, output, StreamingOutputCallRequest),
        "StreamingInputCall": handler(grpc.stream_unary_rpc_method_handler, total, StreamingInputCallRequest),
        "FullDuplexCall": handler(grpc.stream_stream_rpc_method_handler, duplex, StreamingOutputCallRequest),
    }
    return grpc.method_handlers_generic_handler("grpc.testing.TestService", table)


def start_grpcio(port: int, files: tuple[Path, Path] | None, _directory: Path) -> Callable[[], object]:
    server = grpc.server(ThreadPoolExecutor(max_workers=8), handlers=(grpcio_service(),))
    if files:
        pair = (files[1].read_bytes(), files[0].read_bytes())
        server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair]))
    else:
        server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    return lambda: server.stop(grace=None).wait()


def start_grpc_go(port: int, files: tuple[Path, Path] | None, directory: Path) -> Callable[[], object]:
    program = go_build(Path(__file__).parent / "go", "interop-server", "google.golang.org/grpc/interop/server")
    command = [str(program), f"-port={port}"]
    if files:
        command += ["-use_tls", f"-tls_cert_file={files[0]}", f"-tls_key_file={files[1]}"]
    child = Child(directory / "server.log")
    child.spawn(command)
    return child.close


STRANGERS = {"grpcio": start_grpcio, "grpc-go": start_grpc_go}


@pytest.fixture(
    scope="module", params=[(name, tls) for name in STRANGERS for tls in ("plaintext", "TLS")], ids="-".join
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, ssl.SSLContext | None]]:
    name, security = request.param
    directory, port, files, tls = tmp_path_factory.mktemp("server"), free_port(), None, None
    if security == "TLS":
        authority = Authority(directory / "ca")
        files = authority.leaf("service", [])
        tls = ssl.create_default_context(cafile=authority.ca_file)
        tls.set_alpn_protocols(["h2"])
    stop = STRANGERS[name](port, files, directory)
    try:
        wait_until(lambda: answers(port), timeout_s=30, what="the server answers")
        yield port, tls
    finally:
        stop()


@pytest.fixture
async def channel(server: tuple[int, ssl.SSLContext | None]) -> AsyncIterator[Channel]:
    port, tls = server
    one = Channel(f"127.0.0.1:{port}", tls=tls, server_hostname="localhost" if tls else None)
    yield one
    await one.close()


class Answers:
    """A sink that keeps what comes in a queue; its end, None or an error, comes last."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue = asyncio.Queue()

    def on_message(self, message: bytes) -> None:
        self.queue.put_nowait(len(StreamingOutputCallResponse.FromString(message).payload.body))

    def on_half_close(self) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, error: RpcError | None) -> None:
        self.queue.put_nowait(error)

    async def next(self) -> int | RpcError | None:
        async with asyncio.timeout(30):
            return await self.queue.get()


def output_request(request_bytes: int, *sizes: int, status: object = None) -> bytes:
    request = StreamingOutputCallRequest(payload=Payload(body=bytes(request_bytes)), response_status=status)
    for size in sizes:
        request.response_parameters.add(size=size)
    return request.SerializeToString()


async def unary(channel: Channel, request, method: str = f"{SERVICE}/UnaryCall", **options) -> bytes:
    return await channel.unary(method, request.SerializeToString(), timeout_s=10, **options)


async def test_empty_unary(channel: Channel) -> None:
    assert await unary(channel, Empty(), f"{SERVICE}/EmptyCall") == b""


async def test_large_unary(channel: Channel) -> None:
    request = SimpleRequest(response_size=314159, payload=Payload(body=bytes(271828)))
    answer = SimpleResponse.FromString(await unary(channel, request))
    assert answer.payload.body == bytes(314159)


async def test_client_streaming(channel: Channel) -> None:
    sink = Answers()
    sink.on_message = sink.queue.put_nowait  # type: ignore[method-assign]
    call = channel.stream(f"{SERVICE}/StreamingInputCall", sink)
    for size in REQUESTS:
        call.send(StreamingInputCallRequest(payload=Payload(body=bytes(size))).SerializeToString())
    call.half_close()
    answer = StreamingInputCallResponse.FromString(await sink.next())
    assert answer.aggregated_payload_size == sum(REQUESTS)
    assert await sink.next() is None


async def test_server_streaming(channel: Channel) -> None:
    sink = Answers()
    call = channel.stream(f"{SERVICE}/StreamingOutputCall", sink)
    call.send(output_request(0, *ANSWERS))
    call.half_close()
    assert [await sink.next() for _ in range(5)] == [*ANSWERS, None]


async def test_ping_pong(channel: Channel) -> None:
    sink = Answers()
    call = channel.stream(f"{SERVICE}/FullDuplexCall", sink)
    for request, answer in zip(REQUESTS, ANSWERS, strict=True):
        call.send(output_request(request, answer))
        assert await sink.next() == answer
    call.half_close()
    assert await sink.next() is None


async def test_empty_stream(channel: Channel) -> None:
    sink = Answers()
    channel.stream(f"{SERVICE}/FullDuplexCall", sink).half_close()
    assert await sink.next() is None


async def test_timeout_on_sleeping_server(channel: Channel) -> None:
    await channel.wait_ready(10)
    sink = Answers()
    call = channel.stream(f"{SERVICE}/FullDuplexCall", sink, timeout_s=0.001)
    call.send(output_request(27182))
    ended = await sink.next()
    assert isinstance(ended, RpcError)
    assert ended.status is Status.DEADLINE_EXCEEDED


async def test_cancel_after_begin(channel: Channel) -> None:
    sink = Answers()
    channel.stream(f"{SERVICE}/StreamingInputCall", sink, metadata=(("key1", "value1"), ("key2", "value2"))).cancel()
    ended = await sink.next()
    assert isinstance(ended, RpcError)
    assert ended.status is Status.CANCELLED


async def test_cancel_after_first_response(channel: Channel) -> None:
    sink = Answers()
    call = channel.stream(f"{SERVICE}/FullDuplexCall", sink)
    call.send(output_request(27182, 31415))
    assert await sink.next() == 31415
    call.cancel()
    ended = await sink.next()
    assert isinstance(ended, RpcError)
    assert ended.status is Status.CANCELLED
    assert await unary(channel, Empty(), f"{SERVICE}/EmptyCall") == b"", "the connection serves on"


@pytest.mark.parametrize("message", ["test status message", SPECIAL], ids=["plain", "special"])
async def test_status_code_and_message(channel: Channel, message: str) -> None:
    status = EchoStatus(code=2, message=message)
    with pytest.raises(RpcError) as refused:
        await unary(channel, SimpleRequest(response_status=status))
    assert (refused.value.status, refused.value.message) == (Status.UNKNOWN, message)
    sink = Answers()
    call = channel.stream(f"{SERVICE}/FullDuplexCall", sink)
    call.send(output_request(0, status=status))
    call.half_close()
    ended = await sink.next()
    assert isinstance(ended, RpcError)
    assert (ended.status, ended.message) == (Status.UNKNOWN, message)


async def test_initial_metadata_is_echoed(channel: Channel) -> None:
    sink = Answers()
    call = channel.stream(f"{SERVICE}/UnaryCall", sink, metadata=((INITIAL, "test_initial_metadata_value"),))
    call.send(SimpleRequest(response_size=1).SerializeToString())
    call.half_close()
    await sink.next()
    assert await sink.next() is None
    assert dict(call.response_metadata)[INITIAL] == "test_initial_metadata_value"


@pytest.mark.parametrize(
    "path", [f"{SERVICE}/UnimplementedCall", "/grpc.testing.UnimplementedService/UnimplementedCall"]
)
async def test_unimplemented(channel: Channel, path: str) -> None:
    with pytest.raises(RpcError) as refused:
        await unary(channel, Empty(), path)
    assert refused.value.status is Status.UNIMPLEMENTED


async def test_many_calls_at_once_on_one_connection(channel: Channel) -> None:
    async with asyncio.TaskGroup() as tasks:
        calls = [tasks.create_task(unary(channel, SimpleRequest(response_size=size))) for size in range(0, 40_000, 100)]
    sizes = [len(SimpleResponse.FromString(call.result()).payload.body) for call in calls]
    assert sizes == list(range(0, 40_000, 100))
