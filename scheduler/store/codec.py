"""Records to bytes and back. The formats belong to protos/scheduler_storage; a record that does not parse is a `CorruptRecord`, never a crash."""

from google.protobuf.message import DecodeError

from scheduler._pb.dapr.proto.common.v1 import common_pb2
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2
from scheduler._pb.scheduler_storage.v1.storage_pb2 import Instant, JobRecord
from scheduler.core.errors import SchedulerError
from scheduler.core.lifecycle import DEFAULT_POLICY, FailurePolicy, Job, Progress
from scheduler.core.schedule import parse_schedule

NS = 1_000_000_000


class CorruptRecord(SchedulerError):
    """A stored record cannot be read; it is quarantined: counted, logged, and left where it is."""


def set_instant(instant: Instant, ns: int) -> None:
    """Write an instant given in nanoseconds into a record's field (which exists from then on)."""
    instant.seconds, instant.nanos = divmod(ns, NS)


def instant_ns(instant: Instant) -> int:
    """A record's instant in nanoseconds."""
    return instant.seconds * NS + instant.nanos


def decode_record(value: bytes) -> JobRecord:
    """Raises CorruptRecord."""
    try:
        return JobRecord.FromString(value)
    except DecodeError as error:
        raise CorruptRecord(f"job record does not parse: {error}") from error


# Few policies serve all jobs: equal ones share one object. Longer texts than a policy needs (unknown fields) are not kept.
_policies: dict[bytes, FailurePolicy] = {}
_POLICIES_MAX = 1_000
_POLICY_BYTES_MAX = 64


def _policy_of(data: bytes) -> FailurePolicy:
    """The failure policy of a record."""
    policy = _policies.get(data)
    if policy is None:
        message = common_pb2.JobFailurePolicy.FromString(data)
        match message.WhichOneof("policy"):
            case "drop":
                policy = FailurePolicy(0, 0)
            case "constant":
                constant = message.constant
                interval = constant.interval.seconds * NS + constant.interval.nanos
                policy = FailurePolicy(
                    max(0, interval), constant.max_retries if constant.HasField("max_retries") else None
                )
            case _:
                policy = DEFAULT_POLICY
        if len(data) <= _POLICY_BYTES_MAX:
            if len(_policies) >= _POLICIES_MAX:
                _policies.clear()
            _policies[data] = policy
    return policy


def job_of_record(key: bytes, value: bytes, revision: int, progress: dict[int, Progress]) -> Job:
    """The job that a stored record and its partition's ledger describe. Raises CorruptRecord."""
    try:
        record = JobRecord.FromString(value)
        schedule = parse_schedule(record.schedule) if record.HasField("schedule") else None
        generation = record.generation
        job = Job(
            key=key,
            generation=generation,
            revision=revision,
            trigger=record.trigger,
            schedule=schedule,
            repeats=record.repeats if record.HasField("repeats") else None,
            first_ns=instant_ns(record.first) if record.HasField("first") else None,
            expires_ns=instant_ns(record.expires) if record.HasField("expires") else None,
            policy=_policy_of(record.failure_policy),
            progress=progress.get(generation),
        )
        if b"/actorreminder||" in key:
            metadata = scheduler_pb2.WatchJobsResponse.FromString(record.trigger).metadata
            job.concurrency_key = metadata.concurrency_key if metadata.HasField("concurrency_key") else None
    except (DecodeError, SchedulerError, ValueError, OverflowError) as error:
        raise CorruptRecord(f"job record {key!r}: {error}") from error
    return job
