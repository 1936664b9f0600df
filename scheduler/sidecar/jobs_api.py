"""The Jobs API behind both of its faces: checks, calls to the scheduler, and errors (sidecar-and-jobs-api.md 1.4, 1.5, 2.3)."""

from collections.abc import Mapping
from typing import Protocol

from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status as RpcStatus

from scheduler._pb.dapr.proto.runtime.v1 import jobs_pb2
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core.trace_context import PROPAGATION_HEADER, PROPAGATIONS, of_headers
from scheduler.http2.grpc import RpcError, Status
from scheduler.upstream.schedulers import NoScheduler

_FIELDS = ("schedule", "repeats", "due_time", "ttl")


class ApiError(Exception):
    """A refused or failed call: a gRPC status, a reason, and a text; the HTTP face derives its status from the first."""

    def __init__(self, status: Status, reason: str, message: str, *, metadata: dict[str, str]) -> None:
        """`metadata` goes into the error's details."""
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.metadata = metadata

    def details(self) -> bytes:
        """The grpc-status-details-bin value."""
        status = RpcStatus(code=int(self.status), message=self.message)
        status.details.add().Pack(ErrorInfo(domain="dapr.io", reason=self.reason, metadata=self.metadata))
        data: bytes = status.SerializeToString()
        return data


def go_text(error: RpcError) -> str:
    """An error as Go prints it; one without a scheduler's answer behind it carries no code."""
    if isinstance(error, NoScheduler):
        return error.message
    return f"rpc error: code = {error.status.camel_name} desc = {error.message}"


class Calls(Protocol):
    """What calls a scheduler (upstream.Schedulers has it)."""

    async def call(self, method: str, request: Message, *, wait_for_ready: bool) -> bytes:
        """One RPC. Raises RpcError."""


class JobsApi:
    """Jobs of one app."""

    def __init__(self, *, schedulers: Calls, app_id: str, namespace: str) -> None:
        """All calls act for this app in this namespace."""
        self._schedulers = schedulers
        self._app_id = app_id
        self._namespace = namespace
        target = pb.JobTargetMetadata(job=pb.TargetJob())
        self.metadata = pb.JobMetadata(app_id=app_id, namespace=namespace, target=target)

    def error(self, status: Status, reason: str, message: str) -> ApiError:
        """An error of this API."""
        metadata = {"appID": self._app_id}
        if reason != "DAPR_SCHEDULER_JOB_NAME":
            metadata["namespace"] = self._namespace
        return ApiError(status, reason, message, metadata=metadata)

    def _check_name(self, name: str) -> None:
        if not name:
            raise self.error(Status.INVALID_ARGUMENT, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty")

    def _propagation(self, headers: Mapping[str, str]) -> str:
        """How the caller wants the job's triggers to belong to its trace; empty where it does not say."""
        chosen = headers.get(PROPAGATION_HEADER)
        if chosen is None or chosen in PROPAGATIONS:
            return chosen or ""
        text = f"the header {PROPAGATION_HEADER} is {chosen[:40]!r}, allowed are link, parent and none"
        raise self.error(Status.INVALID_ARGUMENT, "DAPR_SCHEDULER_SCHEDULE_JOB", text)

    async def schedule(self, job: jobs_pb2.Job, *, overwrite: bool, headers: Mapping[str, str]) -> None:
        """`headers` are the caller's, for the trace context that its job's triggers carry on, and how. Raises ApiError."""
        self._check_name(job.name)
        if not job.HasField("schedule") and not job.HasField("due_time"):
            raise self.error(Status.INVALID_ARGUMENT, "DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty")
        scheduled = pb.Job(tracing=self._propagation(headers))
        for field in _FIELDS:
            if job.HasField(field):
                setattr(scheduled, field, getattr(job, field))
        if job.HasField("data"):
            scheduled.data.CopyFrom(job.data)
        if job.HasField("failure_policy"):
            scheduled.failure_policy.CopyFrom(job.failure_policy)
        request = pb.ScheduleJobRequest(name=job.name, job=scheduled, metadata=self.metadata, overwrite=overwrite)
        if (context := of_headers(headers)) is not None:
            request.trace_parent, request.trace_state = context
        try:
            await self._schedulers.call("ScheduleJob", request, wait_for_ready=True)
        except RpcError as error:
            status = Status.INTERNAL if error.status is Status.UNKNOWN else error.status
            text = f"failed to schedule job due to: {go_text(error)}"
            raise self.error(status, "DAPR_SCHEDULER_SCHEDULE_JOB", text) from error

    async def get(self, name: str) -> jobs_pb2.Job:
        """Raises ApiError; a missing job is INTERNAL, as in the reference."""
        self._check_name(name)
        try:
            request = pb.GetJobRequest(name=name, metadata=self.metadata)
            answer = await self._schedulers.call("GetJob", request, wait_for_ready=True)
        except RpcError as error:
            text = f"failed to get job due to: {go_text(error)}"
            raise self.error(Status.INTERNAL, "DAPR_SCHEDULER_GET_JOB", text) from error
        return runtime_job(name, pb.GetJobResponse.FromString(answer).job)

    async def delete(self, name: str) -> None:
        """Raises ApiError."""
        self._check_name(name)
        try:
            request = pb.DeleteJobRequest(name=name, metadata=self.metadata)
            await self._schedulers.call("DeleteJob", request, wait_for_ready=True)
        except RpcError as error:
            text = f"failed to delete job due to: {go_text(error)}"
            raise self.error(Status.INTERNAL, "DAPR_SCHEDULER_DELETE_JOB", text) from error

    async def delete_by_prefix(self, prefix: str) -> None:
        """Raises ApiError."""
        try:
            request = pb.DeleteByNamePrefixRequest(name_prefix=prefix, metadata=self.metadata)
            await self._schedulers.call("DeleteByNamePrefix", request, wait_for_ready=False)
        except RpcError as error:
            text = f"failed to delete jobs due to: {go_text(error)}"
            raise self.error(Status.INTERNAL, "DAPR_SCHEDULER_DELETE_JOB", text) from error

    async def list(self) -> list[jobs_pb2.Job]:
        """Raises ApiError."""
        try:
            request = pb.ListJobsRequest(metadata=self.metadata)
            answer = await self._schedulers.call("ListJobs", request, wait_for_ready=False)
        except RpcError as error:
            text = f"failed to list jobs due to: {go_text(error)}"
            raise self.error(Status.INTERNAL, "DAPR_SCHEDULER_LIST_JOBS", text) from error
        return [runtime_job(named.name, named.job) for named in pb.ListJobsResponse.FromString(answer).jobs]


def runtime_job(name: str, job: pb.Job) -> jobs_pb2.Job:
    """The scheduler's job as the runtime API shows it."""
    shown = jobs_pb2.Job(name=name)
    for field in _FIELDS:
        if job.HasField(field):
            setattr(shown, field, getattr(job, field))
    if job.HasField("data"):
        shown.data.CopyFrom(job.data)
    if job.HasField("failure_policy"):
        shown.failure_policy.CopyFrom(job.failure_policy)
    return shown
