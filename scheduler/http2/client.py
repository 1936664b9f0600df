"""The client role: a channel to one target, one connection at a time, made when it is needed and made again when it is lost."""

import asyncio
import random
import ssl
from collections.abc import Callable
from typing import Protocol

from scheduler.http2.call import Sink
from scheduler.http2.client_call import ClientCall, UnarySink
from scheduler.http2.connection import Connection
from scheduler.http2.grpc import Metadata, RpcError, Status, format_timeout
from scheduler.http2.headers import encode_block, encode_field
from scheduler.http2.limits import Limits
from scheduler.http2.transport import Shell, speaks_http2

_BACKOFF_FIRST_S, _BACKOFF_FACTOR, _BACKOFF_MAX_S, _BACKOFF_JITTER = 0.5, 1.6, 3.0, 0.2
_CONNECT_TIMEOUT_S = 5.0
_GOODBYE_S = 0.1


class ConnectError(RpcError):
    """UNAVAILABLE, and the call surely never left this process."""

    def __init__(self, target: str, problem: str) -> None:
        """`problem` is what came of connecting to `target`."""
        super().__init__(Status.UNAVAILABLE, f"cannot connect to {target}: {problem}")
        self.target = target


class Waiter(Protocol):
    """What waits for a connection: a call, or whatever else wants one."""

    @property
    def wait_for_ready(self) -> bool:
        """Whether it goes on waiting when connecting fails."""

    def attach(self, connection: Connection) -> None:
        """The connection is there."""

    def broken(self, error: RpcError) -> None:
        """There will be none."""


class _Probe:
    """Waits for a connection as a call does, and wants nothing of it."""

    __slots__ = ("__weakref__", "future")

    wait_for_ready = True

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future

    def attach(self, _connection: Connection) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def broken(self, error: RpcError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _ClientShell(Shell):
    """One of the channel's connections."""

    def __init__(self, limits: Limits, channel: "Channel") -> None:
        super().__init__()
        self._channel = channel
        self.connection = Connection(client=True, limits=limits, make_stream=None, on_output=self.output_waiting)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._channel.heard(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel.lost(self)
        super().connection_lost(exc)


def parse_target(target: str) -> tuple[str, int]:
    """Host and port of "host:port" or "[v6]:port". Raises ValueError that says what is allowed."""
    host, colon, port = target.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536 or not host or "/" in host:
        raise ValueError(f"address {target!r} is not host:port (or [v6 address]:port, or unix:/path)")
    host = host.removeprefix("[").removesuffix("]")
    try:
        # As looking it up would do, which raises the same in the middle of connecting.
        host.encode("idna")
    except UnicodeError as error:
        raise ValueError(f"address {target!r}: its host cannot be a name") from error
    return host, int(port)


class Channel:
    """Calls to one target: "host:port" by name or address, or "unix:/path". All methods belong to one event loop."""

    def __init__(
        self,
        target: str,
        *,
        tls: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        server_hostname: str | None = None,
        check_server: Callable[[bytes], str | None] | None = None,
        limits: Limits | None = None,
        keepalive_s: float | None = None,
        rng: random.Random | None = None,
        user_agent: str = "scheduler-python",
    ) -> None:
        """Connects with the first call. `keepalive_s`: ping after so long without a byte from the server. Raises ValueError.

        `tls` may be a function, asked at each connection; `check_server` looks at the server's certificate (DER) and says what is wrong with it.
        """
        self.target = target
        self._address = None if target.startswith("unix:") else parse_target(target)
        self._tls = tls
        self._server_hostname = server_hostname
        self._check_server = check_server
        self._limits = limits or Limits()
        self._keepalive_s = keepalive_s
        self._rng = rng or random.Random()
        self._shell: _ClientShell | None = None
        # All connections, those that only finish their calls included.
        self._shells: set[_ClientShell] = set()
        self._waiting: dict[Waiter, None] = {}
        self._connecting: asyncio.Task[None] | None = None
        self._keepalive: asyncio.TimerHandle | None = None
        self._closed = False
        self.authority = "localhost" if self._address is None else target
        self._constant = encode_block(
            [(":method", "POST"), (":scheme", "https" if tls else "http"), (":authority", self.authority)]
        )
        self._trailing = encode_block(
            [("te", "trailers"), ("content-type", "application/grpc"), ("user-agent", user_agent)]
        )
        self._heads: dict[str, bytes] = {}
        self.last_error = "not connected yet"

    @property
    def connected(self) -> bool:
        """Whether a connection stands that takes new calls."""
        shell = self._shell
        return shell is not None and not shell.connection.closing and not shell.connection.peer_going_away

    @property
    def connection(self) -> Connection | None:
        """The connection that stands, to tell it from the next; None without one."""
        return self._shell.connection if self._shell is not None and self.connected else None

    async def unary(
        self,
        path: str,
        request: bytes,
        *,
        timeout_s: float | None,
        metadata: Metadata = (),
        wait_for_ready: bool = False,
    ) -> bytes:
        """One request, one answer. Raises RpcError. Cancelling the caller cancels the call."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        call = self._call(path, UnarySink(future), metadata, timeout_s, wait_for_ready=wait_for_ready)
        call.send(request)
        call.half_close()
        self.place(call)
        try:
            return await future
        except asyncio.CancelledError:
            call.cancel()
            raise

    def stream(
        self,
        path: str,
        sink: Sink,
        *,
        metadata: Metadata = (),
        timeout_s: float | None = None,
        wait_for_ready: bool = False,
    ) -> ClientCall:
        """A streaming call; whatever happens to it is told to the sink."""
        call = self._call(path, sink, metadata, timeout_s, wait_for_ready=wait_for_ready)
        self.place(call)
        return call

    def _call(
        self, path: str, sink: Sink, metadata: Metadata, timeout_s: float | None, *, wait_for_ready: bool
    ) -> ClientCall:
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = self._constant + encode_field(":path", path) + self._trailing
        if timeout_s is not None:
            head += encode_field("grpc-timeout", format_timeout(timeout_s))
        if metadata:
            head += encode_block(list(metadata))
        call = ClientCall(self, head, sink, wait_for_ready=wait_for_ready)
        if timeout_s is not None:
            call.start_timer(asyncio.get_running_loop(), timeout_s)
        return call

    def place(self, call: Waiter) -> None:
        """Give a call to the connection, now or as soon as there is one with room."""
        connection = self._with_room()
        if connection is not None and not self._waiting:
            call.attach(connection)
        elif self._closed:
            asyncio.get_running_loop().call_soon(call.broken, RpcError(Status.CANCELLED, "the channel is closed"))
        else:
            self._waiting[call] = None
            self._connect()

    def _with_room(self) -> Connection | None:
        """The connection, if it takes another call now."""
        if self._shell is None or not self.connected:
            return None
        connection = self._shell.connection
        if not connection.stream_ids_left:
            connection.go_away()
            return None
        return connection if len(connection.streams) < connection.peer_streams_max else None

    def _place_waiting(self) -> None:
        while self._waiting and (connection := self._with_room()) is not None:
            call = next(iter(self._waiting))
            del self._waiting[call]
            call.attach(connection)

    def forget(self, call: Waiter) -> None:
        """A call has been given up; where it had a place, another may have that."""
        if self._waiting:
            self._waiting.pop(call, None)
            asyncio.get_running_loop().call_soon(self._place_waiting)

    def heard(self, shell: _ClientShell) -> None:
        """Something has come from the server: there may be room for a call, or the last call of an old connection is over."""
        if self._waiting:
            self._place_waiting()
            self._connect()
        connection = shell.connection
        if (
            (connection.peer_going_away or connection.closing)
            and not connection.streams
            and shell.transport is not None
        ):
            shell.transport.close()

    def _connect(self) -> None:
        if self._connecting is None and self._waiting and not self.connected and not self._closed:
            self._connecting = asyncio.get_running_loop().create_task(
                self._connect_until_needless(), name=f"connect {self.target}"
            )

    async def _connect_until_needless(self) -> None:
        """Connect; on failure fail the calls that do not wait, and go on with growing pauses while others do."""
        backoff_s = _BACKOFF_FIRST_S
        try:
            while self._waiting and not self._closed and not self.connected:
                try:
                    async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                        self._shell = await self._open()
                except (OSError, TimeoutError, ssl.SSLError) as error:
                    failed = ConnectError(self.target, str(error) or type(error).__name__)
                    self.last_error = failed.message
                    for call in [call for call in self._waiting if not call.wait_for_ready]:
                        del self._waiting[call]
                        call.broken(failed)
                    if self._waiting:
                        jitter = 1 + self._rng.uniform(-_BACKOFF_JITTER, _BACKOFF_JITTER)
                        await asyncio.sleep(backoff_s * jitter)
                        backoff_s = min(_BACKOFF_MAX_S, backoff_s * _BACKOFF_FACTOR)
                    continue
                self._connected()
        finally:
            self._connecting = None

    async def _open(self) -> _ClientShell:
        loop = asyncio.get_running_loop()

        def make() -> _ClientShell:
            return _ClientShell(self._limits, self)

        if self._address is None:
            _, shell = await loop.create_unix_connection(make, self.target.removeprefix("unix:"))
            return shell
        host, port = self._address
        hostname = (self._server_hostname or host) if self._tls else None
        tls = self._tls() if callable(self._tls) else self._tls
        transport, shell = await loop.create_connection(make, host, port, ssl=tls, server_hostname=hostname)
        problem = None if speaks_http2(transport) else "the server does not speak HTTP/2 (no h2 by ALPN)"
        if problem is None and self._check_server is not None:
            problem = self._check_server(shell.peer_certificate() or b"")
        if problem is not None:
            transport.abort()
            raise OSError(problem)
        return shell

    def _connected(self) -> None:
        assert self._shell is not None
        self._shells.add(self._shell)
        self._place_waiting()
        if self._keepalive_s is not None and self._keepalive is None:
            self._keep_alive()

    def _keep_alive(self) -> None:
        assert self._keepalive_s is not None
        loop = asyncio.get_running_loop()
        self._keepalive = loop.call_later(min(1.0, self._keepalive_s), self._keep_alive)
        for shell in list(self._shells):
            shell.keep_alive(loop.time(), self._keepalive_s, self._limits.keepalive_timeout_s)

    def lost(self, shell: _ClientShell) -> None:
        """A connection is gone."""
        self._shells.discard(shell)
        if self._shell is shell:
            self._shell = None
            self.last_error = f"connection to {self.target} lost"

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until a connection stands. Raises RpcError UNAVAILABLE."""
        if self.connected:
            return
        probe = _Probe(asyncio.get_running_loop().create_future())
        self._waiting[probe] = None
        self._connect()
        try:
            async with asyncio.timeout(timeout_s):
                await probe.future
        except TimeoutError:
            raise RpcError(Status.UNAVAILABLE, self.last_error) from None
        finally:
            self._waiting.pop(probe, None)

    async def close(self) -> None:
        """Drop the connection; calls that are open end with CANCELLED."""
        self._closed = True
        if self._keepalive is not None:
            self._keepalive.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        closed = RpcError(Status.CANCELLED, "the channel is closed")
        waiting, self._waiting = list(self._waiting), {}
        for call in waiting:
            call.broken(closed)
        self._shell = None
        shells = list(self._shells)
        for shell in shells:
            for stream in list(shell.connection.streams.values()):
                stream.broken(closed)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for shell in shells:
            if shell.transport is not None:
                shell.transport.close()
        await self._gone()

    async def _gone(self) -> None:
        """Wait for the connections' ends, TLS says goodbye first; whoever does not answer is cut off."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _GOODBYE_S
        await asyncio.sleep(0)
        while self._shells and loop.time() < end:  # noqa: ASYNC110 - bounded, once per life
            await asyncio.sleep(0.005)
        for shell in list(self._shells):
            if shell.transport is not None:
                shell.transport.abort()
        await asyncio.sleep(0)
