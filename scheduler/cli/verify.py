"""`scheduler job verify`: does a cluster do its work? A job is scheduled, seen to fire, and deleted, as an app's sidecar would do it."""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.http2.client import Channel
from scheduler.http2.client_call import ClientCall
from scheduler.http2.grpc import RpcError, Status

_SERVICE = "/dapr.proto.scheduler.v1.Scheduler"


class Verified(NamedTuple):
    """What was seen."""

    hosts: tuple[str, ...]
    fired_on: str
    seconds: float


class _Stream:
    """One server stream; its messages go to a queue that all streams share."""

    def __init__(self, host: str, queue: "asyncio.Queue[tuple[_Stream, bytes | RpcError | None]]") -> None:
        self.host = host
        self._queue = queue
        self.call: ClientCall

    def on_message(self, message: bytes) -> None:
        self._queue.put_nowait((self, message))

    def on_half_close(self) -> None:
        pass

    def on_writable(self) -> None:
        pass

    def on_closed(self, error: RpcError | None) -> None:
        self._queue.put_nowait((self, error))


async def verify(
    address: str, *, connect: Callable[[str], Channel], metadata: pb.JobMetadata, timeout_s: float
) -> Verified:
    """Schedule a one-shot job through `address`, see it fire on a stream, delete it. Raises RpcError, also where it is not seen in time."""
    queue: asyncio.Queue[tuple[_Stream, bytes | RpcError | None]] = asyncio.Queue()
    channels = {address: connect(address)}
    name = f"verify-{secrets.token_hex(6)}"

    async def call(method: str, request: pb.ScheduleJobRequest | pb.DeleteJobRequest) -> None:
        await channels[address].unary(f"{_SERVICE}/{method}", request.SerializeToString(), timeout_s=timeout_s)

    def stream(host: str, method: str, first: pb.WatchHostsRequest | pb.WatchJobsRequest) -> _Stream:
        channel = channels.get(host) or channels.setdefault(host, connect(host))
        one = _Stream(host, queue)
        one.call = channel.stream(f"{_SERVICE}/{method}", one)
        one.call.send(first.SerializeToString())
        return one

    waiting_for = "the list of hosts"
    try:
        async with asyncio.timeout(timeout_s):
            watch = stream(address, "WatchHosts", pb.WatchHostsRequest())
            hosts = tuple(host.address for host in pb.WatchHostsResponse.FromString(await _message(queue)).hosts)
            watch.call.cancel()
            initial = pb.WatchJobsRequestInitial(
                app_id=metadata.app_id, namespace=metadata.namespace, accept_job_types=[pb.JOB_TARGET_TYPE_JOB]
            )
            for host in hosts:
                stream(host, "WatchJobs", pb.WatchJobsRequest(initial=initial))
            waiting_for = "ScheduleJob"
            started = time.monotonic()
            await call("ScheduleJob", pb.ScheduleJobRequest(name=name, job=pb.Job(due_time="0s"), metadata=metadata))
            waiting_for = f"the trigger on a stream to each of {', '.join(hosts) or 'no host'}"
            fired_on = await _fired(queue, name, watch)
            seconds = time.monotonic() - started
            waiting_for = "DeleteJob"
            await call("DeleteJob", pb.DeleteJobRequest(name=name, metadata=metadata))
            return Verified(hosts, fired_on, seconds)
    except TimeoutError:
        raise RpcError(Status.DEADLINE_EXCEEDED, f"not within {timeout_s:g} s: {waiting_for}") from None
    finally:
        for channel in channels.values():
            await channel.close()


async def _message(queue: "asyncio.Queue[tuple[_Stream, bytes | RpcError | None]]") -> bytes:
    _, item = await queue.get()
    if not isinstance(item, bytes):
        raise item or RpcError(Status.UNAVAILABLE, "the stream of hosts ended before it said anything")
    return item


async def _fired(queue: "asyncio.Queue[tuple[_Stream, bytes | RpcError | None]]", name: str, finished: _Stream) -> str:
    """The host whose stream brought the trigger, which is answered."""
    while True:
        stream, item = await queue.get()
        if stream is finished:
            continue
        if not isinstance(item, bytes):
            raise item or RpcError(Status.UNAVAILABLE, f"the stream to {stream.host} ended")
        trigger = pb.WatchJobsResponse.FromString(item)
        # A job of another run is not ours to take.
        status = pb.SUCCESS if trigger.name == name else pb.FAILED
        result = pb.WatchJobsRequestResult(id=trigger.id, status=status)
        stream.call.send(pb.WatchJobsRequest(result=result).SerializeToString())
        if trigger.name == name:
            return stream.host
