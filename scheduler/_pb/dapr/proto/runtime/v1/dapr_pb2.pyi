from scheduler._pb.dapr.proto.runtime.v1 import jobs_pb2 as _jobs_pb2
from google.protobuf import empty_pb2 as _empty_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetMetadataRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetMetadataResponse(_message.Message):
    __slots__ = ("id", "extended_metadata", "app_connection_properties", "runtime_version", "enabled_features", "actor_runtime", "scheduler")
    class ExtendedMetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    EXTENDED_METADATA_FIELD_NUMBER: _ClassVar[int]
    APP_CONNECTION_PROPERTIES_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_VERSION_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FEATURES_FIELD_NUMBER: _ClassVar[int]
    ACTOR_RUNTIME_FIELD_NUMBER: _ClassVar[int]
    SCHEDULER_FIELD_NUMBER: _ClassVar[int]
    id: str
    extended_metadata: _containers.ScalarMap[str, str]
    app_connection_properties: AppConnectionProperties
    runtime_version: str
    enabled_features: _containers.RepeatedScalarFieldContainer[str]
    actor_runtime: ActorRuntime
    scheduler: MetadataScheduler
    def __init__(self, id: _Optional[str] = ..., extended_metadata: _Optional[_Mapping[str, str]] = ..., app_connection_properties: _Optional[_Union[AppConnectionProperties, _Mapping]] = ..., runtime_version: _Optional[str] = ..., enabled_features: _Optional[_Iterable[str]] = ..., actor_runtime: _Optional[_Union[ActorRuntime, _Mapping]] = ..., scheduler: _Optional[_Union[MetadataScheduler, _Mapping]] = ...) -> None: ...

class MetadataScheduler(_message.Message):
    __slots__ = ("connected_addresses",)
    CONNECTED_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    connected_addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, connected_addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class ActorRuntime(_message.Message):
    __slots__ = ("runtime_status", "host_ready", "placement")
    class ActorRuntimeStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        INITIALIZING: _ClassVar[ActorRuntime.ActorRuntimeStatus]
        DISABLED: _ClassVar[ActorRuntime.ActorRuntimeStatus]
        RUNNING: _ClassVar[ActorRuntime.ActorRuntimeStatus]
    INITIALIZING: ActorRuntime.ActorRuntimeStatus
    DISABLED: ActorRuntime.ActorRuntimeStatus
    RUNNING: ActorRuntime.ActorRuntimeStatus
    RUNTIME_STATUS_FIELD_NUMBER: _ClassVar[int]
    HOST_READY_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    runtime_status: ActorRuntime.ActorRuntimeStatus
    host_ready: bool
    placement: str
    def __init__(self, runtime_status: _Optional[_Union[ActorRuntime.ActorRuntimeStatus, str]] = ..., host_ready: bool = ..., placement: _Optional[str] = ...) -> None: ...

class AppConnectionProperties(_message.Message):
    __slots__ = ("port", "protocol", "channel_address", "max_concurrency", "health")
    PORT_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    MAX_CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    port: int
    protocol: str
    channel_address: str
    max_concurrency: int
    health: AppConnectionHealthProperties
    def __init__(self, port: _Optional[int] = ..., protocol: _Optional[str] = ..., channel_address: _Optional[str] = ..., max_concurrency: _Optional[int] = ..., health: _Optional[_Union[AppConnectionHealthProperties, _Mapping]] = ...) -> None: ...

class AppConnectionHealthProperties(_message.Message):
    __slots__ = ("health_check_path", "health_probe_interval", "health_probe_timeout", "health_threshold")
    HEALTH_CHECK_PATH_FIELD_NUMBER: _ClassVar[int]
    HEALTH_PROBE_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    HEALTH_PROBE_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    HEALTH_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    health_check_path: str
    health_probe_interval: str
    health_probe_timeout: str
    health_threshold: int
    def __init__(self, health_check_path: _Optional[str] = ..., health_probe_interval: _Optional[str] = ..., health_probe_timeout: _Optional[str] = ..., health_threshold: _Optional[int] = ...) -> None: ...

class SetMetadataRequest(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: str
    def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class ShutdownRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
