"""A scheduler that behaves on the wire as the reference's does (scheduler-service.md 4.6, 5.9), by grpcio: for sidecars and clients under test.

It keeps no jobs: a test says what it answers and which triggers it sends. Lists of hosts may be repeated, an older one knows no WatchHosts at all,
and a stop ends streams with UNKNOWN.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.support.client import SERVICE, UNLIMITED
from tests.support.processes import free_port

Answer = bytes | tuple[grpc.StatusCode, str]


class Stream:
    """One WatchJobs stream from the scheduler's side."""

    def __init__(self, initial: pb.WatchJobsRequestInitial, peer: str) -> None:
        self.initial = initial
        self.peer = peer
        self.outgoing: queue.Queue[pb.WatchJobsResponse | None] = queue.Queue()
        self.results: list[tuple[int, int]] = []
        self.ended = threading.Event()
        self._ids = itertools.count(1)

    def send(self, name: str, *, target: str = "job", data=None, **fields) -> int:
        """A trigger; its id."""
        trigger = pb.WatchJobsResponse(name=name, id=next(self._ids), **fields)
        if target == "job":
            trigger.metadata.target.job.SetInParent()
        elif target == "actor":
            trigger.metadata.target.actor.SetInParent()
        if data is not None:
            trigger.data.CopyFrom(data)
        self.outgoing.put(trigger)
        return trigger.id

    def end(self) -> None:
        """The scheduler ends it."""
        self.outgoing.put(None)


class ReferenceScheduler:
    """One of them."""

    def __init__(self, *, hosts: list[str] | None = None, knows_hosts: bool = True) -> None:
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.hosts = [self.address] if hosts is None else hosts
        self.knows_hosts = knows_hosts
        self.host_watches = 0
        self.fail_watches = 0
        self.calls: list[tuple[str, bytes]] = []
        self.answers: dict[str, Callable[[bytes], Answer]] = {}
        self.streams: list[Stream] = []
        self._watchers: list[queue.Queue[list[str] | None]] = []
        self._server: grpc.Server | None = None
        self.start()

    def start(self) -> "ReferenceScheduler":
        self._server = grpc.server(ThreadPoolExecutor(64), options=[*UNLIMITED, ("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        assert self._server.add_insecure_port(self.address) == self.port
        self._server.start()
        return self

    @property
    def open(self) -> list[Stream]:
        return [stream for stream in self.streams if not stream.ended.is_set()]

    def tell_hosts(self, hosts: list[str] | None = None) -> None:
        """Send the whole list to every watcher, whether or not it has changed."""
        if hosts is not None:
            self.hosts = hosts
        for watcher in list(self._watchers):
            watcher.put(self.hosts)

    def service(self, details: grpc.HandlerCallDetails):
        """grpcio's."""
        method = details.method.removeprefix(f"{SERVICE}/")
        if method == "WatchHosts":
            return grpc.unary_stream_rpc_method_handler(self._watch_hosts) if self.knows_hosts else None
        if method == "WatchJobs":
            return grpc.stream_stream_rpc_method_handler(self._watch_jobs)
        return grpc.unary_unary_rpc_method_handler(lambda data, context: self._unary(method, data, context))

    def _unary(self, method: str, data: bytes, context: grpc.ServicerContext) -> bytes:
        self.calls.append((method, data))
        answer = self.answers[method](data) if method in self.answers else b""
        if isinstance(answer, tuple):
            context.abort(*answer)
        return answer

    def _watch_hosts(self, _data: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self.host_watches += 1
        if self.fail_watches > 0:
            self.fail_watches -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "no quorum")
        mine: queue.Queue[list[str] | None] = queue.Queue()
        mine.put(self.hosts)
        self._watchers.append(mine)
        context.add_callback(lambda: mine.put(None))
        while (hosts := mine.get()) is not None:
            yield pb.WatchHostsResponse(hosts=[pb.Host(address=one) for one in hosts]).SerializeToString()
        self._watchers.remove(mine)
        if context.is_active():
            context.abort(grpc.StatusCode.UNKNOWN, "cron closed")

    def _watch_jobs(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        first = pb.WatchJobsRequest.FromString(next(requests))
        assert first.WhichOneof("watch_job_request_type") == "initial", first
        stream = Stream(first.initial, context.peer())
        self.streams.append(stream)

        def read() -> None:
            try:
                for data in requests:
                    request = pb.WatchJobsRequest.FromString(data)
                    assert request.WhichOneof("watch_job_request_type") == "result", request
                    stream.results.append((request.result.id, request.result.status))
            except grpc.RpcError:
                pass
            stream.outgoing.put(None)

        threading.Thread(target=read, daemon=True).start()
        while (trigger := stream.outgoing.get()) is not None:
            yield trigger.SerializeToString()
        stream.ended.set()
        if context.is_active():
            context.abort(grpc.StatusCode.UNKNOWN, "cron closed")

    def stop(self) -> None:
        """As a process that goes: every stream ends, the port closes."""
        for watcher in list(self._watchers):
            watcher.put(None)
        for stream in self.open:
            stream.end()
        if self._server is not None:
            self._server.stop(0.2).wait(5)
            self._server = None

    close = stop
