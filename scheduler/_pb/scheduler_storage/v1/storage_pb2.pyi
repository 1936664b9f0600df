from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Meta(_message.Message):
    __slots__ = ("format_version", "partition_count", "cluster_id")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    PARTITION_COUNT_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    partition_count: int
    cluster_id: int
    def __init__(self, format_version: _Optional[int] = ..., partition_count: _Optional[int] = ..., cluster_id: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("replica", "address", "state", "version", "started_unix_ms", "incarnation", "share_basis", "share_excess")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Member.State]
        STATE_JOINING: _ClassVar[Member.State]
        STATE_SERVING: _ClassVar[Member.State]
        STATE_DRAINING: _ClassVar[Member.State]
    STATE_UNSPECIFIED: Member.State
    STATE_JOINING: Member.State
    STATE_SERVING: Member.State
    STATE_DRAINING: Member.State
    class ShareExcessEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_MS_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SHARE_BASIS_FIELD_NUMBER: _ClassVar[int]
    SHARE_EXCESS_FIELD_NUMBER: _ClassVar[int]
    replica: str
    address: str
    state: Member.State
    version: str
    started_unix_ms: int
    incarnation: int
    share_basis: int
    share_excess: _containers.ScalarMap[str, int]
    def __init__(self, replica: _Optional[str] = ..., address: _Optional[str] = ..., state: _Optional[_Union[Member.State, str]] = ..., version: _Optional[str] = ..., started_unix_ms: _Optional[int] = ..., incarnation: _Optional[int] = ..., share_basis: _Optional[int] = ..., share_excess: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("replica", "incarnation")
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    replica: str
    incarnation: int
    def __init__(self, replica: _Optional[str] = ..., incarnation: _Optional[int] = ...) -> None: ...

class JobRecord(_message.Message):
    __slots__ = ("generation", "trigger", "schedule", "repeats", "due_time", "ttl", "failure_policy", "created", "first", "expires")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TRIGGER_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    REPEATS_FIELD_NUMBER: _ClassVar[int]
    DUE_TIME_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    FAILURE_POLICY_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    generation: int
    trigger: bytes
    schedule: str
    repeats: int
    due_time: str
    ttl: str
    failure_policy: bytes
    created: Instant
    first: Instant
    expires: Instant
    def __init__(self, generation: _Optional[int] = ..., trigger: _Optional[bytes] = ..., schedule: _Optional[str] = ..., repeats: _Optional[int] = ..., due_time: _Optional[str] = ..., ttl: _Optional[str] = ..., failure_policy: _Optional[bytes] = ..., created: _Optional[_Union[Instant, _Mapping]] = ..., first: _Optional[_Union[Instant, _Mapping]] = ..., expires: _Optional[_Union[Instant, _Mapping]] = ...) -> None: ...

class Instant(_message.Message):
    __slots__ = ("seconds", "nanos")
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    NANOS_FIELD_NUMBER: _ClassVar[int]
    seconds: int
    nanos: int
    def __init__(self, seconds: _Optional[int] = ..., nanos: _Optional[int] = ...) -> None: ...

class LedgerBatch(_message.Message):
    __slots__ = ("format_version", "entries")
    FORMAT_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    format_version: int
    entries: bytes
    def __init__(self, format_version: _Optional[int] = ..., entries: _Optional[bytes] = ...) -> None: ...
