"""Jobs as Python values, and their way to the wire and back. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf import json_format
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Value

from scheduler._pb.dapr.proto.common.v1 import common_pb2
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core.duration import format_go_duration

When = str | datetime | timedelta
"""A time: as the scheduler reads it (RFC 3339, "30s"), an aware datetime, or how long from now."""

_VALUE_URL = "type.googleapis.com/google.protobuf.Value"


@dataclass(frozen=True, slots=True)
class Drop:
    """A failed trigger is not tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """A failed trigger is tried again after `interval`, at most `max_retries` times; None: for ever."""

    interval: timedelta = timedelta(seconds=1)
    max_retries: int | None = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the scheduler keeps it; times are as they were given."""

    name: str
    schedule: str | None = None
    due_time: str | None = None
    repeats: int | None = None
    ttl: str | None = None
    data: Any = None
    failure_policy: Drop | Retry | None = None


def when_text(when: When) -> str:
    """As the wire has it. Raises ValueError for a datetime without a time zone."""
    if isinstance(when, timedelta):
        return format_go_duration(_nanoseconds(when))
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise ValueError(f"{when!r} has no time zone; an aware datetime is needed")
        return when.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return when


def schedule_text(schedule: str | timedelta) -> str:
    """As the wire has it: a timedelta is a period."""
    return f"@every {format_go_duration(_nanoseconds(schedule))}" if isinstance(schedule, timedelta) else schedule


def _nanoseconds(delta: timedelta) -> int:
    return (delta // timedelta(microseconds=1)) * 1000


def pack(data: Any) -> AnyMessage:
    """Bytes go as they are; everything else must be JSON and goes as the HTTP Jobs API packs it. Raises ValueError or TypeError."""
    if isinstance(data, bytes):
        return AnyMessage(value=data)
    packed = AnyMessage()
    try:
        packed.Pack(json_format.ParseDict(data, Value()))
    except json_format.ParseError as error:
        raise TypeError(f"data is neither bytes nor JSON: {error}") from error
    return packed


def unpack(data: AnyMessage) -> Any:
    """JSON where it was packed as JSON, else the bytes. Raises DecodeError for JSON that is none."""
    if data.type_url != _VALUE_URL:
        return data.value
    value = Value.FromString(data.value)
    return None if value.WhichOneof("kind") is None else _whole(json_format.MessageToDict(value))


def _whole(value: Any) -> Any:
    """JSON has one kind of number; Python shows whole ones as int."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    return [_whole(one) for one in value] if isinstance(value, list) else value


def policy_message(policy: Drop | Retry) -> common_pb2.JobFailurePolicy:
    """As the wire has it."""
    if isinstance(policy, Drop):
        return common_pb2.JobFailurePolicy(drop=common_pb2.JobFailurePolicyDrop())
    constant = common_pb2.JobFailurePolicyConstant(max_retries=policy.max_retries)
    constant.interval.FromNanoseconds(_nanoseconds(policy.interval))
    return common_pb2.JobFailurePolicy(constant=constant)


def _policy_of(message: common_pb2.JobFailurePolicy) -> Drop | Retry | None:
    kind = message.WhichOneof("policy")
    if kind is None:
        return None
    if kind == "drop":
        return Drop()
    retries = message.constant.max_retries if message.constant.HasField("max_retries") else None
    return Retry(interval=timedelta(microseconds=message.constant.interval.ToNanoseconds() / 1000), max_retries=retries)


def job_of(name: str, message: pb.Job) -> Job:
    """A job from the wire."""

    def field(key: str) -> Any:
        return getattr(message, key) if message.HasField(key) else None

    return Job(
        name=name,
        schedule=field("schedule"),
        due_time=field("due_time"),
        repeats=field("repeats"),
        ttl=field("ttl"),
        data=unpack(message.data) if message.HasField("data") else None,
        failure_policy=_policy_of(message.failure_policy) if message.HasField("failure_policy") else None,
    )
