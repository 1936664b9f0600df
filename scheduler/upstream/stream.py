"""WatchJobs streams from the receiving side (sidecar-and-jobs-api.md 4.4): triggers in, answers out, made again whenever they end."""

import asyncio
import random
from typing import Protocol

from scheduler.http2.client import Channel
from scheduler.http2.client_call import ClientCall
from scheduler.http2.grpc import RpcError, frame_message
from scheduler.logs import get_logger

_METHOD = "/dapr.proto.scheduler.v1.Scheduler/WatchJobs"
_RECONNECT_S = (0.25, 0.75)
_CLOSE_TIMEOUT_S = 1.0
_WORTH_A_LINE_S = 5.0

_log = get_logger("upstream.stream")


class Receiver(Protocol):
    """Who gets the triggers; both methods are called synchronously from the loop."""

    def take(self, session: "Session", message: bytes) -> None:
        """A trigger (a serialised WatchJobsResponse); to be answered once, by `session.acknowledge`."""

    def lost(self, session: "Session") -> None:
        """The session has ended: what it brought and is not answered goes back to the scheduler."""


def result_message(trigger_id: int, *, succeeded: bool) -> bytes:
    """A WatchJobsRequest with one result, by hand: field 2, holding the id and, where it failed, the status."""
    body = bytearray(b"\x08")
    number = trigger_id
    while number > 0x7F:
        body.append(number & 0x7F | 0x80)
        number >>= 7
    body.append(number)
    if not succeeded:
        body += b"\x10\x01"
    return b"\x12" + bytes((len(body),)) + body


class Session:
    """One WatchJobs call from its start to its end; an answer belongs to the session that brought the trigger."""

    __slots__ = ("_answers", "_call", "_loop", "_receiver", "ended", "error", "host")

    def __init__(self, channel: Channel, initial: bytes, receiver: Receiver) -> None:
        """Opens the call and sends the first message."""
        self.host = channel.target
        self.ended = asyncio.Event()
        self.error: RpcError | None = None
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._answers: list[bytes] = []
        self._call: ClientCall = channel.stream(_METHOD, self)
        self._call.send(initial)

    def acknowledge(self, trigger_id: int, *, succeeded: bool) -> None:
        """Answer a trigger; the answers of one turn of the loop leave together. A session that has ended drops it: the scheduler knows."""
        if not self.ended.is_set():
            if not self._answers:
                self._loop.call_soon(self._flush)
            self._answers.append(frame_message(result_message(trigger_id, succeeded=succeeded)))

    def _flush(self) -> None:
        answers, self._answers = self._answers, []
        if answers:
            self._call.send_framed(b"".join(answers))

    async def close(self) -> None:
        """Send what is answered, then end the call; it has ended when this returns."""
        self._flush()
        self._call.half_close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self.ended.wait()
        except TimeoutError:
            self._call.cancel()

    # The call's sink

    def on_message(self, message: bytes) -> None:
        """A trigger."""
        self._receiver.take(self, message)

    def on_half_close(self) -> None:
        """Part of the end."""

    def on_writable(self) -> None:
        """Answers are small: nothing waits for room."""

    def on_closed(self, error: RpcError | None) -> None:
        """The end."""
        self.error = error
        self.ended.set()
        self._receiver.lost(self)


class JobStream:
    """A stream to one host, on a connection of its own, until it is closed."""

    def __init__(self, channel: Channel, initial: bytes, receiver: Receiver, rng: random.Random) -> None:
        """Made by `Schedulers`; the channel is the stream's to close."""
        self._channel = channel
        self._initial = initial
        self._receiver = receiver
        self._rng = rng
        self._task: asyncio.Task[None] | None = None

    def start(self, tasks: asyncio.TaskGroup, name: str) -> None:
        """Begin; the task belongs to the group."""
        self._task = tasks.create_task(self._run(), name=name)

    def close(self) -> None:
        """End the stream for good; what is in flight goes back to the scheduler."""
        if self._task is not None:
            self._task.cancel()

    @property
    def connected(self) -> bool:
        """Whether the stream's connection stands."""
        return self._channel.connected

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        log = _log.warning
        session: Session | None = None
        try:
            while True:
                began_s = loop.time()
                session = Session(self._channel, self._initial, self._receiver)
                await session.ended.wait()
                # The end of a stream is worth a line; the vain attempts of one that is away are not.
                log = _log.warning if loop.time() - began_s > _WORTH_A_LINE_S else log
                log("stream_ended", host=self._channel.target, error=str(session.error))
                log = _log.debug
                session = None
                await asyncio.sleep(self._rng.uniform(*_RECONNECT_S))
        except asyncio.CancelledError:
            if session is not None:
                await session.close()
            raise
        finally:
            await self._channel.close()
