"""The server role: listeners, accepted connections and their limits; the calls themselves are in `call`."""

import asyncio
import socket
import ssl
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.exposition import Histogram
from scheduler.http2.call import Call, Method, Peer
from scheduler.http2.connection import Connection
from scheduler.http2.door import Door
from scheduler.http2.frames import ErrorCode
from scheduler.http2.grpc import RpcError, Status
from scheduler.http2.limits import Limits
from scheduler.http2.stream import Stream
from scheduler.http2.transport import Shell, speaks_http2
from scheduler.metrics import DURATION_BOUNDS_S

# What one connection may have us do in one turn of the loop; asyncio would read 256 KiB at once. With TLS see `door`.
_READ_BYTES = 8 << 10
# asyncio takes its backlog as the number of connections to accept in one turn, too: a thousand would hold up everybody.
_ACCEPTS, _BACKLOG = 16, 4_096
# Each connection is looked at once a second, a tenth of them at a time: so many pings at once would hold up calls.
_MAINTENANCE_S, _MAINTENANCE_SLICES = 0.1, 10


class _ServerShell(Shell):
    """One accepted connection."""

    def __init__(self, server: "Server") -> None:
        super().__init__()
        self.server = server
        self.loop = self._loop
        self.peer = Peer("")
        self.accepted_s = self._loop.time()
        self.connection = Connection(
            client=False,
            limits=server.limits,
            make_stream=self._make_call,
            on_output=self.output_waiting,
            on_idle_output=self.idle_output_waiting,
            on_refusal=server.count_failure,
        )

    def _make_call(self, connection: Connection, stream_id: int) -> Stream:
        self.server.calls += 1
        return Call(connection, stream_id, self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), transport
        if not speaks_http2(transport) or self.server.closing:
            transport.close()
            return
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = _READ_BYTES
        self.peer = Peer(self.peer_address(), self.peer_chain())
        if (refusal := self.server.admit(self)) is not None:
            self.server.count_failure(refusal)
            self.transport = None
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.server.dismiss(self)
        super().connection_lost(exc)

    def held_changed(self, change: int) -> None:
        self.server.hold(change)

    def maintain(self, now_s: float, limits: Limits) -> None:
        """Once a second: a client that never speaks HTTP/2 goes, a silent one is pinged, what does not come to an end is ended."""
        connection = self.connection
        connection.now_s = max(connection.now_s, now_s)
        if not connection.settings_seen:
            if now_s - self.accepted_s > limits.handshake_timeout_s:
                self.abort("handshake", "no HTTP/2 settings in time")
            return
        for stream in connection.stalled(now_s - limits.send_stall_timeout_s):
            self.server.count_failure("stalled reader")
            text = f"next to nothing was read for {limits.send_stall_timeout_s:.0f} s"
            connection.reset(stream, ErrorCode.CANCEL)
            stream.broken(RpcError(Status.RESOURCE_EXHAUSTED, text))
        for call in list(connection.streams.values()):
            if now_s - call.opened_s > limits.request_timeout_s and isinstance(call, Call) and call.incomplete:
                self.server.count_failure("slow request")
                text = f"the request was not complete within {limits.request_timeout_s:.0f} s"
                call.broken(RpcError(Status.DEADLINE_EXCEEDED, text))
        self.keep_alive(now_s, limits.keepalive_idle_s, limits.keepalive_timeout_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatistics:
    """A snapshot for metrics."""

    connections: int
    open_calls: int
    calls: int
    failures: dict[str, int]
    started: Mapping[str, int]
    ends: Mapping[tuple[str, int], int]
    seconds: Mapping[str, Histogram]


class Server:
    """Serves `methods` (full path to method) on any number of listeners."""

    def __init__(
        self,
        *,
        methods: Mapping[str, Method],
        limits: Limits | None = None,
        on_error: Callable[[str, BaseException], None] | None = None,
    ) -> None:
        """`on_error(path, exception)` hears of handlers that raised what they should not."""
        self.methods = dict(methods)
        self.limits = limits or Limits()
        self.on_error = on_error or (lambda _path, _error: None)
        self.shells: set[_ServerShell] = set()
        self.closing = False
        self.calls = 0
        self.failures: dict[str, int] = {}
        # Of methods that there are: calls begun, how long unary calls took that were answered, and how other calls ended.
        self.started: Counter[str] = Counter()
        self.seconds: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(DURATION_BOUNDS_S))
        self.ends: Counter[tuple[str, int]] = Counter()
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._maintenance: asyncio.TimerHandle | None = None
        self._to_maintain: list[_ServerShell] = []
        self._handshakes = 0
        # What all peers together make us hold.
        self.held_bytes = 0
        # Connections by certificate, of those that show one.
        self._certificates: Counter[bytes] = Counter()

    def admit(self, shell: "_ServerShell") -> str | None:
        """Take a connection in; else say which limit is reached."""
        chain = shell.peer.chain
        if len(self.shells) >= self.limits.connections_max:
            return "too many connections"
        if chain and self._certificates[chain[0]] >= self.limits.connections_per_certificate_max:
            return "too many connections of one certificate"
        self.shells.add(shell)
        if chain:
            self._certificates[chain[0]] += 1
        return None

    def dismiss(self, shell: "_ServerShell") -> None:
        """A connection has gone."""
        if shell in self.shells:
            self.shells.discard(shell)
            for leaf in shell.peer.chain[:1]:
                self._certificates[leaf] -= 1
                if not self._certificates[leaf]:
                    del self._certificates[leaf]

    def handshake_begins(self) -> bool:
        """Whether another TLS handshake may begin; `handshake_ended` must follow."""
        if self.closing or self._handshakes >= self.limits.handshakes_max:
            self.count_failure("too many handshakes")
            return False
        self._handshakes += 1
        return True

    def handshake_ended(self, *, done: bool) -> None:
        """A TLS handshake is done, or was given up."""
        self._handshakes -= 1
        if not done:
            self.count_failure("tls handshake")

    def hold(self, change: int) -> None:
        """A connection holds more, or less; past the limit of all the one that holds the most goes."""
        self.held_bytes += change
        if change > 0 and self.held_bytes > self.limits.held_total_max_bytes:
            largest = max(self.shells, key=lambda shell: shell.held_bytes)
            largest.abort(
                "most held", f"{largest.held_bytes} bytes were not read or completed, more than anybody else's"
            )

    def count_failure(self, reason: str) -> None:
        """A connection or call that was refused or ended for what its peer did, for metrics."""
        self.failures[reason] = self.failures.get(reason, 0) + 1

    def spawn(self, work: Any, *, name: str) -> asyncio.Task[None]:
        """A task that lives at most as long as the server."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def listen(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> int:
        """Listen on a TCP address (port 0: any free one) and return the bound port. Raises OSError."""
        timeout_s = self.limits.handshake_timeout_s

        def accept() -> asyncio.BaseProtocol:
            return Door(self, tls, timeout_s, lambda: _ServerShell(self)) if tls else _ServerShell(self)

        server = await asyncio.get_running_loop().create_server(accept, host, port, backlog=_ACCEPTS)
        self._started(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def listen_unix(self, path: str) -> None:
        """Listen on a Unix socket. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._started(await loop.create_unix_server(lambda: _ServerShell(self), path, backlog=_ACCEPTS))

    def _started(self, server: asyncio.Server) -> None:
        for one in server.sockets:
            with socket.fromfd(one.fileno(), one.family, one.type) as listener:
                listener.listen(_BACKLOG)
        self._servers.append(server)
        if self._maintenance is None:
            self._maintain()

    def _maintain(self) -> None:
        loop = asyncio.get_running_loop()
        self._maintenance = loop.call_later(_MAINTENANCE_S, self._maintain)
        if not self._to_maintain:
            self._to_maintain = list(self.shells)
        now_s = loop.time()
        for _ in range(len(self.shells) // _MAINTENANCE_SLICES + 1):
            if not self._to_maintain:
                return
            shell = self._to_maintain.pop()
            if shell in self.shells:
                shell.maintain(now_s, self.limits)

    def stop_accepting(self) -> None:
        """Close the listeners; connections stay."""
        servers, self._servers = self._servers, []
        for server in servers:
            server.close()

    async def close(self, *, grace_s: float) -> None:
        """Say GOAWAY, let open calls end within `grace_s`, then end what is left with UNAVAILABLE."""
        self.closing = True
        self.stop_accepting()
        loop = asyncio.get_running_loop()
        end = loop.time() + grace_s
        for shell in list(self.shells):
            shell.connection.go_away(text="the server is shutting down")
        while any(shell.connection.streams for shell in self.shells) and loop.time() < end:  # noqa: ASYNC110 - bounded, once per life
            await asyncio.sleep(0.01)
        for shell in list(self.shells):
            for stream in list(shell.connection.streams.values()):
                stream.broken(RpcError(Status.UNAVAILABLE, "the server is shutting down"))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for shell in list(self.shells):
            if shell.transport is not None:
                shell.transport.close()
        if self._maintenance is not None:
            self._maintenance.cancel()
        while self.shells and loop.time() < end + 1.0:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
        for shell in list(self.shells):
            if shell.transport is not None:
                shell.transport.abort()

    def statistics(self) -> ServerStatistics:
        """How things stand."""
        return ServerStatistics(
            connections=len(self.shells),
            open_calls=sum(len(shell.connection.streams) for shell in self.shells),
            calls=self.calls,
            failures=dict(self.failures),
            started=self.started,
            ends=self.ends,
            seconds=self.seconds,
        )
