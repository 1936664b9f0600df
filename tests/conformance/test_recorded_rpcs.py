"""Every recorded call of the reference (tests/vectors/scheduler-rpc.jsonl), in order, against a real replica.

`DIFFERENCES` is the one table of rows where ours is better on purpose; every other row has the same status, message and answer.
"""

import base64
import json
import time
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.any_pb2 import Any
from google.protobuf.wrappers_pb2 import BytesValue, StringValue  # noqa: F401 - answers hold these types

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.support.client import SERVICE, actor_metadata, job_metadata

pytestmark = pytest.mark.e2e
ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "vectors" / "scheduler-rpc.jsonl").read_text().splitlines()
]

# (rpc, the reference's code, a part of its message or its request's JSON, our code, a part of our message, the reason)
DIFFERENCES = [
    (
        "ScheduleJob",
        "CRASH",
        "",
        "INVALID_ARGUMENT",
        "job is missing in request",
        "the reference's process ends on a missing job (W1)",
    ),
    (
        "ScheduleJob",
        "OK",
        '"0 0 0 30 2 *"',
        "UNKNOWN",
        "never",
        "a schedule that never matches is refused: the reference would fire it in a hot loop (W7)",
    ),
    ("GetJob", "OK", '"name": "n13"', "NOT_FOUND", "job not found: n13", "the job of the row before, which is refused"),
    (
        "ScheduleJob",
        "RESOURCE_EXHAUSTED",
        "larger than max",
        "RESOURCE_EXHAUSTED",
        "bytes",
        "same status; our text names etcd's limit, not a Go client's",
    ),
    (
        "ScheduleJob",
        "UNKNOWN",
        "unknown job type: ",
        "UNKNOWN",
        "unknown job type: ",
        "the reference prints a Go value behind the colon",
    ),
]

EMPTY_BYTES = Any()
EMPTY_BYTES.Pack(BytesValue())


def call(channel: grpc.Channel, method: str, request: bytes) -> tuple[str, str, bytes]:
    rpc = channel.unary_unary(f"{SERVICE}/{method}")
    try:
        return "OK", "", rpc(request, timeout=20)
    except grpc.RpcError as error:
        return error.code().name, error.details(), b""


def difference(row: dict) -> tuple[str, str, str, str, str, str] | None:
    for entry in DIFFERENCES:
        rpc, code, part, *_ = entry
        if (row["rpc"], row["code"]) == (rpc, code) and (
            part in row.get("message", "") or part in json.dumps(row["request"])
        ):
            return entry
    return None


def request_bytes(row: dict) -> bytes:
    """The recorded bytes; the largest rows keep only how much data they carried."""
    if row.get("wire") or not (row.get("note") or "").startswith("data of"):
        return base64.b64decode(row.get("wire", ""))
    size = int(row["note"].split()[2])
    request = json_format.ParseDict(row["request"], pb.ScheduleJobRequest())
    request.job.data.Pack(BytesValue(value=b"x" * size))
    return request.SerializeToString()


def agrees(row: dict, status: str, message: str, answer: bytes) -> bool:
    better = difference(row)
    if better is not None:
        return status == better[3] and better[4] in message
    if (status, message) != (row["code"], row.get("message", "")):
        return False
    if status != "OK" or (row.get("note") or "").startswith("data of 1048576"):
        return True
    got = getattr(pb, f"{row['rpc']}Response").FromString(answer)
    recorded = row.get("answer") or {}
    if "(not JSON)" in recorded:
        return got == type(got).FromString(base64.b64decode(recorded["(not JSON)"]))
    want = json_format.ParseDict(recorded, type(got)())
    if row["rpc"] == "GetJob" and want.job.data == EMPTY_BYTES:
        want.job.data.CopyFrom(got.job.data)  # the recording left out what the large rows carried
    return got == want


def test_every_recorded_call_has_the_same_answer(cluster) -> None:
    address = cluster(1).addresses[0]
    wrong = []
    with grpc.insecure_channel(
        address, options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    ) as channel:
        for number, row in enumerate(ROWS):
            if row.get("note") == "first":
                clear(channel)
            result = call(channel, row["rpc"], request_bytes(row))
            deadline = time.monotonic() + 3
            # A job that will never fire is deleted once its owner has seen it: a moment after the create, in both systems.
            while (
                (row["rpc"], row["code"]) == ("GetJob", "NOT_FOUND")
                and not agrees(row, *result)
                and time.monotonic() < deadline
            ):
                time.sleep(0.05)
                result = call(channel, row["rpc"], request_bytes(row))
            if not agrees(row, *result):
                row.pop("wire", None)
                wrong.append(
                    f"row {number}: {json.dumps(row)[:700]}\n   ours: {result[0]} {result[1]!r} {result[2][:300]!r}"
                )
    assert {difference(row) for row in ROWS} - {None} == set(DIFFERENCES), "an entry of the table that no row needs"
    assert not wrong, f"{len(wrong)} rows differ:\n" + "\n".join(wrong[:15])


def clear(channel: grpc.Channel) -> None:
    """The recording's ordered part began on an empty scheduler."""
    call(channel, "DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=job_metadata()).SerializeToString())
    for kind in ("", "t", "typ", "typ2"):
        request = pb.DeleteByMetadataRequest(metadata=actor_metadata(kind, ""))
        call(channel, "DeleteByMetadata", request.SerializeToString())
