"""Every error of the house has a status, and large payloads pass where etcd is configured for them."""

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.rpc import error_details_pb2, status_pb2

import scheduler.store.codec
import scheduler.store.errors  # noqa: F401 - defines what the walk must find
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core.errors import InvalidJob, InvalidName, SchedulerError
from scheduler.http2.grpc import Status, encode_binary, encode_text
from scheduler.rpc.status import STATUS, rpc_error
from scheduler.store.errors import JobExists
from tests.conftest import Cluster
from tests.support.client import Client
from tests.support.processes import EtcdServer


def subclasses(kind: type) -> set[type]:
    return {one for child in kind.__subclasses__() for one in (child, *subclasses(child))}


def test_every_error_class_has_a_status() -> None:
    """Of the rooms below the API; other rooms' errors never reach it, whatever else this process has imported."""
    below = {
        kind for kind in subclasses(SchedulerError) if kind.__module__.startswith(("scheduler.core", "scheduler.store"))
    }
    assert len(below) > 8
    assert below <= set(STATUS)


@pytest.mark.parametrize(
    ("error", "field"),
    [(InvalidJob("due_time", "due time format not recognized"), "job.due_time"), (InvalidName("bad"), "name")],
)
def test_bad_jobs_name_their_field_for_programs(error: SchedulerError, field: str) -> None:
    """The status is UNKNOWN, as recorded from the reference; the details say more (W49)."""
    answer = rpc_error(error)
    rich = status_pb2.Status.FromString(answer.details)
    bad = error_details_pb2.BadRequest()
    assert rich.details[0].Unpack(bad)
    assert (answer.status, rich.code, rich.message) == (Status.UNKNOWN, 2, answer.message)
    assert [(one.field, one.description) for one in bad.field_violations] == [(field, str(error))]
    assert rpc_error(JobExists("x")).details == b""


@pytest.mark.parametrize("character", ["x", "\n", "\U0001f600"])
def test_an_answer_never_outgrows_what_clients_take(character: str) -> None:
    """Found by the fuzzer: the details quoted a long name, and the client saw RESOURCE_EXHAUSTED for its own limit on trailers."""
    answer = rpc_error(InvalidName(f"job name is invalid {character * 70_000}: too long"))
    assert len(encode_text(answer.message)) + len(encode_binary(answer.details)) < 7_500


def job(size: int) -> pb.Job:
    return pb.Job(due_time="1h", data=Any(type_url="t", value=b"x" * size))


@pytest.mark.e2e
def test_two_megabytes_round_trip_where_etcd_takes_them(tmp_path) -> None:
    etcd = EtcdServer(tmp_path / "etcd", "--max-request-bytes=8388608").start()
    cluster = Cluster(etcd, tmp_path)
    try:
        client = Client(cluster.start(1, "--etcd-max-request-bytes=8388608").addresses[0])
        for number in range(10):
            request = pb.ScheduleJobRequest(
                name=f"large-{number}",
                job=job(2_000_000),
                metadata=pb.JobMetadata(
                    app_id="app", namespace="default", target=pb.JobTargetMetadata(job=pb.TargetJob())
                ),
            )
            client.call("ScheduleJob", request, timeout=20)
        assert [len(one.job.data.value) for one in client.list()] == [2_000_000] * 10
        with pytest.raises(grpc.RpcError) as caught:
            client.schedule("too-large", due_time="1h", data=Any(value=b"x" * 9_000_000))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        client.close()
    finally:
        cluster.close()
        etcd.close()
