"""What operators touch: health, metrics, the gRPC health and reflection services, and a start that must be refused."""

from urllib.request import urlopen

import grpc
import pytest

from scheduler._pb.grpc_services import health_pb2, reflection_pb2
from tests.support.client import Client, Watcher
from tests.support.processes import Replica, wait_until

pytestmark = pytest.mark.e2e


def fetch(port: int, path: str) -> str:
    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return answer.read().decode()


def value(metrics: str, sample: str) -> float:
    return float(next(line for line in metrics.splitlines() if line.startswith(sample + " ")).rpartition(" ")[2])


def test_health_and_metrics_tell_what_happens(cluster) -> None:
    one = cluster(1)
    replica = one.replicas[0]
    assert fetch(replica.health_port, "/healthz") == ""
    assert fetch(replica.health_port, "/readyz") == fetch(replica.health_port, "/livez") == "ok\n"
    watcher = Watcher(one.addresses)
    client = Client(one.addresses[0])
    client.schedule("twice", schedule="@every 1s", repeats=2)
    wait_until(lambda: len(watcher.hits) == 2, timeout_s=30, what="both triggers")
    wait_until(lambda: not client.list(), timeout_s=30, what="the finished job is gone")
    metrics = fetch(replica.metrics_port, "/metrics")
    assert metrics == fetch(replica.metrics_port, "/") or "scheduler_jobs" in metrics
    assert value(metrics, 'scheduler_triggers_succeeded_total{type="job"}') == 2
    assert value(metrics, 'dapr_scheduler_jobs_triggered_total{type="job"}') == 2
    assert value(metrics, "dapr_scheduler_sidecars_connected") == 1
    assert value(metrics, "scheduler_owned_partitions") == 128
    assert value(metrics, 'scheduler_trigger_lateness_seconds_count{app_namespace="default"}') == 2
    assert value(metrics, "scheduler_jobs_finished_total") == 1
    assert "_created " not in metrics
    watcher.close()
    client.close()


def test_grpc_health_and_reflection(cluster) -> None:
    with grpc.insecure_channel(cluster(1).addresses[0]) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        request = health_pb2.HealthCheckRequest(service="dapr.proto.scheduler.v1.Scheduler").SerializeToString()
        assert (
            health_pb2.HealthCheckResponse.FromString(check(request, timeout=30)).status
            == health_pb2.HealthCheckResponse.SERVING
        )
        request = health_pb2.HealthCheckRequest(service="scheduler.admin.v1.Admin").SerializeToString()
        answer = health_pb2.HealthCheckResponse.FromString(check(request, timeout=30))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        ask = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="dapr.proto.scheduler.v1.Scheduler"),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="scheduler.admin.v1.Admin"),
        ]
        for version in ("v1", "v1alpha"):
            reflect = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
            answers = [
                reflection_pb2.ServerReflectionResponse.FromString(one)
                for one in reflect(iter([a.SerializeToString() for a in ask]), timeout=30)
            ]
            names = [service.name for service in answers[0].list_services_response.service]
            assert "dapr.proto.scheduler.v1.Scheduler" in names
            assert b"WatchJobs" in answers[1].file_descriptor_response.file_descriptor_proto[0]
            assert "scheduler.admin.v1.Admin" in names
            assert b"DrainMember" in answers[2].file_descriptor_response.file_descriptor_proto[0]


def test_another_number_of_partitions_is_refused(cluster, tmp_path) -> None:
    one = cluster(1)
    other = Replica("other", tmp_path / "other", one.etcd.endpoint, "--partitions=64").start()
    assert other.process is not None
    assert other.process.wait(20) == 1
    assert "--partitions is 64" in other.tail() and "128" in other.tail()


def test_a_replica_that_crashed_comes_back_under_its_name_without_waiting(cluster) -> None:
    one = cluster(1, "--lease-ttl=60")
    replica = one.replicas[0]
    replica.kill()
    replica.start()
    replica.wait_healthy(timeout_s=10)
    one.settle(timeout_s=10)
