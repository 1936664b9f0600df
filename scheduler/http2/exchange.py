"""A plain HTTP request on a channel, for peers that speak HTTP/2 and not gRPC; of the answer only the status matters."""

import asyncio
from collections.abc import Mapping

from scheduler.http2 import frames
from scheduler.http2.client import Channel
from scheduler.http2.connection import Connection
from scheduler.http2.frames import ErrorCode
from scheduler.http2.grpc import RpcError, Status
from scheduler.http2.headers import Headers, encode_block
from scheduler.http2.stream import Stream


async def exchange(channel: Channel, method: str, path: str, headers: Mapping[str, str], body: bytes) -> int:
    """The status of one request, without a time limit. Raises RpcError where there is no answer. Cancelling it resets the stream."""
    fields: Headers = [
        (":method", method),
        (":scheme", "http"),
        (":authority", channel.authority),
        (":path", path),
        *headers.items(),
        ("content-length", str(len(body))),
    ]
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    request = _Request(encode_block(fields), body, future)
    channel.place(request)
    try:
        return await future
    except asyncio.CancelledError:
        channel.forget(request)
        request.cancel()
        raise


class _Request(Stream):
    """One request; it may be made before the connection is there."""

    __slots__ = ("_block", "_body", "_future", "_status")

    wait_for_ready = False

    def __init__(self, block: bytes, body: bytes, future: asyncio.Future[int]) -> None:
        # The Stream part is set up when there is a connection (`attach`).
        self.id = 0
        self._block = block
        self._body = body
        self._future = future
        self._status = 0

    def attach(self, connection: Connection) -> None:
        """The connection is there: everything goes out."""
        connection.open_stream(self._numbered)
        connection.write(frames.head(len(self._block), frames.HEADERS, frames.END_HEADERS, self.id) + self._block)
        if self._body:
            connection.send_data(self, self._body)
        connection.end_stream(self, frames.head(0, frames.DATA, frames.END_STREAM, self.id))

    def _numbered(self, connection: Connection, stream_id: int) -> Stream:
        Stream.__init__(self, connection, stream_id)
        self.deaf = True  # the answer's body is nobody's
        return self

    def cancel(self) -> None:
        """Nobody waits any more."""
        if self.id:
            self.connection.reset(self, ErrorCode.CANCEL)

    def headers_received(self, headers: Headers, *, ended: bool) -> None:  # noqa: ARG002 - the base class's contract
        """The status, or trailers; interim answers are passed over."""
        status = dict(headers).get(":status", "")
        if status.isdigit() and int(status) >= 200:
            self._status = int(status)

    def message_received(self, message: bytes) -> None:
        """Never: a deaf stream has no messages."""

    def remote_ended(self) -> None:
        """The answer is complete."""
        if not self._status:
            self.broken(RpcError(Status.INTERNAL, "the answer has no status"))
        elif not self._future.done():
            self._future.set_result(self._status)
        if not self.local_done or self.pending:
            self.cancel()

    def broken(self, error: RpcError) -> None:
        """There will be no answer."""
        if not self._future.done():
            self._future.set_exception(error)

    def writable(self) -> None:
        """Everything has been handed over already."""
