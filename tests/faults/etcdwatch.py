"""An independent reader of etcd: plain grpcio watches from revision 1, one on each member, merged by revision, decoded for the checker."""

import struct
import threading
import time
from queue import Queue
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler._pb.etcd_api.v1 import etcd_pb2
from scheduler._pb.scheduler_storage.v1 import storage_pb2
from tests.support.client import UNLIMITED

ROOT_KEY = b"/scheduler/"
# Restated from the storage contract: generation, count, attempts with the done flag in its top bit, last time, next retry.
_ENTRY = struct.Struct("<QIIqq")


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _instant(record: storage_pb2.JobRecord, field: str) -> int | None:
    if not record.HasField(field):
        return None
    instant = getattr(record, field)
    return instant.seconds * 1_000_000_000 + instant.nanos


def decode(key: str, value: bytes) -> dict[str, Any]:
    """What a key of each kind says, as the checker reads it."""
    kind = key.partition("/")[0]
    if kind == "claims":
        return {"replica": storage_pb2.Claim.FromString(value).replica}
    if kind == "members":
        member = storage_pb2.Member.FromString(value)
        return {"replica": member.replica, "state": storage_pb2.Member.State.Name(member.state)}
    if kind == "jobs" and key.count("/") > 1:
        record = storage_pb2.JobRecord.FromString(value)
        data = pb.WatchJobsResponse.FromString(record.trigger).data
        version = StringValue()
        data.Unpack(version)
        times = {field: _instant(record, field) for field in ("first", "expires")}
        return {"gen": record.generation, "ver": version.value.rstrip(), **times}
    if kind == "ledger":
        entries = storage_pb2.LedgerBatch.FromString(value).entries
        rows = [
            (gen, count, flags & ~(1 << 31), bool(flags >> 31))
            for gen, count, flags, _, _ in _ENTRY.iter_unpack(entries)
        ]
        return {"entries": rows}
    return {"bytes": len(value)}


class EtcdWatch:
    """Watches until `close`; `records` is what it saw, in order of arrival."""

    def __init__(self, targets: list[str]) -> None:
        """`targets` are the members' client addresses, host:port."""
        self.records: list[dict[str, Any]] = []
        self.revision = 0
        self.owners: dict[int, str] = {}
        self._seen: set[tuple[int, bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._calls: dict[str, Any] = {}
        self._threads = [threading.Thread(target=self._follow, args=(one,), daemon=True) for one in targets]
        for thread in self._threads:
            thread.start()

    def _follow(self, target: str) -> None:
        position = 1
        while not self._stopped.is_set():
            with grpc.insecure_channel(target, options=UNLIMITED) as channel:
                requests: Queue[Any] = Queue()
                create = etcd_pb2.WatchCreateRequest(key=ROOT_KEY, range_end=b"/scheduler0", start_revision=position)
                requests.put(etcd_pb2.WatchRequest(create_request=create))
                call = channel.stream_stream(
                    "/etcdserverpb.Watch/Watch",
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=etcd_pb2.WatchResponse.FromString,
                )(iter(requests.get, None))
                self._calls[target] = call
                try:
                    for answer in call:
                        if answer.canceled:
                            position = max(position, answer.compact_revision)
                            break
                        position = max(position, self._take(answer) + 1)
                except grpc.RpcError:
                    pass
                finally:
                    requests.put(None)
                    call.cancel()
            self._stopped.wait(0.2)

    def _take(self, answer: etcd_pb2.WatchResponse) -> int:
        t, last = boottime_ns(), 0
        with self._lock:
            for event in answer.events:
                kv, last = event.kv, event.kv.mod_revision
                if (last, kv.key) in self._seen:
                    continue
                self._seen.add((last, kv.key))
                self.revision = max(self.revision, last)
                key = kv.key.removeprefix(ROOT_KEY).decode("utf-8", "replace")
                record: dict[str, Any] = {"t": t, "rev": last, "key": key, "create": kv.create_revision, "mod": last}
                if event.type == etcd_pb2.Event.DELETE:
                    record["del"] = True
                else:
                    record["put"] = decode(key, kv.value)
                self.records.append(record)
                self._note_owner(record)
        return last

    def _note_owner(self, record: dict[str, Any]) -> None:
        kind, _, partition = record["key"].partition("/")
        if kind == "claims" and "del" in record:
            self.owners.pop(int(partition), None)
        elif kind == "claims":
            self.owners[int(partition)] = record["put"]["replica"]

    def close(self) -> None:
        self._stopped.set()
        for call in list(self._calls.values()):
            call.cancel()
        for thread in self._threads:
            thread.join(timeout=3)


def count_leases(target: str) -> int:
    """How many leases a member knows (LeaseLeases; its answer's field 2, repeated, counted by hand)."""
    with grpc.insecure_channel(target) as channel:
        answer: bytes = channel.unary_unary("/etcdserverpb.Lease/LeaseLeases")(b"", timeout=5)
    at = count = 0
    while at < len(answer):
        tag, length, shift, at = answer[at], 0, 0, at + 1
        while True:
            byte, at = answer[at], at + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        count += tag == 0x12
        at += length
    return count
