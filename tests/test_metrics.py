"""The metrics as Prometheus sees them: well named, bounded, and those of docs/metrics.md."""

import re
import subprocess
import time
from urllib.request import urlopen

import pytest

from scheduler.core import names
from scheduler.exposition import OTHER, capped
from scheduler.metrics import NAMESPACE_SERIES_MAX, DeliveryStatistics
from tests.chart.conftest import deploy_tools
from tests.support.client import Client, Watcher, job_metadata
from tests.support.processes import wait_until


def scrape(port: int) -> str:
    return urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()


def value(text: str, series: str) -> float | None:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else None


@pytest.mark.e2e
def test_a_live_replicas_metrics(cluster) -> None:
    """promtool finds no fault in ours; namespaces beyond the limit share a series; the API's calls and etcd's requests are counted."""
    replica = cluster(1).replicas[0]
    client = Client(replica.address)
    crowd = NAMESPACE_SERIES_MAX + 20
    try:
        watcher = Watcher([replica.address], app_id="a", namespace="n0")
        for number in range(crowd):
            client.schedule("x", metadata=job_metadata("a", f"n{number}"), due_time="0s")
        wait_until(
            lambda: value(scrape(replica.metrics_port), "scheduler_triggers_waiting") == crowd - 1,
            timeout_s=30,
            what="all but one wait for a stream",
        )
        text = scrape(replica.metrics_port)
        watcher.close()
        ended = 'scheduler_watch_stream_disconnects_total{code="CANCELLED"}'
        wait_until(
            lambda: value(scrape(replica.metrics_port), ended) == 1, timeout_s=30, what="the stream's end is counted"
        )
    finally:
        client.close()
    for family in ("scheduler_namespace_triggers_waiting", "scheduler_trigger_lateness_seconds_count"):
        labels = re.findall(rf'^{family}{{app_namespace="([^"]+)"}}', text, re.MULTILINE)
        assert len(labels) == NAMESPACE_SERIES_MAX + 1 and OTHER in labels, family
    assert value(text, 'scheduler_trigger_lateness_seconds_count{app_namespace="n0"}') == 1
    call = 'grpc_method="ScheduleJob",grpc_service="dapr.proto.scheduler.v1.Scheduler"'
    assert value(text, f'grpc_server_handled_total{{grpc_code="OK",{call}}}') == crowd
    assert value(text, f"grpc_server_handling_seconds_count{{{call}}}") == crowd
    assert value(text, f"grpc_server_started_total{{{call}}}") == crowd
    assert value(text, "grpc_server_started_total{" + call.replace("ScheduleJob", "WatchJobs") + "}") == 1
    assert value(text, 'scheduler_namespace_jobs{app_namespace="n1"}') == 1
    assert value(text, 'scheduler_namespace_jobs{app_namespace="_other"}') == 20
    assert abs((value(text, "scheduler_clock_timestamp_seconds") or 0) - time.time()) < 10
    assert (value(text, "scheduler_etcd_watch_lag_seconds") or 99) < 10
    assert "dapr_scheduler_jobs_created_total" in text
    assert (value(text, 'scheduler_etcd_requests_total{operation="txn",result="ok"}') or 0) > 0
    assert (value(text, 'scheduler_etcd_request_duration_seconds_count{operation="lease_keep_alive"}') or 0) > 0
    assert value(text, 'scheduler_namespace_watch_streams{app_namespace="n0"}') == 1
    assert len(text) < 200_000
    ours = "\n".join(line for line in text.splitlines() if not re.search(r"(# \w+ )?dapr_", line)) + "\n"
    result = subprocess.run(
        [deploy_tools() / "promtool", "check", "metrics"], input=ours, capture_output=True, text=True, check=False
    )
    # The counters of Python's collector and of the platform are theirs to name.
    faults = [
        line for line in result.stderr.splitlines() + result.stdout.splitlines() if not line.startswith("python_")
    ]
    assert faults == [], faults


@pytest.mark.e2e
def test_the_references_names_can_be_left_out(cluster) -> None:
    replica = cluster(1, "--metrics-dapr-names=false").replicas[0]
    text = scrape(replica.metrics_port)
    assert "scheduler_jobs_created_total" in text and "dapr_" not in text


def test_labels_that_others_choose_are_bounded() -> None:
    assert capped([(f"n{number}", 1) for number in range(5)], 3) == {"n0": 1, "n1": 1, "n2": 1, OTHER: 2}
    statistics = DeliveryStatistics()
    for number in range(NAMESPACE_SERIES_MAX + 10):
        statistics.namespace(f"n{number}").lateness.observe(0.1)
    assert len(statistics.namespaces) == NAMESPACE_SERIES_MAX + 1
    assert sum(statistics.namespaces[OTHER].lateness.counts) == 10
    assert statistics.namespace("n3") is statistics.namespaces["n3"]


@pytest.mark.parametrize("namespace", ["plain", "with||bars", "per%cent", "x" * 200])
def test_namespaces_are_shown_as_they_are(namespace: str) -> None:
    assert names.namespace_of(names.route_key(names.app_target(namespace, "a"))) == namespace[:64]
    assert names.namespace_of("app||\udc80||a") == "?"
