"""The sidecar's connections to the schedulers (sidecar-and-jobs-api.md 4): the host list, unary calls in turn, streams to every host."""

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.http2.client import Channel, ClientCall
from scheduler.http2.grpc import RpcError, Status
from scheduler.http2.limits import Limits
from scheduler.logs import get_logger

_SERVICE = "/dapr.proto.scheduler.v1.Scheduler"
_LIMITS = Limits(message_max_bytes=(1 << 31) - 1)
CALL_TIMEOUT_S = 30.0
_RECONNECT_S = (0.25, 0.75)
_HOSTS_RETRY_S = 1.0

_log = get_logger("sidecar.schedulers")

OnTrigger = Callable[["JobStream", bytes], None]


class Schedulers:
    """Follows WatchHosts, makes unary calls, keeps streams open while `watch` says so."""

    def __init__(
        self, *, addresses: tuple[str, ...], streams_per_host: int, on_trigger: OnTrigger, rng: random.Random
    ) -> None:
        """`on_trigger(stream, message)` gets each trigger as it comes from the wire."""
        self._addresses = addresses
        self._streams_per_host = streams_per_host
        self._on_trigger = on_trigger
        self._rng = rng
        self.hosts: tuple[str, ...] = ()
        self.hosts_known = asyncio.Event()
        self._unary: list[Channel] = []
        self._turn = 0
        self._initial: bytes | None = None
        self._streams: dict[str, list[JobStream]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def disabled(self) -> bool:
        """No scheduler is configured."""
        return not self._addresses

    @property
    def stream_count(self) -> int:
        """Streams that stand."""
        return sum(stream.connected for streams in self._streams.values() for stream in streams)

    async def run(self) -> None:
        """Follow the host list until cancelled."""
        if self.disabled:
            _log.warning("scheduler_disabled", hint="no --scheduler-host-address")
            self.hosts_known.set()
            return
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                while True:
                    await self._follow(self._rng.choice(self._addresses))
        finally:
            self._tasks = None
            for channel in self._unary:
                await channel.close()

    async def _follow(self, address: str) -> None:
        """One WatchHosts stream: each list is taken as it comes. A new list from the same stream needs no new connection."""
        channel = Channel(address, limits=_LIMITS, keepalive_s=10.0, rng=self._rng)
        sink = _QueueSink()
        call = channel.stream(f"{_SERVICE}/WatchHosts", sink)
        call.send(pb.WatchHostsRequest().SerializeToString())
        call.half_close()
        try:
            while True:
                item = await sink.queue.get()
                if isinstance(item, bytes):
                    hosts = pb.WatchHostsResponse.FromString(item).hosts
                    await self._use(tuple(host.address for host in hosts))
                    continue
                if isinstance(item, RpcError) and item.status is Status.UNIMPLEMENTED:
                    await self._use(self._addresses)
                    await asyncio.get_running_loop().create_future()
                _log.debug("watch_hosts_ended", address=address, error=str(item))
                await asyncio.sleep(_HOSTS_RETRY_S * self._rng.uniform(0.5, 1.5))
                return
        finally:
            call.cancel()
            await channel.close()

    async def _use(self, hosts: tuple[str, ...]) -> None:
        """Take a host list; one with the same hosts disturbs nothing."""
        self.hosts_known.set()
        if set(hosts) == set(self.hosts):
            return
        _log.info("scheduler_hosts", hosts=",".join(hosts))
        old, self._unary = (
            self._unary,
            [Channel(host, limits=_LIMITS, keepalive_s=10.0, rng=self._rng) for host in hosts],
        )
        self.hosts = hosts
        self._arrange()
        for channel in old:
            await channel.close()

    # Unary calls

    async def call(self, method: str, request: Message, *, wait_for_ready: bool) -> bytes:
        """One RPC, on the hosts in turn; a scheduler that is leaving (CANCELLED) sends us to the next. Raises RpcError."""
        if self.disabled:
            raise RpcError(Status.INTERNAL, "scheduler clients are disabled")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CALL_TIMEOUT_S
        try:
            async with asyncio.timeout_at(deadline):
                await self.hosts_known.wait()
        except TimeoutError:
            raise RpcError(Status.INTERNAL, "context deadline exceeded") from None
        data = request.SerializeToString()
        while True:
            if not self._unary:
                raise RpcError(Status.INTERNAL, "no scheduler client initialized")
            self._turn += 1
            channel = self._unary[self._turn % len(self._unary)]
            try:
                return await channel.unary(
                    f"{_SERVICE}/{method}", data, timeout_s=deadline - loop.time(), wait_for_ready=wait_for_ready
                )
            except RpcError as error:
                if error.status is not Status.CANCELLED or loop.time() > deadline - 1:
                    raise
            await asyncio.sleep(self._rng.uniform(0.125, 0.375))

    # Streams

    def watch(self, initial: bytes | None) -> None:
        """Keep streams with this first message open to every host; None closes them all."""
        if initial != self._initial:
            self._initial = initial
            for streams in self._streams.values():
                for stream in streams:
                    stream.close()
            self._streams.clear()
            self._arrange()

    def _arrange(self) -> None:
        wanted = self.hosts if self._initial is not None else ()
        for host in [host for host in self._streams if host not in wanted]:
            for stream in self._streams.pop(host):
                stream.close()
        if self._tasks is None or self._initial is None:
            return
        for host in wanted:
            if host not in self._streams:
                streams = [
                    JobStream(host, self._initial, self._on_trigger, self._rng) for _ in range(self._streams_per_host)
                ]
                self._streams[host] = streams
                for number, stream in enumerate(streams):
                    stream.task = self._tasks.create_task(stream.run(), name=f"stream {number} to {host}")


class JobStream:
    """One WatchJobs stream to one host, made again whenever it ends."""

    def __init__(self, host: str, initial: bytes, on_trigger: OnTrigger, rng: random.Random) -> None:
        """Made by `Schedulers`."""
        self.host = host
        self._initial = initial
        self._on_trigger = on_trigger
        self._rng = rng
        self._call: ClientCall | None = None
        self._ended = asyncio.Event()
        self.connected = False
        self.task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Stay connected until closed."""
        with contextlib.suppress(asyncio.CancelledError):
            await self._run()

    async def _run(self) -> None:
        channel = Channel(self.host, limits=_LIMITS, keepalive_s=10.0, rng=self._rng)
        try:
            while True:
                self._ended.clear()
                self._call = channel.stream(f"{_SERVICE}/WatchJobs", self)
                self._call.send(self._initial)
                self.connected = True
                await self._ended.wait()
                self.connected = False
                self._call = None
                await asyncio.sleep(self._rng.uniform(*_RECONNECT_S))
        finally:
            if self._call is not None:
                self._call.cancel()
            await channel.close()

    def close(self) -> None:
        """End the stream for good; what is in flight goes back to the scheduler."""
        if self.task is not None:
            self.task.cancel()

    def acknowledge(self, call: Any, trigger_id: int, *, succeeded: bool) -> None:
        """Answer a trigger on the stream that brought it; a stream that is gone has told the scheduler already."""
        if call is self._call and self._call is not None:
            status = pb.SUCCESS if succeeded else pb.FAILED
            result = pb.WatchJobsRequestResult(id=trigger_id, status=status)
            self._call.send(pb.WatchJobsRequest(result=result).SerializeToString())

    @property
    def call(self) -> Any:
        """The call that stands now: an answer belongs to it alone."""
        return self._call

    def on_message(self, message: bytes) -> None:
        """A trigger."""
        self._on_trigger(self, message)

    def on_half_close(self) -> None:
        """Part of the end."""

    def on_writable(self) -> None:
        """Answers are small: nothing waits for room."""

    def on_closed(self, error: RpcError | None) -> None:
        """The stream ended."""
        _log.debug("stream_ended", host=self.host, error=str(error))
        self._ended.set()


class _QueueSink:
    """Messages and the end, for a coroutine."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | RpcError | None] = asyncio.Queue()

    def on_message(self, message: bytes) -> None:
        self.queue.put_nowait(message)

    def on_half_close(self) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, error: RpcError | None) -> None:
        self.queue.put_nowait(error)
