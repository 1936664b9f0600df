"""The load: calls and WatchJobs streams to every host of the server under test, each trigger acknowledged in a frame of its own, as sidecars do."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import cycle
from typing import NamedTuple

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.aio.clock import Clock
from scheduler.http2.client import Channel
from scheduler.http2.client_call import ClientCall
from scheduler.http2.grpc import RpcError, Status

SERVICE = "/dapr.proto.scheduler.v1.Scheduler"
_TIMEOUT_S = 30.0
_RECONNECT_S = 0.2
_CLEAN_UP_TRIES, _CLEAN_UP_PAUSE_S = 5, 1.0
_RESULT = pb.WatchJobsRequestResult
# A clock that ticks in whole milliseconds somewhere on the way is no early trigger.
_EARLY_NS = 1_000_000

Arrived = Callable[[pb.WatchJobsResponse], None]
Connect = Callable[[str], Channel]


class Settings(NamedTuple):
    """How the load is applied."""

    namespace: str
    app_id: str
    concurrency: int
    connections: int
    streams: int
    payload_bytes: int


class Due:
    """When each job must fire, and what came: job i fires at first_ns[i], and each period later if there is one."""

    def __init__(self, first_ns: Sequence[int], period_ns: int) -> None:
        """Nothing has come yet."""
        self.first_ns = array("q", first_ns)
        self.period_ns = period_ns
        self.counts = array("l", bytes(array("l").itemsize * len(first_ns)))
        # By arrival: how late each was, and when it was due.
        self.late_s = array("d")
        self.due_ns = array("q")
        # Triggers before their time; a repeated one looks like that too, since it takes the place of the next.
        self.early = 0
        self.first_at_ns = self.last_at_ns = 0

    def came(self, index: int, now_ns: int) -> None:
        """The next trigger of a job."""
        count = self.counts[index]
        self.counts[index] = count + 1
        due_ns = self.first_ns[index] + count * self.period_ns
        late_ns = now_ns - due_ns
        if late_ns < -_EARLY_NS or (count and not self.period_ns):
            self.early += 1
            return
        self.late_s.append(late_ns * 1e-9)
        self.due_ns.append(due_ns)
        self.first_at_ns = self.first_at_ns or now_ns
        self.last_at_ns = now_ns

    def missing(self, until_ns: int) -> int:
        """Occurrences due before `until_ns` that have not come."""
        missing = 0
        for first_ns, count in zip(self.first_ns, self.counts, strict=True):
            if first_ns < until_ns:
                expected = 1 + ((until_ns - 1 - first_ns) // self.period_ns if self.period_ns else 0)
                missing += max(0, expected - count)
        return missing


class _Watch:
    """One WatchJobs stream, opened again when it breaks."""

    def __init__(
        self, load: "Load", channel: Channel, initial: bytes, arrived: Arrived, lost: Callable[[str], None]
    ) -> None:
        self._load = load
        self._channel = channel
        self._initial = initial
        self._arrived = arrived
        self._lost = lost
        self._call: ClientCall | None = None
        self._closed = False

    def open(self) -> None:
        self._call = self._channel.stream(f"{SERVICE}/WatchJobs", self, wait_for_ready=True)
        self._call.send(self._initial)

    def close(self) -> None:
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    def on_message(self, message: bytes) -> None:
        trigger = pb.WatchJobsResponse.FromString(message)
        self._arrived(trigger)
        if not self._load.answers:
            return
        assert self._call is not None
        self._call.send(pb.WatchJobsRequest(result=_RESULT(id=trigger.id, status=pb.SUCCESS)).SerializeToString())

    def on_half_close(self) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, error: RpcError | None) -> None:
        if not self._closed:
            self._lost(f"{self._channel.target}: {error.message if error else 'the server ended the stream'}")
            asyncio.get_running_loop().call_later(_RECONNECT_S, lambda: None if self._closed else self.open())


class Load:
    """Connections to every host. Use `opened`."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """`opened` fills it."""
        self.settings = settings
        self.clock = clock
        self.metadata = pb.JobMetadata(
            namespace=settings.namespace, app_id=settings.app_id, target=pb.JobTargetMetadata(job=pb.TargetJob())
        )
        self.hosts: tuple[str, ...] = ()
        self.lost_streams: list[str] = []
        # Whether triggers are answered.
        self.answers = True
        self._channels: list[Channel] = []
        self._turn = cycle([0])

    async def unary(self, method: str, request: bytes) -> bytes:
        """One call, through the connections in turn. Raises RpcError."""
        channel = self._channels[next(self._turn)]
        return await channel.unary(f"{SERVICE}/{method}", request, timeout_s=_TIMEOUT_S)

    async def schedule(self, name: str, job: pb.Job) -> None:
        """Create one job."""
        job.data.value = bytes(self.settings.payload_bytes)
        request = pb.ScheduleJobRequest(name=name, job=job, metadata=self.metadata)
        await self.unary("ScheduleJob", request.SerializeToString())

    async def delete(self, name: str) -> None:
        """Delete one job."""
        await self.unary("DeleteJob", pb.DeleteJobRequest(name=name, metadata=self.metadata).SerializeToString())

    async def delete_all(self, prefix: str) -> None:
        """Delete what begins so; again where the server says that it is too busy for so much, which harms nothing."""
        request = pb.DeleteByNamePrefixRequest(name_prefix=prefix, metadata=self.metadata).SerializeToString()
        for left in reversed(range(_CLEAN_UP_TRIES)):
            try:
                await self.unary("DeleteByNamePrefix", request)
                break
            except RpcError as error:
                if not left or error.status not in {Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED}:
                    raise
                await asyncio.sleep(_CLEAN_UP_PAUSE_S)

    async def create(self, jobs: Iterable[tuple[str, pb.Job]], told: Callable[[], None]) -> "array[float]":
        """Create jobs, as many at once as the settings say; the latency of each in seconds. `told` hears of each."""
        latencies, waiting = array("d"), iter(jobs)
        loop = asyncio.get_running_loop()

        async def worker() -> None:
            for name, job in waiting:
                began = loop.time()
                await self.schedule(name, job)
                latencies.append(loop.time() - began)
                told()

        async with asyncio.TaskGroup() as tasks:
            for _ in range(self.settings.concurrency):
                tasks.create_task(worker())
        return latencies

    @asynccontextmanager
    async def opened(self, connect: Connect, address: str, arrived: Arrived) -> AsyncIterator["Load"]:
        """Find the hosts, connect, watch; on leaving everything is closed. Raises RpcError."""
        self.connect, self.address = connect, address
        self.hosts = await _hosts(connect, address)
        count = max(self.settings.connections, len(self.hosts))
        self._channels = [connect(self.hosts[number % len(self.hosts)]) for number in range(count)]
        self._turn = cycle(range(count))
        initial = pb.WatchJobsRequest(
            initial=pb.WatchJobsRequestInitial(namespace=self.settings.namespace, app_id=self.settings.app_id)
        ).SerializeToString()
        watched = [connect(host) for host in self.hosts for _ in range(self.settings.streams)]
        watches = [_Watch(self, channel, initial, arrived, self.lost_streams.append) for channel in watched]
        try:
            for channel in (*self._channels, *watched):
                await channel.wait_ready(_TIMEOUT_S)
            for watch in watches:
                watch.open()
            yield self
        finally:
            for watch in watches:
                watch.close()
            for channel in (*self._channels, *watched):
                await channel.close()


class _FirstList:
    """Waits for the first message of WatchHosts."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_message(self, message: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(message)

    def on_half_close(self) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, error: RpcError | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(error or RpcError(Status.UNAVAILABLE, "WatchHosts ended without a list"))


async def _hosts(connect: Connect, address: str) -> tuple[str, ...]:
    """What WatchHosts lists; the address alone where the server does not know that call."""
    channel = connect(address)
    first = _FirstList()
    try:
        call = channel.stream(f"{SERVICE}/WatchHosts", first, timeout_s=_TIMEOUT_S)
        call.send(pb.WatchHostsRequest().SerializeToString())
        call.half_close()
        listed = pb.WatchHostsResponse.FromString(await first.answer)
        call.cancel()
        return tuple(sorted(host.address for host in listed.hosts)) or (address,)
    except RpcError as error:
        if error.status is Status.UNIMPLEMENTED:
            return (address,)
        raise
    finally:
        await channel.close()
