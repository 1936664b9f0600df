"""Every recorded call of the reference (tests/vectors/scheduler-rpc.jsonl), in order, against a real replica.

`DIFFERENCES` is the one table of rows where ours is better on purpose; every other row has the same status, message and answer.
"""

import base64
import json
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.wrappers_pb2 import BytesValue, StringValue  # noqa: F401 - answers hold these types

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.support.client import SERVICE

pytestmark = pytest.mark.e2e
ROWS = [json.loads(line) for line in (Path(__file__).parents[1] / "vectors" / "scheduler-rpc.jsonl").read_text().splitlines()]

# (rpc, the reference's code, a part of its message or of the request's name) -> (our code, the reason)
DIFFERENCES = [
    ("ScheduleJob", "CRASH", "", "INVALID_ARGUMENT", "the reference's process ends on a missing job (W1)"),
    ("ScheduleJob", "RESOURCE_EXHAUSTED", "larger than max", "RESOURCE_EXHAUSTED", "same status; our text names etcd's limit, not a Go client's"),
    ("ScheduleJob", "UNKNOWN", "unknown job type: ", "UNKNOWN", "the reference prints a Go value behind the colon"),
]


def call(channel: grpc.Channel, row: dict) -> tuple[str, str, bytes]:
    rpc = channel.unary_unary(f"{SERVICE}/{row['rpc']}")
    try:
        return "OK", "", rpc(base64.b64decode(row.get("wire", "")), timeout=20)
    except grpc.RpcError as error:
        return error.code().name, error.details(), b""


def difference(row: dict) -> str | None:
    for rpc, code, part, ours, _ in DIFFERENCES:
        if row["rpc"] == rpc and row["code"] == code and part in row.get("message", ""):
            return ours
    return None
