"""The way in through TLS: a connection belongs to nobody until its handshake is done, and of such ones there are only so many."""

import asyncio
import ssl
from asyncio import sslproto
from collections.abc import Callable
from typing import Any, Protocol

from scheduler.http2.transport import Shell

# asyncio keeps a buffer of this size for each TLS connection as long as it lives, and reads as much in one turn. Its 256 KiB would be 500 MB for 2,000
# idle connections.
sslproto.SSLProtocol.max_size = 16 << 10
# How long a peer may take to answer our farewell.
_SHUTDOWN_S = 5.0


class Guard(Protocol):
    """What the door needs of its server."""

    def handshake_begins(self) -> bool:
        """Whether another connection may begin its handshake."""

    def handshake_ended(self, *, done: bool) -> None:
        """It is through, or was given up."""

    def spawn(self, work: Any, *, name: str) -> asyncio.Task[None]:
        """A task that lives at most as long as the server."""


class Door(asyncio.Protocol):
    """One accepted socket; `make_inner` gives the protocol that takes over after the handshake."""

    def __init__(self, guard: Guard, tls: ssl.SSLContext, timeout_s: float, make_inner: Callable[[], Shell]) -> None:
        """Made at accept."""
        self._guard = guard
        self._tls = tls
        self._timeout_s = timeout_s
        self._make_inner = make_inner

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's: not a byte is read before TLS is there to read it."""
        assert isinstance(transport, asyncio.Transport), transport
        if self._guard.handshake_begins():
            transport.pause_reading()
            self._guard.spawn(self._shake_hands(transport), name="TLS handshake")
        else:
            transport.abort()

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        hall = _Hall()
        inside: asyncio.Transport | None = None
        try:
            inside = await asyncio.get_running_loop().start_tls(
                transport,
                hall,
                self._tls,
                server_side=True,
                ssl_handshake_timeout=self._timeout_s,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            pass
        finally:
            self._guard.handshake_ended(done=inside is not None)
            if inside is None:
                transport.abort()
        if inside is not None:
            hall.lead_on(inside, self._make_inner())


class _Hall(asyncio.Protocol):
    """Keeps what arrives between the end of the handshake and the moment that the inner protocol is there."""

    def __init__(self) -> None:
        self._early: list[bytes] = []
        self._lost: list[Exception | None] = []

    def data_received(self, data: bytes) -> None:
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.append(exc)

    def lead_on(self, transport: asyncio.Transport, inner: Shell) -> None:
        if self._lost:
            return
        transport.set_protocol(inner)
        inner.connection_made(transport)
        for data in self._early:
            # It may have been turned away.
            if not transport.is_closing():
                inner.data_received(data)
