"""The gRPC face by grpcio, row by row (sidecar-and-jobs-api.md 2)."""

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from scheduler._pb.dapr.proto.runtime.v1 import dapr_pb2, jobs_pb2
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler._pb.grpc_services import health_pb2, reflection_pb2
from tests.sidecar.test_http_api import STATUSES
from tests.support.sidecars import Refusal, running_sidecar

JOB = jobs_pb2.Job(name="a", schedule="@daily")
# Method, its alias, request and answer of the alias, the scheduler's method.
PAIRS = [
    ("ScheduleJob", jobs_pb2.ScheduleJobRequest(job=JOB), jobs_pb2.ScheduleJobResponse, "ScheduleJob"),
    ("GetJob", jobs_pb2.GetJobRequest(name="a"), jobs_pb2.GetJobResponse, "GetJob"),
    ("DeleteJob", jobs_pb2.DeleteJobRequest(name="a"), jobs_pb2.DeleteJobResponse, "DeleteJob"),
    ("DeleteJobsByPrefix", jobs_pb2.DeleteJobsByPrefixRequest(name_prefix="a"), jobs_pb2.DeleteJobsByPrefixResponse, "DeleteByNamePrefix"),
    ("ListJobs", jobs_pb2.ListJobsRequest(), jobs_pb2.ListJobsResponse, "ListJobs"),
]  # fmt: skip
METHODS = [(f"{name}{suffix}", *rest) for name, *rest in PAIRS for suffix in ("", "Alpha1")]


@pytest.mark.parametrize(("method", "request_", "kind", "rpc"), METHODS, ids=[row[0] for row in METHODS])
async def test_each_of_the_ten_methods(reference, method: str, request_, kind, rpc: str) -> None:
    if method.endswith("PrefixAlpha1"):
        request_, kind = (
            jobs_pb2.DeleteJobsByPrefixRequestAlpha1(name_prefix="a"),
            jobs_pb2.DeleteJobsByPrefixResponseAlpha1,
        )
    elif method == "ListJobsAlpha1":
        request_, kind = jobs_pb2.ListJobsRequestAlpha1(), jobs_pb2.ListJobsResponseAlpha1
    job = pb.Job(schedule="@daily", repeats=3, due_time="1s", ttl="2s", data={"type_url": "x/y", "value": b"\xff"})
    job.failure_policy.drop.SetInParent()
    reference.answers["GetJob"] = lambda _data: pb.GetJobResponse(job=job).SerializeToString()
    listed = pb.ListJobsResponse(jobs=[pb.NamedJob(name="a", job=job), pb.NamedJob(name="b", job=pb.Job())])
    reference.answers["ListJobs"] = lambda _data: listed.SerializeToString()
    async with running_sidecar(reference.address, namespace="ns") as sidecar:
        answer = kind.FromString(await sidecar.grpc(method, request_))
    called, data = reference.calls[-1]
    sent = getattr(pb, f"{called}Request").FromString(data)
    assert called == rpc
    assert (sent.metadata.app_id, sent.metadata.namespace) == ("myapp", "ns")
    assert sent.metadata.target.WhichOneof("type") == "job"
    shown = jobs_pb2.Job(
        name="a",
        schedule="@daily",
        repeats=3,
        due_time="1s",
        ttl="2s",
        data=job.data,
        failure_policy=job.failure_policy,
    )
    if rpc == "GetJob":
        assert answer.job == shown
    elif rpc == "ListJobs":
        assert list(answer.jobs) == [shown, jobs_pb2.Job(name="b")]
    elif rpc == "DeleteByNamePrefix":
        assert sent.name_prefix == "a"


async def test_presence_survives_in_both_directions(reference) -> None:
    """2.2 and 6.2: unset and empty are two things; the Python SDK sends an empty Any."""
    async with running_sidecar(reference.address) as sidecar:
        for job in (
            jobs_pb2.Job(name="a", schedule=""),
            jobs_pb2.Job(name="a", due_time="", data={}),
            jobs_pb2.Job(name="a", schedule="x", repeats=0, ttl="", due_time="", data={"value": bytes(range(256))}),
        ):
            await sidecar.grpc("ScheduleJob", jobs_pb2.ScheduleJobRequest(job=job))
            sent = pb.ScheduleJobRequest.FromString(reference.calls[-1][1])
            for field in ("schedule", "repeats", "due_time", "ttl", "data", "failure_policy"):
                assert sent.job.HasField(field) == job.HasField(field), field
                assert getattr(sent.job, field) == getattr(job, field)
            assert not sent.overwrite
            answer = pb.GetJobResponse(job=sent.job).SerializeToString()
            reference.answers["GetJob"] = lambda _data, answer=answer: answer
            got = jobs_pb2.GetJobResponse.FromString(await sidecar.grpc("GetJob", jobs_pb2.GetJobRequest(name="a")))
            assert got.job == job


@pytest.mark.parametrize(
    ("method", "request_", "message", "reason"),
    [
        ("ScheduleJob", jobs_pb2.ScheduleJobRequest(), "Job is empty", "DAPR_SCHEDULER_EMPTY"),
        ("ScheduleJob", jobs_pb2.ScheduleJobRequest(job=jobs_pb2.Job(schedule="x")), "Name is empty", "DAPR_SCHEDULER_JOB_NAME_EMPTY"),
        ("ScheduleJob", jobs_pb2.ScheduleJobRequest(job=jobs_pb2.Job(name="a", ttl="1s")), "Schedule is empty", "DAPR_SCHEDULER_SCHEDULE_EMPTY"),
        ("GetJob", jobs_pb2.GetJobRequest(), "Name is empty", "DAPR_SCHEDULER_JOB_NAME_EMPTY"),
        ("DeleteJob", jobs_pb2.DeleteJobRequest(), "Name is empty", "DAPR_SCHEDULER_JOB_NAME_EMPTY"),
    ],
)  # fmt: skip
async def test_empty_fields(reference, method: str, request_, message: str, reason: str) -> None:
    async with running_sidecar(reference.address) as sidecar:
        for name in (method, f"{method}Alpha1"):
            with pytest.raises(Refusal) as caught:
                await sidecar.grpc(name, request_)
            refusal = caught.value
            assert (refusal.code, refusal.message) == (grpc.StatusCode.INVALID_ARGUMENT, message)
            assert refusal.info is not None
            assert (refusal.info.reason, refusal.info.domain) == (reason, "dapr.io")
            assert dict(refusal.info.metadata) == {"appID": "myapp", "namespace": "default"}
    assert not reference.calls


async def test_errors_of_the_scheduler(reference) -> None:
    """2.3: schedule keeps the code, but Unknown becomes Internal; all others are Internal, a missing job too."""
    rows = [
        ("GetJob", "GetJob", jobs_pb2.GetJobRequest(name="a"), "get job", "GET_JOB"),
        ("DeleteJob", "DeleteJob", jobs_pb2.DeleteJobRequest(name="a"), "delete job", "DELETE_JOB"),
        ("DeleteJobsByPrefix", "DeleteByNamePrefix", jobs_pb2.DeleteJobsByPrefixRequest(), "delete jobs", "DELETE_JOB"),
        ("ListJobs", "ListJobs", jobs_pb2.ListJobsRequest(), "list jobs", "LIST_JOBS"),
    ]
    async with running_sidecar(reference.address) as sidecar:

        async def refused(method: str, request) -> Refusal:
            with pytest.raises(Refusal) as caught:
                await sidecar.grpc(method, request)
            assert caught.value.info is not None
            return caught.value

        for code, (name, _) in STATUSES.items():
            reference.answers["ScheduleJob"] = lambda _data, code=code: (code, "no")
            refusal = await refused("ScheduleJob", jobs_pb2.ScheduleJobRequest(job=JOB))
            assert refusal.code is (grpc.StatusCode.INTERNAL if code is grpc.StatusCode.UNKNOWN else code)
            assert refusal.message == f"failed to schedule job due to: rpc error: code = {name} desc = no"
            assert refusal.info.reason == "DAPR_SCHEDULER_SCHEDULE_JOB"
        for method, rpc, request, verb, reason in rows:
            reference.answers[rpc] = lambda _data: (grpc.StatusCode.NOT_FOUND, "no")
            refusal = await refused(method, request)
            assert refusal.code is grpc.StatusCode.INTERNAL
            assert refusal.message == f"failed to {verb} due to: rpc error: code = NotFound desc = no"
            assert refusal.info.reason == f"DAPR_SCHEDULER_{reason}"


async def test_callers_must_show_the_token(reference) -> None:
    async with running_sidecar(reference.address, dapr_api_token="s3cret") as sidecar:
        for shown in ((), (("dapr-api-token", "wrong"),)):
            for method, request in (
                ("GetMetadata", dapr_pb2.GetMetadataRequest()),
                ("GetJob", jobs_pb2.GetJobRequest()),
            ):
                with pytest.raises(Refusal) as caught:
                    await sidecar.grpc(method, request, shown)
                assert (caught.value.code, caught.value.message) == (grpc.StatusCode.UNAUTHENTICATED, "Unauthorized")
        await sidecar.grpc("GetMetadata", dapr_pb2.GetMetadataRequest(), (("dapr-api-token", "s3cret"),))


async def test_messages_are_limited_in_size(reference) -> None:
    async with running_sidecar(reference.address, max_body_size_bytes=100_000) as sidecar:
        large = jobs_pb2.Job(name="a", due_time="1s", data={"value": b"x" * 100_000})
        with pytest.raises(Refusal) as caught:
            await sidecar.grpc("ScheduleJob", jobs_pb2.ScheduleJobRequest(job=large))
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        large.data.value = b"x" * 99_000
        await sidecar.grpc("ScheduleJob", jobs_pb2.ScheduleJobRequest(job=large))


async def test_health_reflection_and_what_is_not_there(reference) -> None:
    async with running_sidecar(reference.address) as sidecar:
        answer = await sidecar.grpc("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest())
        assert health_pb2.HealthCheckResponse.FromString(answer).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(Refusal) as caught:
            await sidecar.grpc("InvokeService", dapr_pb2.GetMetadataRequest())
        assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED
        target = f"127.0.0.1:{sidecar.settings.dapr_grpc_port}"
        for version in ("v1", "v1alpha"):
            asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol="dapr.proto.runtime.v1.Dapr")
            async with grpc.aio.insecure_channel(target) as channel:
                call = channel.stream_stream(
                    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                    request_serializer=lambda message: message.SerializeToString(),
                    response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
                )(iter([asked]))
                response = await call.read()
            (encoded,) = response.file_descriptor_response.file_descriptor_proto
            file = FileDescriptorProto.FromString(encoded)
            (service,) = [one for one in file.service if one.name == "Dapr"]
            names = {method.name for method in service.method}
            assert {row[0] for row in METHODS} | {"GetMetadata", "SetMetadata", "Shutdown"} <= names


async def test_shutdown_ends_it_in_order(reference) -> None:
    async with running_sidecar(reference.address) as sidecar:
        await sidecar.grpc("Shutdown", dapr_pb2.ShutdownRequest())
        assert await sidecar.task == 0
