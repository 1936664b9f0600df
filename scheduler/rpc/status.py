"""Errors of the house to gRPC status, in one table."""

from google.rpc import error_details_pb2, status_pb2

from scheduler.core.errors import InvalidJob, InvalidName, SchedulerError
from scheduler.http2.grpc import RpcError, Status
from scheduler.store.codec import CorruptRecord
from scheduler.store.errors import (
    JobExists,
    RecordTooLarge,
    StoreBusy,
    StoreError,
    StoreFull,
    StoreUnavailable,
    WrongCluster,
)

# UNKNOWN for bad jobs and names is the reference's: sidecars turn it into their own answers (scheduler-service.md 1.4, 1.8).
STATUS: dict[type[SchedulerError], Status] = {
    InvalidJob: Status.UNKNOWN,
    InvalidName: Status.UNKNOWN,
    JobExists: Status.ALREADY_EXISTS,
    StoreUnavailable: Status.UNAVAILABLE,
    StoreBusy: Status.RESOURCE_EXHAUSTED,
    StoreFull: Status.RESOURCE_EXHAUSTED,
    RecordTooLarge: Status.RESOURCE_EXHAUSTED,
    CorruptRecord: Status.DATA_LOSS,
    WrongCluster: Status.FAILED_PRECONDITION,
    StoreError: Status.INTERNAL,
}


# Clients refuse trailers of more than 8 KiB, and texts quote what was sent.
_DETAIL_MAX = 200


def _details(status: Status, text: str, error: SchedulerError) -> bytes:
    """Which field is wrong, for programs: the status is the reference's, so it tells them nothing (W49)."""
    match error:
        case InvalidJob():
            field = f"job.{error.field}"
        case InvalidName():
            field = "name"
        case _:
            return b""
    description = str(error)[:_DETAIL_MAX]
    bad = error_details_pb2.BadRequest(field_violations=[{"field": field, "description": description}])
    rich = status_pb2.Status(code=int(status), message=text[:_DETAIL_MAX])
    rich.details.add().Pack(bad)
    return bytes(rich.SerializeToString())


def rpc_error(error: SchedulerError) -> RpcError:
    """The error that a caller sees."""
    for kind in type(error).__mro__:
        status = STATUS.get(kind)
        if status is not None:
            text = f"job failed validation: {error}" if isinstance(error, InvalidJob) else str(error)
            return RpcError(status, text, details=_details(status, text, error))
    return RpcError(Status.INTERNAL, "internal error")
