"""The gRPC runtime API, as far as jobs go (sidecar-and-jobs-api.md 2): ten job methods, metadata, shutdown, reflection."""

import hmac
from collections.abc import Awaitable, Callable

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message

from scheduler._pb.dapr.proto.runtime.v1 import dapr_pb2, jobs_pb2
from scheduler.grpc_services import health_methods, reflection_methods
from scheduler.http2.call import Call, Method, coroutine
from scheduler.http2.grpc import RpcError, Status
from scheduler.logs import get_logger
from scheduler.sidecar.jobs_api import ApiError, JobsApi

SERVICE = "dapr.proto.runtime.v1.Dapr"

_log = get_logger("sidecar.grpc")


class GrpcApi:
    """Builds the method table."""

    def __init__(
        self,
        *,
        jobs: JobsApi,
        token: str,
        metadata: Callable[[], dapr_pb2.GetMetadataResponse],
        set_metadata: Callable[[str, str], None],
        shutdown: Callable[[bool], None],
        log_calls: bool = False,
    ) -> None:
        """`shutdown(force)` begins a stop. `token` empty: nobody is asked for one."""
        self._jobs = jobs
        self._token = token.encode()
        self._metadata = metadata
        self._set_metadata = set_metadata
        self._shutdown = shutdown
        self._log_calls = log_calls

    def methods(self) -> dict[str, Method]:
        """By full path."""
        methods: dict[str, Method] = {
            f"/{SERVICE}/GetMetadata": self._method(dapr_pb2.GetMetadataRequest, self._get_metadata),
            f"/{SERVICE}/SetMetadata": self._method(dapr_pb2.SetMetadataRequest, self._put_metadata),
            f"/{SERVICE}/Shutdown": self._method(dapr_pb2.ShutdownRequest, self._stop),
            f"/{SERVICE}/DeleteJobsByPrefix": self._method(jobs_pb2.DeleteJobsByPrefixRequest, self._delete_by_prefix),
            f"/{SERVICE}/DeleteJobsByPrefixAlpha1": self._method(
                jobs_pb2.DeleteJobsByPrefixRequestAlpha1, self._delete_by_prefix
            ),
            f"/{SERVICE}/ListJobs": self._method(jobs_pb2.ListJobsRequest, self._list),
            f"/{SERVICE}/ListJobsAlpha1": self._method(jobs_pb2.ListJobsRequestAlpha1, self._list),
            **reflection_methods([dapr_pb2.DESCRIPTOR], [SERVICE]),
            # Beside the reference, for probes that speak gRPC: serving means that the API answers.
            **health_methods(lambda service: True if service in {"", SERVICE} else None),
        }
        for suffix in ("", "Alpha1"):
            methods[f"/{SERVICE}/ScheduleJob{suffix}"] = self._method(
                jobs_pb2.ScheduleJobRequest, self._schedule, with_metadata=True
            )
            methods[f"/{SERVICE}/GetJob{suffix}"] = self._method(jobs_pb2.GetJobRequest, self._get)
            methods[f"/{SERVICE}/DeleteJob{suffix}"] = self._method(jobs_pb2.DeleteJobRequest, self._delete)
        return methods

    def _method(
        self, kind: type[Message], function: Callable[..., Awaitable[Message]], *, with_metadata: bool = False
    ) -> Method:
        async def handler(request: bytes, call: Call) -> bytes:
            if self._token:
                shown = dict(call.metadata).get("dapr-api-token", "").encode("utf-8", "surrogateescape")
                if not hmac.compare_digest(shown, self._token):
                    raise RpcError(Status.UNAUTHENTICATED, "Unauthorized")
            if self._log_calls:
                _log.info("api_called", method=call.path)
            try:
                message = kind.FromString(request)
            except DecodeError as error:
                raise RpcError(Status.INVALID_ARGUMENT, str(error)) from error
            try:
                arguments = (message, dict(call.metadata)) if with_metadata else (message,)
                return (await function(*arguments)).SerializeToString()
            except ApiError as error:
                raise RpcError(error.status, error.message, details=error.details()) from error

        return coroutine(handler)

    async def _schedule(self, request: jobs_pb2.ScheduleJobRequest, metadata: dict[str, str]) -> Message:
        if not request.HasField("job"):
            raise self._jobs.error(Status.INVALID_ARGUMENT, "DAPR_SCHEDULER_EMPTY", "Job is empty")
        await self._jobs.schedule(request.job, overwrite=request.overwrite, headers=metadata)
        return jobs_pb2.ScheduleJobResponse()

    async def _get(self, request: jobs_pb2.GetJobRequest) -> Message:
        return jobs_pb2.GetJobResponse(job=await self._jobs.get(request.name))

    async def _delete(self, request: jobs_pb2.DeleteJobRequest) -> Message:
        await self._jobs.delete(request.name)
        return jobs_pb2.DeleteJobResponse()

    async def _delete_by_prefix(self, request: jobs_pb2.DeleteJobsByPrefixRequest) -> Message:
        await self._jobs.delete_by_prefix(request.name_prefix)
        return jobs_pb2.DeleteJobsByPrefixResponse()

    async def _list(self, _request: Message) -> Message:
        return jobs_pb2.ListJobsResponse(jobs=await self._jobs.list())

    async def _get_metadata(self, _request: Message) -> Message:
        return self._metadata()

    async def _put_metadata(self, request: dapr_pb2.SetMetadataRequest) -> Message:
        self._set_metadata(request.key, request.value)
        return Empty()

    async def _stop(self, _request: Message) -> Message:
        self._shutdown(False)  # noqa: FBT003 - a callback's only argument
        return Empty()
