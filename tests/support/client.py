"""An independent client: plain grpcio on the published contract, sharing no code with the product's transport or etcd client."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from queue import Queue

import grpc

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler._pb.etcd_api.v1 import etcd_pb2
from scheduler._pb.scheduler_storage.v1 import storage_pb2

SERVICE = "/dapr.proto.scheduler.v1.Scheduler"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def job_metadata(app_id: str = "app", namespace: str = "default") -> pb.JobMetadata:
    return pb.JobMetadata(app_id=app_id, namespace=namespace, target=pb.JobTargetMetadata(job=pb.TargetJob()))


def actor_metadata(kind: str, actor_id: str, app_id: str = "app", namespace: str = "default") -> pb.JobMetadata:
    actor = pb.TargetActorReminder(type=kind, id=actor_id)
    return pb.JobMetadata(app_id=app_id, namespace=namespace, target=pb.JobTargetMetadata(actor=actor))


class Client:
    """Unary calls to one replica."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address, options=UNLIMITED)

    def call(self, method: str, request, *, timeout: float = 10.0):
        answer = getattr(pb, f"{method}Response")
        rpc = self.channel.unary_unary(
            f"{SERVICE}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        return rpc(request, timeout=timeout)

    def schedule(self, name: str, *, metadata: pb.JobMetadata | None = None, overwrite: bool = False, **job) -> None:
        request = pb.ScheduleJobRequest(
            name=name, job=pb.Job(**job), metadata=metadata or job_metadata(), overwrite=overwrite
        )
        self.call("ScheduleJob", request)

    def get(self, name: str, metadata: pb.JobMetadata | None = None) -> pb.Job:
        return self.call("GetJob", pb.GetJobRequest(name=name, metadata=metadata or job_metadata())).job

    def delete(self, name: str, metadata: pb.JobMetadata | None = None) -> None:
        self.call("DeleteJob", pb.DeleteJobRequest(name=name, metadata=metadata or job_metadata()))

    def list(self, metadata: pb.JobMetadata | None = None) -> list[pb.NamedJob]:
        return list(self.call("ListJobs", pb.ListJobsRequest(metadata=metadata or job_metadata()), timeout=60).jobs)

    def close(self) -> None:
        self.channel.close()


@dataclass(frozen=True)
class Hit:
    """One trigger as it arrived."""

    at_ns: int
    name: str
    scheduled_ns: int
    index: int
    attempt: int
    generation: int
    replica: str
    message: pb.WatchJobsResponse
    outgoing: Queue

    def answer(self, status: int = pb.SUCCESS) -> None:
        """For watchers whose verdict is None: answer later."""
        result = pb.WatchJobsRequestResult(id=self.message.id, status=status)  # type: ignore[arg-type]
        self.outgoing.put(pb.WatchJobsRequest(result=result))

    @property
    def late_s(self) -> float:
        return (self.at_ns - self.scheduled_ns) / 1e9


class Watcher:
    """One WatchJobs stream to each address, made again when it breaks; answers each trigger as `verdict` says."""

    def __init__(
        self,
        addresses: list[str],
        *,
        app_id: str = "app",
        namespace: str = "default",
        actor_types=(),
        limits=(),
        verdict=lambda _hit: pb.SUCCESS,
        options=(),
    ) -> None:
        self.hits: list[Hit] = []
        self.verdict = verdict
        self._initial = pb.WatchJobsRequestInitial(
            app_id=app_id, namespace=namespace, actor_types=actor_types, concurrency_limits=limits
        )
        self._options = [
            *UNLIMITED,
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 300),
            *options,
        ]
        self._stopped = threading.Event()
        self._calls: dict[str, object] = {}
        self.errors: list[grpc.RpcError] = []
        self.connected: set[str] = set()
        self.wanted: set[str] = set()
        self._threads: list[threading.Thread] = []
        for address in addresses:
            self.add(address)

    def add(self, address: str) -> None:
        if address not in self.wanted:
            self.wanted.add(address)
            self._start(self._stream, address)

    def follow(self, address: str) -> None:
        """Be connected to what WatchHosts of that replica lists, as a sidecar is."""
        self._start(self._watch_hosts, address)
        while not self.wanted and not self._stopped.wait(0.01):
            pass

    def _start(self, target, address: str) -> None:
        thread = threading.Thread(target=target, args=(address,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch_hosts(self, address: str) -> None:
        with grpc.insecure_channel(address) as channel:
            rpc = channel.unary_stream(
                f"{SERVICE}/WatchHosts",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=pb.WatchHostsResponse.FromString,
            )
            call = self._calls["hosts"] = rpc(pb.WatchHostsRequest())
            try:
                for answer in call:
                    listed = {host.address for host in answer.hosts}
                    for one in listed:
                        self.add(one)
                    self.wanted &= listed
            except grpc.RpcError as error:
                self.errors.append(error)

    def _stream(self, address: str) -> None:
        while not self._stopped.is_set() and address in self.wanted:
            with grpc.insecure_channel(address, options=self._options) as channel:
                outgoing: Queue = Queue()
                outgoing.put(pb.WatchJobsRequest(initial=self._initial))

                def requests(queue: Queue = outgoing) -> Iterator[pb.WatchJobsRequest]:
                    while (message := queue.get()) is not None:
                        yield message

                rpc = channel.stream_stream(
                    f"{SERVICE}/WatchJobs",
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=pb.WatchJobsResponse.FromString,
                )
                call = rpc(requests())
                self._calls[address] = call
                try:
                    call.initial_metadata()
                    self.connected.add(address)
                    for message in call:
                        self._take(message, outgoing)
                except grpc.RpcError as error:
                    self.errors.append(error)
                finally:
                    self.connected.discard(address)
                    outgoing.put(None)
            self._stopped.wait(0.1)

    def _take(self, message: pb.WatchJobsResponse, outgoing: Queue) -> None:
        occurrence = message.occurrence
        scheduled = occurrence.scheduled_seconds * 1_000_000_000 + occurrence.scheduled_nanos
        hit = Hit(
            time.time_ns(),
            message.name,
            scheduled,
            occurrence.index,
            occurrence.attempt,
            occurrence.generation,
            occurrence.replica,
            message,
            outgoing,
        )
        self.hits.append(hit)
        status = self.verdict(hit)
        if status is not None:
            hit.answer(status)

    def calls_by_address(self) -> dict[str, object]:
        """The streams as they are now."""
        return {address: call for address, call in self._calls.items() if address != "hosts"}

    def calls(self) -> list[object]:
        return list(self.calls_by_address().values())

    def by_name(self) -> dict[str, list[Hit]]:
        found: dict[str, list[Hit]] = {}
        for hit in list(self.hits):
            found.setdefault(hit.name, []).append(hit)
        return found

    def close(self) -> None:
        self._stopped.set()
        for call in list(self._calls.values()):
            call.cancel()  # type: ignore[attr-defined]
        for thread in self._threads:
            thread.join(timeout=5)


def hosts_of(address: str) -> list[str]:
    """The first list that WatchHosts sends."""
    with grpc.insecure_channel(address) as channel:
        rpc = channel.unary_stream(
            f"{SERVICE}/WatchHosts",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.WatchHostsResponse.FromString,
        )
        call = rpc(pb.WatchHostsRequest(), timeout=10)
        hosts = [host.address for host in next(call).hosts]
        call.cancel()
        return hosts


def partition_of(key: str, count: int = 128) -> int:
    """Restated from the design, not imported: the hash of the storage key modulo the number of partitions."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") % count


class EtcdReader:
    """Reads etcd by plain grpcio, so that a fault of our client cannot hide itself."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED)

    def range(self, prefix: str) -> dict[str, bytes]:
        key = prefix.encode()
        request = etcd_pb2.RangeRequest(key=key, range_end=key[:-1] + bytes([key[-1] + 1]))
        rpc = self.channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=etcd_pb2.RangeResponse.FromString,
        )
        return {kv.key.decode(): kv.value for kv in rpc(request, timeout=10).kvs}

    def owners(self) -> dict[int, str]:
        """Partition to replica."""
        claims = self.range("/scheduler/claims/")
        return {
            int(key.rpartition("/")[2]): storage_pb2.Claim.FromString(value).replica for key, value in claims.items()
        }

    def close(self) -> None:
        self.channel.close()
