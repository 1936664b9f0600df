"""Sentences of scheduler-service.md sections 1, 5 and 7 that neither section 9 nor the recorded calls show."""

import contextlib
import signal
import threading
import time
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest

from scheduler._pb.dapr.proto.common.v1 import common_pb2 as common
from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.conformance.conftest import Deployment
from tests.support.client import SERVICE
from tests.support.processes import Replica, wait_until

pytestmark = pytest.mark.e2e


def details(deployment: Deployment, **job) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        deployment.schedule("refused", **job)
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    return caught.value.details().removeprefix("job failed validation: ")


def test_unset_is_not_empty(still: Deployment) -> None:
    """1.2: every scalar of a Job has presence; what was unset comes back unset, what was empty is judged as empty."""
    assert details(still, schedule="") == "empty spec string"
    assert details(still, due_time="") == "due time format not recognized"
    assert details(still, schedule="@daily", ttl="") == "ttl format not recognized"
    assert details(still, schedule="@daily", repeats=0) == "defined repeats must be greater than 0"
    still.schedule("bare", due_time="1h")
    bare = still.client.get("bare", still.job())
    assert [field.name for field, _ in bare.ListFields()] == ["due_time", "failure_policy"]
    for retries in (None, 0, 7):
        constant = common.JobFailurePolicyConstant(max_retries=retries)
        still.schedule("p", due_time="1h", failure_policy=common.JobFailurePolicy(constant=constant), overwrite=True)
        got = still.client.get("p", still.job()).failure_policy.constant
        assert (got.HasField("max_retries"), got.HasField("interval"), got) == (retries is not None, False, constant)
    still.schedule("none", due_time="1h", failure_policy=common.JobFailurePolicy())
    assert still.client.get("none", still.job()).failure_policy.constant.max_retries == 3
    for key in (None, "", "k"):
        metadata = still.actor("kind", "id")
        if key is not None:
            metadata.concurrency_key = key
        still.schedule("x", metadata=metadata, due_time="1h", overwrite=True)
        [listed] = still.client.list(metadata)
        assert listed.metadata == metadata
        assert listed.metadata.HasField("concurrency_key") == (key is not None)


def test_ids_count_from_one_on_each_stream_and_carry_what_was_stored(still: Deployment) -> None:
    """5.3: name without prefix, id per stream from 1 on, data, and the metadata as stored."""
    metadata = still.actor("kind", "id")
    metadata.concurrency_key = "k"
    still.schedule("a", "b", "c", metadata=metadata, due_time="0s")
    for _ in range(2):
        watcher = still.watch(actor_types=("kind",), verdict=lambda _hit: None)
        still.wait(lambda watcher=watcher: len(watcher.hits) == 3, "all three")
        assert [hit.message.id for hit in watcher.hits] == [1, 2, 3]
        assert {(hit.name, hit.message.metadata.SerializeToString()) for hit in watcher.hits} == {
            (name, metadata.SerializeToString()) for name in "abc"
        }
        watcher.close()
    still.client.call("DeleteByMetadata", pb.DeleteByMetadataRequest(metadata=metadata))


def test_what_is_staged_is_delivered_after_its_ttl(still: Deployment) -> None:
    """2.6: ttl bounds scheduled times, not the clock; a staged tick is still delivered afterwards, and then the job is gone."""
    still.schedule("x", schedule="@every 500ms", due_time="0s", ttl="1s")
    time.sleep(1.6)
    watcher = still.watch()
    still.wait(lambda: still.client.list(still.job()) == [], "it is finished")
    assert [hit.index for hit in watcher.hits] == [0, 1, 2]


def test_garbage_is_refused_counted_and_harms_nobody(still: Deployment) -> None:
    """Bytes that are no message, as every call's request and as a stream's first and second message."""
    watcher = still.watch()

    def refused() -> list[float]:
        labels = {"grpc_code": "INVALID_ARGUMENT", "grpc_service": "dapr.proto.scheduler.v1.Scheduler"}
        return [
            still.metric("grpc_server_handled_total", grpc_method=method, **labels) for method in (*unary, "WatchJobs")
        ]

    unary = ("ScheduleJob", "GetJob", "DeleteJob", "ListJobs", "DeleteByMetadata", "DeleteByNamePrefix")
    streams = lambda: still.metric("dapr_scheduler_sidecar_errors_total", reason="recv_failed")  # noqa: E731
    before, broken = refused(), streams()
    channel = still.client.channel
    for garbage in (b"\xff", b"\x0a\x7f", b"\x0b" * 100, b"\x0a\x02\xc3\x28"):
        for method in unary:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"{SERVICE}/{method}")(garbage, timeout=30)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (method, garbage)
        for messages in ([garbage], [_initial(still), garbage]):
            with pytest.raises(grpc.RpcError) as caught:
                list(channel.stream_stream(f"{SERVICE}/WatchJobs")(iter(messages), timeout=30))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, garbage
        assert next(channel.unary_stream(f"{SERVICE}/WatchHosts")(garbage, timeout=30))
    assert [after - was for after, was in zip(refused(), before, strict=True)] == [4] * 6 + [8]
    assert streams() - broken == 4 * 2
    still.schedule("x", due_time="0s")
    still.wait(lambda: watcher.hits, "others are served")
    assert not watcher.errors


def _initial(deployment: Deployment) -> bytes:
    initial = pb.WatchJobsRequestInitial(app_id="garbage", namespace=deployment.namespace)
    return pb.WatchJobsRequest(initial=initial).SerializeToString()


# 7.3: name, type; `type` and other labels are shown by test_metrics.py.
METRICS = {
    "dapr_scheduler_sidecars_connected": "gauge",
    "dapr_scheduler_jobs_created_total": "counter",
    "dapr_scheduler_jobs_created_failed_total": "counter",
    "dapr_scheduler_jobs_deleted_total": "counter",
    "dapr_scheduler_jobs_bulk_deleted_total": "counter",
    "dapr_scheduler_jobs_triggered_total": "counter",
    "dapr_scheduler_jobs_failed_total": "counter",
    "dapr_scheduler_jobs_undelivered_total": "counter",
    "dapr_scheduler_trigger_latency": "histogram",
    "dapr_scheduler_concurrency_inflight": "gauge",
    "dapr_scheduler_concurrency_pending": "gauge",
    "dapr_scheduler_concurrency_throttled_total": "counter",
    "dapr_scheduler_sidecar_errors_total": "counter",
}


def test_every_metric_of_the_reference_is_there(still: Deployment) -> None:
    with urlopen(f"http://127.0.0.1:{still.home.metrics_port}/", timeout=30) as answer:
        text = answer.read().decode()
    types = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE "))
    assert {name: types.get(name, types.get(name.removesuffix("_total"))) for name in METRICS} == METRICS
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total"} <= set(types)


def test_health_is_empty_and_says_503_until_there_is_etcd(own) -> None:
    """7.2: 200 or 503 with an empty body; 503 as long as etcd is not there, and the process waits for it."""
    deployment: Deployment = own(1)
    replica = Replica("early", deployment.cluster.directory / "early", "http://127.0.0.1:1")
    try:
        replica.start()

        def asked() -> bool:
            try:
                urlopen(f"http://127.0.0.1:{replica.health_port}/healthz", timeout=1)
            except HTTPError as error:
                return (error.code, error.read()) == (503, b"")
            except OSError:
                return False
            return False

        wait_until(asked, timeout_s=30, what="it says that it is not ready")
        assert replica.terminate() == 0
    finally:
        replica.close()
    with urlopen(f"http://127.0.0.1:{deployment.home.health_port}/healthz", timeout=30) as answer:
        assert (answer.status, answer.read()) == (200, b"")


@pytest.mark.parametrize("etcd_stopped", [False, True])
def test_the_end_comes_in_time_whatever_the_streams_do(own, etcd_stopped: bool) -> None:
    """7.4: a stream that says nothing, one that never answers, one that never reads; and all that with an etcd that does not answer."""
    deployment: Deployment = own(1)
    home, etcd = deployment.home, deployment.cluster.etcd
    hung = deployment.watch("hung", verdict=lambda _hit: None)
    deployment.schedule(*(f"j{number}" for number in range(100)), metadata=deployment.job("hung"), due_time="0s")
    deployment.wait(lambda: len(hung.hits) == 100, "triggers are in flight")
    silence = threading.Event()
    wait_forever = iter(lambda: silence.wait(60) or None, None)
    with grpc.insecure_channel(home.address) as channel:
        silent = channel.stream_stream(f"{SERVICE}/WatchJobs")(wait_forever)
        hosts = channel.unary_stream(f"{SERVICE}/WatchHosts")(b"")
        next(hosts)
        if etcd_stopped:
            etcd.process.send_signal(signal.SIGSTOP)
        try:
            started = time.monotonic()
            home.process.send_signal(signal.SIGTERM)
            assert home.process.wait(40) == 0, home.tail()
            assert time.monotonic() - started < 30
        finally:
            if etcd_stopped:
                etcd.process.send_signal(signal.SIGCONT)
        silence.set()
        with contextlib.suppress(grpc.RpcError):
            list(hosts)
        silent.cancel()
