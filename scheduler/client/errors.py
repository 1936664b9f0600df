"""What a call of the client may raise."""

from scheduler.core.errors import SchedulerError
from scheduler.http2.grpc import RpcError, Status


class ClientError(SchedulerError):
    """A call that the schedulers refused or did not answer; `code` is gRPC's name for why, such as INVALID_ARGUMENT."""

    def __init__(self, message: str, code: str) -> None:
        """`message` is the scheduler's."""
        super().__init__(f"{message} ({code})")
        self.message = message
        self.code = code


class JobExists(ClientError):
    """A job of that name is there already, and `overwrite` was not asked for."""


class JobNotFound(ClientError):
    """There is no job of that name."""


class SchedulerUnavailable(ClientError):
    """No scheduler answered in time; whether the call took effect is not known."""


_KINDS = {
    Status.ALREADY_EXISTS: JobExists,
    Status.NOT_FOUND: JobNotFound,
    Status.UNAVAILABLE: SchedulerUnavailable,
    Status.DEADLINE_EXCEEDED: SchedulerUnavailable,
}


def from_rpc(error: RpcError) -> ClientError:
    """The client's error for a call's."""
    return _KINDS.get(error.status, ClientError)(error.message, error.status.name)
