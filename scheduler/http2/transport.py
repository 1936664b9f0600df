"""The asyncio shell of a connection: a Protocol that feeds bytes in and writes what comes out, one write per turn of the loop."""

import asyncio
import ssl
import threading
from typing import Any

from scheduler.http2.connection import Connection

_WRITE_HIGH_BYTES = 1 << 20
# grpc-go sends a bandwidth probe with nearly every read; each answer by itself would double our writes.
_IDLE_OUTPUT_S = 0.004


class _ReadBuffers(threading.local):
    """One buffer of each size for all connections of a loop: asyncio hands each read over before the next one begins."""

    def __init__(self) -> None:
        self.by_size: dict[int, memoryview] = {}


_read_buffers = _ReadBuffers()


class Shell(asyncio.BufferedProtocol):
    """Base of both roles' protocols. Subclasses set `connection` before the transport is made."""

    connection: Connection

    def __init__(self) -> None:
        """Nothing happens before `connection_made`."""
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self._flush_scheduled = False
        self.last_received_s = self._loop.time()
        self.ping_sent_s: float | None = None
        # What the peer makes us hold, as `held_changed` has told last.
        self.held_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's: the socket is there; our preface and settings go out."""
        assert isinstance(transport, asyncio.Transport), transport
        self.transport = transport
        transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        self.output_waiting()

    def output_waiting(self) -> None:
        """The connection has output: write it at the end of this turn, with whatever else comes up."""
        if not self._flush_scheduled and self.transport is not None:
            self._flush_scheduled = True
            self._loop.call_soon(self._flush)

    def idle_output_waiting(self) -> None:
        """The connection has output that is in no hurry: it leaves with the next that is, or soon by itself."""
        self._loop.call_later(_IDLE_OUTPUT_S, self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        transport = self.transport
        if transport is None:
            return
        output = self.connection.take_output()
        if output and not transport.is_closing():
            # A view: of what the socket does not take at once asyncio keeps a slice, which is no copy then.
            transport.write(memoryview(output))
        connection = self.connection
        if connection.failed is not None:
            transport.close()
        elif connection.paused or connection.held_bytes != self.held_bytes:
            self._look_at_held(transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's contract
        """asyncio's: where the next read goes. A view, since asyncio's TLS reads into slices of it."""
        size = self.connection.limits.read_bytes
        buffer = self._buffer = _read_buffers.by_size.get(size) or _read_buffers.by_size.setdefault(
            size, memoryview(bytearray(size))
        )
        return buffer

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio's: so much has been read."""
        self.data_received(bytes(self._buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        connection = self.connection
        now_s = self.last_received_s = self._loop.time()
        self.ping_sent_s = None
        connection.receive(data, now_s)
        if connection.held_bytes != self.held_bytes and self.transport is not None:
            self._look_at_held(self.transport)

    def _look_at_held(self, transport: asyncio.Transport) -> None:
        connection = self.connection
        unread = transport.get_write_buffer_size() if connection.paused else 0
        change = connection.held_bytes + unread - self.held_bytes
        self.held_bytes += change
        if unread > connection.limits.unread_frames_max_bytes:
            self.abort("unread output", f"{unread} bytes of output are not read")
        self.held_changed(change)

    def held_changed(self, change: int) -> None:
        """What the peer makes us hold has grown or shrunk by so many bytes."""

    def abort(self, reason: str, text: str) -> None:
        """End the connection at once, without a word to the peer; `reason` is counted."""
        if self.transport is not None and self.connection.failed is None:
            self.connection.failed = text
            self.connection.refused(reason)
            self.transport.abort()

    def pause_writing(self) -> None:
        """asyncio's: the socket is full."""
        self.connection.paused = True

    def resume_writing(self) -> None:
        """asyncio's: the socket has drained."""
        self.connection.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's: the socket is gone; every open call hears of it."""
        self.transport = None
        self.held_changed(-self.held_bytes)
        self.held_bytes = 0
        reason = self.connection.failed or (f"connection lost: {exc}" if exc else "connection closed by the peer")
        self.connection.lost(reason)

    def keep_alive(self, now_s: float, idle_s: float, timeout_s: float) -> None:
        """Ping a connection that has been silent, and drop one that does not answer."""
        if self.transport is None:
            return
        if self.ping_sent_s is not None:
            if now_s - self.ping_sent_s >= timeout_s:
                if self.connection.failed is None:
                    self.abort("keepalive", "keepalive ping was not answered")
                self.transport.abort()
        elif now_s - self.last_received_s >= idle_s:
            self.ping_sent_s = now_s
            self.connection.ping()

    def peer_certificate(self) -> bytes | None:
        """The peer's leaf certificate (DER); None without TLS or without one."""
        tls: Any = self.transport.get_extra_info("ssl_object") if self.transport else None
        if tls is None:
            return None
        certificate: bytes | None = tls.getpeercert(binary_form=True)
        return certificate

    def peer_chain(self) -> tuple[bytes, ...]:
        """All certificates that the peer has shown (DER), the leaf first."""
        tls: Any = self.transport.get_extra_info("ssl_object") if self.transport else None
        if tls is None:
            return ()
        if hasattr(tls, "get_unverified_chain"):  # Python 3.13
            return tuple(tls.get_unverified_chain() or ())
        chain = tls._sslobj.get_unverified_chain()  # noqa: SLF001 - the only way before 3.13
        return tuple(ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in chain or ())

    def peer_address(self) -> str:
        """Who is at the other end, for logs."""
        name: Any = self.transport.get_extra_info("peername") if self.transport else None
        if isinstance(name, tuple) and len(name) >= 2:
            return f"[{name[0]}]:{name[1]}" if ":" in str(name[0]) else f"{name[0]}:{name[1]}"
        return f"unix:{name}" if name else "unix:"


def speaks_http2(transport: asyncio.BaseTransport) -> bool:
    """Whether TLS, if there is any, has agreed on h2."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return tls is None or tls.selected_alpn_protocol() == "h2"
