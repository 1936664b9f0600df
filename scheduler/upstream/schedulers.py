"""The connections to the schedulers (sidecar-and-jobs-api.md 4): the host list, unary calls in turn, streams to every host."""

import asyncio
import random

from google.protobuf.message import DecodeError, Message

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.http2.client import Channel, parse_target
from scheduler.http2.grpc import Metadata, RpcError, Status
from scheduler.http2.limits import Limits
from scheduler.logs import get_logger
from scheduler.upstream.security import Security
from scheduler.upstream.stream import JobStream, Receiver

SERVICE = "/dapr.proto.scheduler.v1.Scheduler"
CALL_TIMEOUT_S = 30.0
_LIMITS = Limits(message_max_bytes=(1 << 31) - 1)
_KEEPALIVE_S = 10.0
_HOSTS_RETRY_S = (0.5, 1.5)
# A scheduler sends its list as soon as it knows it; one that does not may know less than another.
_FIRST_LIST_TIMEOUT_S = 10.0
_LEAVING_PAUSE_S = (0.125, 0.375)

_log = get_logger("upstream")


class NoScheduler(RpcError):
    """The call never got as far as a scheduler, so its error has no gRPC code of one."""

    def __init__(self, message: str) -> None:
        """`message` is the reference's."""
        super().__init__(Status.INTERNAL, message)


class Schedulers:
    """Follows WatchHosts, makes unary calls, keeps streams open while `watch` says so."""

    def __init__(
        self,
        *,
        addresses: tuple[str, ...],
        streams_per_host: int,
        receiver: Receiver,
        rng: random.Random,
        security: Security | None = None,
    ) -> None:
        """`receiver` gets the triggers as they come from the wire. `security` None: plaintext. Raises ValueError for an address that is none."""
        for address in addresses:
            parse_target(address)
        self._addresses = addresses
        self._streams_per_host = streams_per_host
        self._receiver = receiver
        self._rng = rng
        self._security = security
        self.hosts: tuple[str, ...] = ()
        self.hosts_known = asyncio.Event()
        self._unary: dict[str, Channel] = {}
        self._turn = 0
        self._initial: bytes | None = None
        self._streams: dict[str, list[JobStream]] = {}
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def disabled(self) -> bool:
        """No scheduler is configured."""
        return not self._addresses

    @property
    def streams(self) -> list[JobStream]:
        """All streams that are wanted now."""
        return [stream for streams in self._streams.values() for stream in streams]

    def _channel(self, host: str) -> Channel:
        security = self._security
        return Channel(
            host,
            tls=security.tls if security else None,
            check_server=security.check_server if security else None,
            limits=_LIMITS,
            keepalive_s=_KEEPALIVE_S,
            rng=self._rng,
        )

    # The host list

    async def run(self) -> None:
        """Follow the host list until cancelled; then every stream has ended and every connection is closed."""
        if self.disabled:
            _log.warning("scheduler_disabled", hint="no --scheduler-host-address: jobs cannot be scheduled")
            self.hosts_known.set()
            return
        loop = asyncio.get_running_loop()
        failed = ""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._arrange()
                while True:
                    began_s = loop.time()
                    address = self._candidate(failed)
                    heard = await self._follow(address)
                    failed = address
                    if not heard or loop.time() - began_s < _HOSTS_RETRY_S[0]:
                        await asyncio.sleep(self._rng.uniform(*_HOSTS_RETRY_S))
        finally:
            self._tasks = None
            for channel in self._unary.values():
                await channel.close()

    def _candidate(self, failed: str) -> str:
        """Whom to ask for the list: a configured address; after a failure any other one, also of those in the list that we have."""
        others = [one for one in (*self._addresses, *self.hosts) if one != failed] if failed else self._addresses
        return self._rng.choice(others or self._addresses)

    async def _follow(self, address: str) -> bool:
        """One WatchHosts stream to its end, each list taken as it comes. Whether there was one."""
        channel = self._channel(address)
        sink = _QueueSink()
        call = channel.stream(f"{SERVICE}/WatchHosts", sink)
        call.send(pb.WatchHostsRequest().SerializeToString())
        call.half_close()
        heard = False
        try:
            while True:
                async with asyncio.timeout(None if heard else _FIRST_LIST_TIMEOUT_S):
                    item = await sink.queue.get()
                if isinstance(item, bytes):
                    hosts = pb.WatchHostsResponse.FromString(item).hosts
                    await self._use(tuple(host.address for host in hosts))
                    heard = True
                    continue
                if isinstance(item, RpcError) and item.status is Status.UNIMPLEMENTED and not heard:
                    # A scheduler from before 1.15: the configured addresses are the list, for good.
                    await self._use(self._addresses)
                    await asyncio.get_running_loop().create_future()
                log = _log.info if heard else _log.warning
                log("watch_hosts_ended", address=address, error=str(item))
                return heard
        except (TimeoutError, DecodeError, ValueError) as error:
            _log.warning("watch_hosts_useless", address=address, error=str(error) or "no list in time")
            return heard
        finally:
            call.cancel()
            await channel.close()

    async def _use(self, hosts: tuple[str, ...]) -> None:
        """Take a host list. What stays disturbs nothing; calls that hang on a host that has gone go to the next. Raises ValueError."""
        if set(hosts) != set(self.hosts):
            _log.info("scheduler_hosts", hosts=",".join(hosts))
            # Made before anything changes: a list with an address that cannot be is refused whole.
            unary = {host: self._unary.get(host) or self._channel(host) for host in hosts}
            gone = [channel for host, channel in self._unary.items() if host not in unary]
            self._unary, self.hosts = unary, hosts
            self._arrange()
            for channel in gone:
                await channel.close()
        self.hosts_known.set()

    # Unary calls

    async def call(
        self,
        method: str,
        request: Message,
        *,
        wait_for_ready: bool,
        timeout_s: float = CALL_TIMEOUT_S,
        metadata: Metadata = (),
    ) -> bytes:
        """One RPC, on the hosts in turn; a scheduler that is leaving (CANCELLED) sends us to the next. Raises RpcError."""
        if self.disabled:
            raise NoScheduler("scheduler clients are disabled")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                await self.hosts_known.wait()
        except TimeoutError:
            raise NoScheduler("context deadline exceeded") from None
        data = request.SerializeToString()
        while True:
            if not self._unary:
                raise NoScheduler("no scheduler client initialized")
            self._turn += 1
            channel = list(self._unary.values())[self._turn % len(self._unary)]
            try:
                return await channel.unary(
                    f"{SERVICE}/{method}",
                    data,
                    timeout_s=max(0.001, deadline - loop.time()),
                    metadata=metadata,
                    wait_for_ready=wait_for_ready,
                )
            except RpcError as error:
                pause_s = self._rng.uniform(*_LEAVING_PAUSE_S)
                if error.status is not Status.CANCELLED or loop.time() + pause_s >= deadline:
                    raise
            await asyncio.sleep(pause_s)

    # Streams

    def watch(self, initial: bytes | None) -> None:
        """Keep streams with this first message open to every host; None closes them all."""
        if initial != self._initial:
            self._initial = initial
            for stream in self.streams:
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
                    JobStream(self._channel(host), self._initial, self._receiver, self._rng)
                    for _ in range(self._streams_per_host)
                ]
                self._streams[host] = streams
                for number, stream in enumerate(streams):
                    stream.start(self._tasks, f"stream {number} to {host}")


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
