"""The limits that need real sockets: handshakes, TLS versions, how many connections, farewells, and clients that wait for a place."""

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from scheduler.http2 import frames
from scheduler.http2.call import Call, Streaming, Unary
from scheduler.http2.client import Channel
from scheduler.http2.grpc import RpcError, Status
from scheduler.http2.limits import Limits
from scheduler.http2.server import Server
from scheduler.identity.certificates import Material
from scheduler.identity.contexts import ServerTls
from scheduler.rpc import watch as watch_room
from tests.http2.wire import connected, data, fields, headers, parse
from tests.support.certificates import Authority


class Held:
    """A unary method whose calls the test answers."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, _request: bytes, call: Call) -> None:
        self.calls.append(call)


class Serving:
    """A server of a test, and what it needs to be asked."""

    def __init__(self, **limits) -> None:
        self.held = Held()
        methods = {"/a/B": Unary(lambda request, call: call.reply(request)), "/a/Held": Unary(self.held)}
        self.server = Server(methods=methods, limits=Limits(**limits))
        self.port = 0

    async def until(self, condition) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
async def serving():
    made: list[Serving] = []

    async def make(tls: ssl.SSLContext | None = None, **limits) -> Serving:
        one = Serving(**limits)
        one.port = await one.server.listen("127.0.0.1", 0, tls=tls)
        made.append(one)
        return one

    yield make
    for one in made:
        await one.server.close(grace_s=0)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def server_tls(authority: Authority, *, mutual: bool = False) -> ssl.SSLContext:
    certificate, key = authority.leaf("server", ["spiffe://localhost/ns/x/y"])
    anchors = authority.ca_file.read_bytes() if mutual else b""
    return ServerTls(Material(certificate=certificate.read_bytes(), key=key.read_bytes(), anchors=anchors)).context


def client_tls(authority: Authority, name: str | None = None, *, alpn: tuple[str, ...] = ("h2",)) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if name is not None:
        context.load_cert_chain(*map(str, authority.leaf(name, [f"spiffe://public/ns/x/{name}"])))
    return context


async def greeting(port: int, tls: ssl.SSLContext | None = None) -> bytes:
    """The first bytes that a client hears after its own preface; nothing where it is not let in."""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
        try:
            # The request comes with the handshake's end: who is turned away must not have been served.
            writer.write(frames.PREFACE + frames.settings({}) + headers(1, frames.END_HEADERS | frames.END_STREAM))
            async with asyncio.timeout(30):
                return await reader.read(9)
        finally:
            writer.transport.abort()
    return b""


SETTINGS_FIRST = 4  # the frame's kind, at the fourth byte


async def test_connections_in_total(serving) -> None:
    one = await serving(connections_max=2)
    streams = [await asyncio.open_connection("127.0.0.1", one.port) for _ in range(2)]
    await one.until(lambda: len(one.server.shells) == 2)
    assert await greeting(one.port) == b""
    assert one.server.failures == {"too many connections": 1}
    streams[0][1].close()
    await one.until(lambda: len(one.server.shells) == 1)
    assert (await greeting(one.port))[3] == SETTINGS_FIRST
    streams[1][1].close()


@pytest.mark.parametrize(("files", "allowed"), [(11_200, 10_000), (11_199, 9_999), (1_300, 100), (64, 1)])
def test_connections_fit_the_open_files(monkeypatch: pytest.MonkeyPatch, files: int, allowed: int) -> None:
    """Rather a connection that is refused, and counted, than a process that cannot open a file."""
    import resource

    from scheduler import app
    from scheduler.config import ServeSettings

    monkeypatch.setattr(resource, "getrlimit", lambda _which: (files, files))
    assert app._limits(ServeSettings(id="a")).connections_max == allowed


async def test_connections_per_certificate(serving, authority: Authority) -> None:
    """The third of one certificate is refused, another certificate's first is not, and a place that is left is free again."""
    one = await serving(server_tls(authority, mutual=True), connections_per_certificate_max=2)
    mine, other = client_tls(authority, "mine"), client_tls(authority, "other")
    streams = [await asyncio.open_connection("127.0.0.1", one.port, ssl=mine) for _ in range(2)]
    await one.until(lambda: len(one.server.shells) == 2)
    assert await greeting(one.port, mine) == b""
    assert one.server.failures == {"too many connections of one certificate": 1} and one.server.calls == 0
    assert (await greeting(one.port, other))[3] == SETTINGS_FIRST
    streams[0][1].transport.abort()
    await one.until(lambda: len(one.server.shells) == 1)
    assert (await greeting(one.port, mine))[3] == SETTINGS_FIRST
    streams[1][1].transport.abort()
    await one.until(lambda: not one.server.shells)
    assert not one.server._certificates


HELLO = bytes.fromhex("16030100c8010000c40303")  # the beginning of a ClientHello


@pytest.mark.parametrize("first", [b"", HELLO[:3], HELLO], ids=["silent", "in its first record", "in its ClientHello"])
async def test_half_open_handshakes(serving, authority: Authority, first: bytes) -> None:
    """A TLS handshake that stops somewhere is given up in time, and counts among a bounded number meanwhile."""
    one = await serving(server_tls(authority), handshake_timeout_s=0.5)
    reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
    writer.write(first)
    await one.until(lambda: one.server._handshakes == 1)
    async with asyncio.timeout(30):
        with contextlib.suppress(ConnectionError):
            await reader.read(100)
    await one.until(lambda: one.server._handshakes == 0)
    assert one.server.failures == {"tls handshake": 1} and not one.server.shells
    writer.close()


async def test_handshakes_are_bounded_in_number(serving, authority: Authority) -> None:
    one = await serving(server_tls(authority), handshakes_max=2)
    silent = [await asyncio.open_connection("127.0.0.1", one.port) for _ in range(2)]
    await one.until(lambda: one.server._handshakes == 2)
    assert await greeting(one.port, client_tls(authority)) == b""
    assert one.server.failures == {"too many handshakes": 1}
    silent[0][1].close()
    await one.until(lambda: one.server._handshakes == 1)
    assert (await greeting(one.port, client_tls(authority)))[3] == SETTINGS_FIRST
    silent[1][1].close()


async def test_what_comes_with_the_handshakes_end_is_not_lost(serving, authority: Authority) -> None:
    """A client that sends preface and request behind its Finished at once is answered; many at a time, so that some arrive early."""
    one = await serving(server_tls(authority))
    context = client_tls(authority)
    request = headers(1, frames.END_HEADERS) + data(1, b"\0\0\0\0\x02hi", frames.END_STREAM)

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port, ssl=context)
        writer.write(frames.PREFACE + frames.settings({}) + request)
        got = b""
        async with asyncio.timeout(30):
            while b"hi" not in got:
                got += await reader.read(1_000)
        writer.transport.abort()
        return got

    async with asyncio.TaskGroup() as tasks:
        for _ in range(20):
            tasks.create_task(ask())
    assert one.server.calls == 20


@pytest.mark.parametrize(
    ("alpn", "lets_in"),
    [(("h2",), True), (("http/1.1", "h2"), True), (("http/1.1",), False), ((), False)],
    ids=["h2", "h2 among others", "http/1.1", "no ALPN"],
)
async def test_only_h2_by_alpn(serving, authority: Authority, alpn: tuple[str, ...], lets_in: bool) -> None:
    one = await serving(server_tls(authority))
    assert bool(await greeting(one.port, client_tls(authority, alpn=alpn))) == lets_in
    await one.until(lambda: not one.server.shells)
    assert one.server.calls == lets_in


@pytest.mark.parametrize(
    ("version", "lets_in"),
    [(ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1, False)],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_only_tls_1_2_and_newer(serving, authority: Authority, version: ssl.TLSVersion, lets_in: bool) -> None:
    one = await serving(server_tls(authority))
    context = client_tls(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    assert bool(await greeting(one.port, context)) == lets_in
    if not lets_in:
        await one.until(lambda: one.server.failures == {"tls handshake": 1})


async def test_plaintext_at_a_tls_port(serving, authority: Authority) -> None:
    one = await serving(server_tls(authority))
    got = await greeting(one.port)
    assert got[3:4] != bytes((SETTINGS_FIRST,)) or got[:1] == b"\x15"  # at most a TLS alert
    await one.until(lambda: one.server.failures == {"tls handshake": 1})


async def test_unix_sockets(serving, tmp_path: Path) -> None:
    one = await serving()
    path = tmp_path / "s"
    await one.server.listen_unix(str(path))
    channel = Channel(f"unix:{path}")
    assert await channel.unary("/a/B", b"by a path", timeout_s=30) == b"by a path"
    await channel.close()


async def test_going_away_lets_calls_end(serving) -> None:
    """GOAWAY: the call that is open is answered, a new one on the old connection is not begun, and the client looks for another server."""
    one = await serving()
    channel = Channel(f"127.0.0.1:{one.port}")
    open_call = asyncio.ensure_future(channel.unary("/a/Held", b"", timeout_s=10))
    await one.until(lambda: one.held.calls)
    closing = asyncio.ensure_future(one.server.close(grace_s=10))
    await one.until(lambda: not channel.connected)
    with pytest.raises(RpcError) as caught:
        await channel.unary("/a/B", b"", timeout_s=30)
    assert caught.value.status is Status.UNAVAILABLE and not closing.done()
    one.held.calls[0].reply(b"after the farewell")
    assert await open_call == b"after the farewell"
    async with asyncio.timeout(30):
        await closing
    await channel.close()


async def test_a_stream_that_crosses_the_farewell_is_refused(serving) -> None:
    one = await serving()
    reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
    writer.write(frames.PREFACE + frames.settings({}) + headers(1))
    await one.until(lambda: one.server.statistics().open_calls == 1)
    closing = asyncio.ensure_future(one.server.close(grace_s=0.5))
    await one.until(lambda: one.server.closing)
    writer.write(headers(3))
    got = b""
    async with asyncio.timeout(30):
        while chunk := await reader.read(10_000):
            got += chunk
    await closing
    seen = parse(got)
    assert (frames.RST_STREAM, 3, bytes((0, 0, 0, 7))) in seen
    assert any(kind == frames.GOAWAY and body[:4] == bytes((0, 0, 0, 1)) for kind, _, body in seen)
    writer.close()


async def test_clients_wait_for_a_place(serving) -> None:
    """At the server's limit of streams further calls wait, and each gets the place that becomes free, by an end or by giving up."""
    one = await serving(concurrent_streams_max=2)
    channel = Channel(f"127.0.0.1:{one.port}")
    await channel.unary("/a/B", b"", timeout_s=30)  # the SETTINGS are known now
    calls = [asyncio.ensure_future(channel.unary("/a/Held", b"", timeout_s=20)) for _ in range(2)]
    await one.until(lambda: len(one.held.calls) == 2)
    waiting = [asyncio.ensure_future(channel.unary("/a/B", b"mine", timeout_s=20)) for _ in range(5)]
    await asyncio.sleep(0)
    assert not any(call.done() for call in waiting)
    one.held.calls[0].reply(b"")
    async with asyncio.timeout(30):
        assert [await call for call in waiting] == [b"mine"] * 5
    again = asyncio.ensure_future(channel.unary("/a/Held", b"", timeout_s=20))
    await one.until(lambda: len(one.held.calls) == 3)
    last = asyncio.ensure_future(channel.unary("/a/B", b"last", timeout_s=20))
    await asyncio.sleep(0)
    again.cancel()
    async with asyncio.timeout(30):
        assert await last == b"last"
    calls[1].cancel()
    assert one.server.failures == {}
    await channel.close()


async def test_answers_that_a_client_does_not_want(serving) -> None:
    """The client's own limits: a message that is too large ends its call alone."""
    one = await serving()
    channel = Channel(f"127.0.0.1:{one.port}", limits=Limits(message_max_bytes=1_000))
    assert await channel.unary("/a/B", bytes(1_000), timeout_s=30) == bytes(1_000)
    with pytest.raises(RpcError) as caught:
        await channel.unary("/a/B", bytes(1_001), timeout_s=30)
    assert caught.value.status is Status.RESOURCE_EXHAUSTED and "1001" in caught.value.message
    assert await channel.unary("/a/B", b"fine", timeout_s=30) == b"fine"
    await channel.close()


async def test_a_client_notices_a_server_that_has_gone_silent() -> None:
    """Keepalive of the client role: the server takes the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        channel = Channel(f"127.0.0.1:{port}", keepalive_s=0.2, limits=Limits(keepalive_timeout_s=0.2))
        with pytest.raises(RpcError) as caught:
            await channel.unary("/a/B", b"", timeout_s=20)
        assert caught.value.status is Status.UNAVAILABLE and "keepalive" in caught.value.message
        await channel.close()


async def test_a_silent_watch_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A WatchJobs stream that says nothing within its time (10 s, fault F37) ends, and nothing of it is left."""
    from scheduler.metrics import RpcStatistics
    from scheduler.rpc.watch import Watch

    assert watch_room.FIRST_MESSAGE_TIMEOUT_S == 10.0
    monkeypatch.setattr(watch_room, "FIRST_MESSAGE_TIMEOUT_S", 0.2)
    watch = Watch(hub=None, authorizer=None, statistics=RpcStatistics())
    method = next(iter(watch.methods().values()))
    assert isinstance(method, Streaming)
    server = Server(methods={"/a/W": method})
    shell = connected(server)
    from scheduler.http2.headers import HeaderDecoder, encode_block

    shell.data_received(headers(1, block=encode_block(fields("/a/W"))) + data(1, b"\0\0\0\0\x05ab"))
    assert len(watch.open) == 1
    async with asyncio.timeout(30):
        while watch.open:
            await asyncio.sleep(0.01)
    shell._flush()
    block = next(body for kind, _, body in shell.transport.taken() if kind == frames.HEADERS)
    answer = dict(HeaderDecoder(1 << 14, hard_max_bytes=1 << 14).decode(block))
    assert answer["grpc-status"] == str(int(Status.DEADLINE_EXCEEDED)) and "initial" in answer["grpc-message"]
    assert not shell.connection.streams and shell.connection.held_bytes == 0
