"""What an app is told of a trigger (sidecar-and-jobs-api.md 3.2, 3.3): the body, the path, the request message, the occurrence's identity. Pure."""

import json
import re
from typing import Any
from urllib.parse import quote

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value

from scheduler._pb.dapr.proto.common.v1.common_pb2 import HTTPExtension
from scheduler._pb.dapr.proto.runtime.v1.appcallback_pb2 import JobEventRequest
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core.timestamps import format_rfc3339

_VALUE_URL = "type.googleapis.com/google.protobuf.Value"
# What need not be encoded in a path; a valid escape that is there already stays.
_PATH_SAFE = "/%!$&'()*+,;=:@~"
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NS = 1_000_000_000
# White space beyond ASCII, in UTF-8, by length.
_WIDE_SPACES = {
    2: frozenset({b"\xc2\x85", b"\xc2\xa0"}),
    3: frozenset(
        chr(code).encode() for code in (0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000)
    ),
}
_ASCII_SPACES = b"\t\n\v\f\r "


def path_of(name: str) -> str:
    """The request path. Raises ValueError for a name with a broken escape, which no URL can carry."""
    name = name.removeprefix("/")
    if _BAD_ESCAPE.search(name):
        raise ValueError(f"job name {name!r} has a % that begins no escape: it fits no URL")
    return "/job/" + quote(name, safe=_PATH_SAFE)


def body_of(trigger: pb.WatchJobsResponse) -> bytes:
    """The request body for an HTTP app. Raises ValueError for a value that JSON cannot tell."""
    if not trigger.HasField("data"):
        return b""
    if trigger.data.type_url != _VALUE_URL:
        return trim(trigger.data.value)
    try:
        value = Value.FromString(trigger.data.value)
    except DecodeError as error:
        raise ValueError(f"the data is no google.protobuf.Value: {error}") from error
    if value.WhichOneof("kind") is None:
        return b""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _plain(value: Value) -> Any:
    """A Value as JSON's own types; whole numbers without a decimal point, as Go writes them."""
    match value.WhichOneof("kind"):
        case "number_value":
            number = value.number_value
            return int(number) if number.is_integer() and abs(number) < 1e21 else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return {name: _plain(one) for name, one in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(one) for one in value.list_value.values]
        case _:
            return None


def trim(data: bytes) -> bytes:
    """Without white space at both ends, ASCII's and Unicode's."""
    start, end = 0, len(data)
    while start < end and (size := _space(data[start : start + 3])):
        start += size
    while end > start and (size := _space_before(data, start, end)):
        end -= size
    return data[start:end]


def _space(head: bytes) -> int:
    """The size of the white space at the start; 0 where there is none."""
    if head[0] < 0x80:
        return int(head[0] in _ASCII_SPACES)
    return next((size for size, spaces in _WIDE_SPACES.items() if head[:size] in spaces), 0)


def _space_before(data: bytes, start: int, end: int) -> int:
    if data[end - 1] < 0x80:
        return int(data[end - 1] in _ASCII_SPACES)
    return next((size for size, spaces in _WIDE_SPACES.items() if data[max(start, end - size) : end] in spaces), 0)


def event_of(trigger: pb.WatchJobsResponse) -> bytes:
    """The serialised JobEventRequest for a gRPC app; the data goes through untouched."""
    request = JobEventRequest(
        name=trigger.name,
        method=f"job/{trigger.name}",
        content_type=trigger.data.type_url,
        http_extension=HTTPExtension(verb=HTTPExtension.POST),
    )
    if trigger.HasField("data"):
        request.data.CopyFrom(trigger.data)
    data: bytes = request.SerializeToString()
    return data


def context_of(trigger: pb.WatchJobsResponse) -> dict[str, str]:
    """The trigger's trace context as headers; empty where it has none."""
    if not trigger.trace_parent:
        return {}
    state = {"tracestate": trigger.trace_state} if trigger.trace_state else {}
    return {"traceparent": trigger.trace_parent, **state}


def identity_of(trigger: pb.WatchJobsResponse) -> dict[str, str]:
    """The occurrence's identity as headers; empty from a scheduler that does not send it."""
    if not trigger.HasField("occurrence"):
        return {}
    occurrence = trigger.occurrence
    scheduled_ns = occurrence.scheduled_seconds * _NS + occurrence.scheduled_nanos
    return {
        "scheduler-replica": occurrence.replica,
        "scheduler-scheduled-time": format_rfc3339(scheduled_ns),
        "scheduler-attempt": str(occurrence.attempt),
        "scheduler-generation": f"{occurrence.generation:016x}",
        "scheduler-epoch": str(occurrence.epoch),
        "scheduler-index": str(occurrence.index),
    }
