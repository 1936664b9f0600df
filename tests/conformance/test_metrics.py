"""Lines metrics/* of section 9 (scheduler-service.md): the reference's metric names and what they count.

Counters live in processes, so nobody joins or leaves here.
"""

import threading

import grpc
import pytest

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.conformance.conftest import Deployment

pytestmark = pytest.mark.e2e


def delta(deployment: Deployment, name: str, **labels: str):
    before = deployment.metric(name, **labels)
    return lambda: deployment.metric(name, **labels) - before


def test_daprconnections(still: Deployment) -> None:
    """The gauge counts streams, up and down."""
    streams = delta(still, "dapr_scheduler_sidecars_connected")
    watchers = []
    for count in range(1, 4):
        watchers.append(still.watch(f"app{count}"))
        assert streams() == count
    for count, watcher in zip((2, 1, 0), watchers, strict=True):
        watcher.close()
        still.wait(lambda count=count: streams() == count, "the stream is counted out")


def test_jobsbulkdeletedtotal(still: Deployment) -> None:
    bulk = delta(still, "dapr_scheduler_jobs_bulk_deleted_total")
    still.client.call("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=still.job()))
    still.client.call("DeleteByNamePrefix", pb.DeleteByNamePrefixRequest(metadata=still.job(), name_prefix="x"))
    assert bulk() == 2


def test_jobscreatedtotal_and_jobscreatedfailedtotal(still: Deployment) -> None:
    """Duplicates and refused jobs count as failed, by type."""
    created = {kind: delta(still, "dapr_scheduler_jobs_created_total", type=kind) for kind in ("job", "actor")}
    failed = {kind: delta(still, "dapr_scheduler_jobs_created_failed_total", type=kind) for kind in ("job", "actor")}
    for kind, metadata, duplicates in (("job", still.job(), 3), ("actor", still.actor("kind", "id"), 2)):
        still.schedule("x", metadata=metadata, due_time="1h")
        for _ in range(duplicates):
            with pytest.raises(grpc.RpcError):
                still.schedule("x", metadata=metadata, due_time="2h")
        assert (created[kind](), failed[kind]()) == (1, duplicates)
    with pytest.raises(grpc.RpcError):
        still.schedule("y", schedule="nonsense")
    assert (created["job"](), failed["job"]()) == (1, 4)


def test_jobsdeletedtotal(still: Deployment) -> None:
    """Deletes of what is not there count too."""
    deleted = {kind: delta(still, "dapr_scheduler_jobs_deleted_total", type=kind) for kind in ("job", "actor")}
    for _ in range(2):
        still.client.delete("x", still.job())
    still.client.delete("x", still.actor("kind", "id"))
    assert (deleted["job"](), deleted["actor"]()) == (2, 1)


def test_jobsfailedtotal_jobstriggeredtotal_and_jobsundeliveredtotal(still: Deployment) -> None:
    names = ("failed", "triggered", "undelivered")
    counts = {
        (name, kind): delta(still, f"dapr_scheduler_jobs_{name}_total", type=kind)
        for name in names
        for kind in ("job", "actor")
    }
    for kind, metadata in (("job", still.job()), ("actor", still.actor("kind", "id"))):
        still.schedule("x", metadata=metadata, due_time="0s")
        still.wait(lambda kind=kind: counts["undelivered", kind]() == 1, "it is counted as undelivered")
        watcher = still.watch(
            actor_types=("kind",) if kind == "actor" else (),
            verdict=lambda hit: pb.FAILED if hit.attempt < 1 else pb.SUCCESS,
        )
        still.wait(lambda kind=kind: counts["triggered", kind]() == 1, "it is counted as triggered")
        assert counts["failed", kind]() == 1
        watcher.close()


def test_sidecarerrorstotal(still: Deployment) -> None:
    """Empty ids are INVALID_ARGUMENT and count as auth_failed: one per call."""
    errors = delta(still, "dapr_scheduler_sidecar_errors_total", reason="auth_failed")
    nobody = pb.JobMetadata(namespace="n", target=pb.JobTargetMetadata(job=pb.TargetJob()))
    for method, request in (
        ("ScheduleJob", pb.ScheduleJobRequest(name="x", job=pb.Job(due_time="1h"), metadata=nobody)),
        ("GetJob", pb.GetJobRequest(name="x", metadata=nobody)),
        ("DeleteJob", pb.DeleteJobRequest(name="x", metadata=nobody)),
        ("ListJobs", pb.ListJobsRequest()),
        ("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=nobody)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            still.client.call(method, request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details().endswith("missing namespace or appID in request")
    assert errors() == 5


def test_triggerlatency(still: Deployment) -> None:
    """The histogram in milliseconds, for a handler of half a second and a quick one."""
    name = "dapr_scheduler_trigger_latency_bucket"
    bucket = {le: delta(still, name, type="actor", le=le) for le in ("100", "500", "1000", "+Inf")}
    half = threading.Event()

    def verdict(hit) -> int:
        if hit.name == "slow":
            half.wait(0.6)
        return pb.SUCCESS

    still.watch(actor_types=("kind",), verdict=verdict)
    still.schedule("quick", metadata=still.actor("kind", "id"), due_time="0s")
    still.wait(lambda: bucket["+Inf"]() == 1, "the quick one")
    still.schedule("slow", metadata=still.actor("kind", "id"), due_time="0s")
    still.wait(lambda: bucket["+Inf"]() == 2, "the slow one")
    assert {le: count() for le, count in bucket.items()} == {"100": 1, "500": 1, "1000": 2, "+Inf": 2}


def test_no_created_series(still: Deployment) -> None:
    """Metrics are as the reference's: without _created companions, whatever the path."""
    from urllib.request import urlopen

    for path in ("/metrics", "/"):
        text = urlopen(f"http://127.0.0.1:{still.home.metrics_port}{path}", timeout=30).read().decode()
        assert "dapr_scheduler_jobs_created_total" in text
        assert "_created{" not in text
        assert "_created " not in text
