"""The bytes of one trigger, made as cheaply as Python can: the job's constant part, the delivery's id, the occurrence's identity.

A trigger on the wire is a dapr.proto.scheduler.v1.WatchJobsResponse in gRPC's five-byte frame. Its constant part (name,
data, metadata) was serialised when the job was accepted; what differs per delivery is appended, which protobuf allows.
"""

import struct
from collections.abc import Callable

from scheduler.core.lifecycle import Job
from scheduler.protobuf import varint

_NS = 1_000_000_000
_UINT32_MAX = 0xFFFFFFFF
# The tag of field 10001, length-delimited: WatchJobsResponse.occurrence.
_OCCURRENCE_TAG = b"\x8a\xf1\x04"
# generation, scheduled_seconds, scheduled_nanos, attempt, epoch, index: fixed-size fields, each with its tag before it.
_FIXED_FIELDS = "BQBqBIBIBQBI"


def trigger_encoder(replica: str) -> Callable[[Job, int], bytes]:
    """A function of (job, delivery id) that gives the framed trigger of the job's current occurrence.

    `replica` is the id that receivers see in each occurrence.
    """
    name = replica.encode()
    replica_field = b"\x32" + varint(len(name)) + name
    fixed_bytes = struct.calcsize(f"<{_FIXED_FIELDS}")
    head = _OCCURRENCE_TAG + varint(fixed_bytes + len(replica_field))
    occurrence = struct.Struct(f"<{len(head)}s{_FIXED_FIELDS}").pack
    occurrence_bytes = len(head) + fixed_bytes + len(replica_field)
    frame = struct.Struct(">BI").pack
    id_tag = b"\x10"

    def encode(job: Job, delivery_id: int) -> bytes:
        identifier = varint(delivery_id)
        seconds, nanos = divmod(job.planned_ns, _NS)
        trigger = job.trigger
        return b"".join(
            (
                frame(0, len(trigger) + 1 + len(identifier) + occurrence_bytes),
                trigger,
                id_tag,
                identifier,
                occurrence(
                    head, 0x09, job.generation, 0x11, seconds, 0x1D, nanos, 0x25, job.attempts & _UINT32_MAX,
                    0x29, job.partition.epoch, 0x3D, job.count & _UINT32_MAX,
                ),
                replica_field,
            )
        )  # fmt: skip

    return encode
