from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as _scheduler_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Member(_message.Message):
    __slots__ = ("replica", "address", "state", "version", "started_unix_ms", "joined_revision", "partitions")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    JOINED_REVISION_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    replica: str
    address: str
    state: str
    version: str
    started_unix_ms: int
    joined_revision: int
    partitions: int
    def __init__(self, replica: _Optional[str] = ..., address: _Optional[str] = ..., state: _Optional[str] = ..., version: _Optional[str] = ..., started_unix_ms: _Optional[int] = ..., joined_revision: _Optional[int] = ..., partitions: _Optional[int] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ("with_etcd",)
    WITH_ETCD_FIELD_NUMBER: _ClassVar[int]
    with_etcd: bool
    def __init__(self, with_etcd: bool = ...) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("member", "ready", "not_ready", "drained", "lease_id", "lease_trusted_s", "partition_count", "load", "totals", "etcd", "process")
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_FIELD_NUMBER: _ClassVar[int]
    DRAINED_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    LEASE_TRUSTED_S_FIELD_NUMBER: _ClassVar[int]
    PARTITION_COUNT_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    ETCD_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    member: Member
    ready: bool
    not_ready: str
    drained: bool
    lease_id: int
    lease_trusted_s: float
    partition_count: int
    load: Load
    totals: Totals
    etcd: _containers.RepeatedCompositeFieldContainer[EtcdEndpoint]
    process: Process
    def __init__(self, member: _Optional[_Union[Member, _Mapping]] = ..., ready: bool = ..., not_ready: _Optional[str] = ..., drained: bool = ..., lease_id: _Optional[int] = ..., lease_trusted_s: _Optional[float] = ..., partition_count: _Optional[int] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., totals: _Optional[_Union[Totals, _Mapping]] = ..., etcd: _Optional[_Iterable[_Union[EtcdEndpoint, _Mapping]]] = ..., process: _Optional[_Union[Process, _Mapping]] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("jobs", "streams", "in_flight", "staged", "uncommitted", "oldest_due_s", "next_due_unix_ns")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    STAGED_FIELD_NUMBER: _ClassVar[int]
    UNCOMMITTED_FIELD_NUMBER: _ClassVar[int]
    OLDEST_DUE_S_FIELD_NUMBER: _ClassVar[int]
    NEXT_DUE_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    jobs: int
    streams: int
    in_flight: int
    staged: int
    uncommitted: int
    oldest_due_s: float
    next_due_unix_ns: int
    def __init__(self, jobs: _Optional[int] = ..., streams: _Optional[int] = ..., in_flight: _Optional[int] = ..., staged: _Optional[int] = ..., uncommitted: _Optional[int] = ..., oldest_due_s: _Optional[float] = ..., next_due_unix_ns: _Optional[int] = ...) -> None: ...

class Totals(_message.Message):
    __slots__ = ("sent", "succeeded", "failed", "undeliverable", "jobs_created", "jobs_deleted", "commits", "lateness")
    SENT_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    UNDELIVERABLE_FIELD_NUMBER: _ClassVar[int]
    JOBS_CREATED_FIELD_NUMBER: _ClassVar[int]
    JOBS_DELETED_FIELD_NUMBER: _ClassVar[int]
    COMMITS_FIELD_NUMBER: _ClassVar[int]
    LATENESS_FIELD_NUMBER: _ClassVar[int]
    sent: int
    succeeded: int
    failed: int
    undeliverable: int
    jobs_created: int
    jobs_deleted: int
    commits: int
    lateness: Histogram
    def __init__(self, sent: _Optional[int] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., undeliverable: _Optional[int] = ..., jobs_created: _Optional[int] = ..., jobs_deleted: _Optional[int] = ..., commits: _Optional[int] = ..., lateness: _Optional[_Union[Histogram, _Mapping]] = ...) -> None: ...

class Histogram(_message.Message):
    __slots__ = ("bounds_s", "counts", "total_s")
    BOUNDS_S_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_S_FIELD_NUMBER: _ClassVar[int]
    bounds_s: _containers.RepeatedScalarFieldContainer[float]
    counts: _containers.RepeatedScalarFieldContainer[int]
    total_s: float
    def __init__(self, bounds_s: _Optional[_Iterable[float]] = ..., counts: _Optional[_Iterable[int]] = ..., total_s: _Optional[float] = ...) -> None: ...

class EtcdEndpoint(_message.Message):
    __slots__ = ("endpoint", "problem", "version", "revision", "db_bytes", "db_used_bytes", "quota_bytes", "leader", "errors", "answer_s")
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DB_BYTES_FIELD_NUMBER: _ClassVar[int]
    DB_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUOTA_BYTES_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    ANSWER_S_FIELD_NUMBER: _ClassVar[int]
    endpoint: str
    problem: str
    version: str
    revision: int
    db_bytes: int
    db_used_bytes: int
    quota_bytes: int
    leader: bool
    errors: _containers.RepeatedScalarFieldContainer[str]
    answer_s: float
    def __init__(self, endpoint: _Optional[str] = ..., problem: _Optional[str] = ..., version: _Optional[str] = ..., revision: _Optional[int] = ..., db_bytes: _Optional[int] = ..., db_used_bytes: _Optional[int] = ..., quota_bytes: _Optional[int] = ..., leader: bool = ..., errors: _Optional[_Iterable[str]] = ..., answer_s: _Optional[float] = ...) -> None: ...

class Process(_message.Message):
    __slots__ = ("wall_unix_ns", "boottime_s", "open_files_max", "certificates_end_unix_s", "mutual_tls")
    class CertificatesEndUnixSEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    WALL_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    BOOTTIME_S_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_MAX_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_END_UNIX_S_FIELD_NUMBER: _ClassVar[int]
    MUTUAL_TLS_FIELD_NUMBER: _ClassVar[int]
    wall_unix_ns: int
    boottime_s: float
    open_files_max: int
    certificates_end_unix_s: _containers.ScalarMap[str, float]
    mutual_tls: bool
    def __init__(self, wall_unix_ns: _Optional[int] = ..., boottime_s: _Optional[float] = ..., open_files_max: _Optional[int] = ..., certificates_end_unix_s: _Optional[_Mapping[str, float]] = ..., mutual_tls: bool = ...) -> None: ...

class ListMembersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListMembersResponse(_message.Message):
    __slots__ = ("replica", "members")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    replica: str
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, replica: _Optional[str] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class Partition(_message.Message):
    __slots__ = ("number", "owner", "epoch", "lease_id", "owned")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    OWNED_FIELD_NUMBER: _ClassVar[int]
    number: int
    owner: str
    epoch: int
    lease_id: int
    owned: OwnedPartition
    def __init__(self, number: _Optional[int] = ..., owner: _Optional[str] = ..., epoch: _Optional[int] = ..., lease_id: _Optional[int] = ..., owned: _Optional[_Union[OwnedPartition, _Mapping]] = ...) -> None: ...

class OwnedPartition(_message.Message):
    __slots__ = ("phase", "jobs", "in_flight", "uncommitted")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    UNCOMMITTED_FIELD_NUMBER: _ClassVar[int]
    phase: str
    jobs: int
    in_flight: int
    uncommitted: int
    def __init__(self, phase: _Optional[str] = ..., jobs: _Optional[int] = ..., in_flight: _Optional[int] = ..., uncommitted: _Optional[int] = ...) -> None: ...

class ListPartitionsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPartitionsResponse(_message.Message):
    __slots__ = ("replica", "partitions")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    replica: str
    partitions: _containers.RepeatedCompositeFieldContainer[Partition]
    def __init__(self, replica: _Optional[str] = ..., partitions: _Optional[_Iterable[_Union[Partition, _Mapping]]] = ...) -> None: ...

class DrainMemberRequest(_message.Message):
    __slots__ = ("replica", "undrain", "force")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    UNDRAIN_FIELD_NUMBER: _ClassVar[int]
    FORCE_FIELD_NUMBER: _ClassVar[int]
    replica: str
    undrain: bool
    force: bool
    def __init__(self, replica: _Optional[str] = ..., undrain: bool = ..., force: bool = ...) -> None: ...

class DrainMemberResponse(_message.Message):
    __slots__ = ("partitions",)
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    partitions: int
    def __init__(self, partitions: _Optional[int] = ...) -> None: ...

class RunNowRequest(_message.Message):
    __slots__ = ("name", "metadata", "request_id")
    NAME_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    name: str
    metadata: _scheduler_pb2.JobMetadata
    request_id: str
    def __init__(self, name: _Optional[str] = ..., metadata: _Optional[_Union[_scheduler_pb2.JobMetadata, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class RunNowResponse(_message.Message):
    __slots__ = ("scheduled_unix_ns",)
    SCHEDULED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    scheduled_unix_ns: int
    def __init__(self, scheduled_unix_ns: _Optional[int] = ...) -> None: ...
