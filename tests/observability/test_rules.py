"""The rules: promtool takes them, each alert fires when it should and not when it nearly should, and the chart's are the same."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.conftest import Chart, deploy_tools, find
from tests.support.processes import ROOT

RULES = ROOT / "deploy" / "prometheus" / "scheduler.rules.yml"
ALERTS = sorted(path.stem for path in (ROOT / "charts/scheduler/files/alerts").glob("*.yaml"))
R = 'namespace="n",job="j",instance="a"'
LATE = "scheduler_trigger_lateness_seconds"


def late(share_late: float) -> dict[str, str]:
    """A thousand triggers a minute, of which a share is later than a second."""
    good = round(1000 * (1 - share_late))
    return {f'{LATE}_bucket{{{R},le="1.0"}}': f"0+{good}x60", f"{LATE}_count{{{R}}}": "0+1000x60"}


def loop(bucket: str) -> dict[str, str]:
    series = {}
    for bound in ("0.1", "0.25", "0.5", "1.0", "+Inf"):
        count = 100 if bound == "+Inf" or float(bound) >= float(bucket) else 90
        series[f'scheduler_event_loop_lag_seconds_bucket{{{R},le="{bound}"}}'] = f"0+{count}x60"
    return series


def etcd(bucket: str) -> dict[str, str]:
    return {
        name.replace(
            "scheduler_event_loop_lag_seconds_bucket{",
            'scheduler_etcd_request_duration_seconds_bucket{operation="txn",',
        ): values
        for name, values in loop(bucket).items()
    }


# By alert: series in which it fires, series in which it does not, and the minute at which both are looked at. A sample a minute.
CASES: dict[str, tuple[dict[str, str], dict[str, str], str]] = {
    "SchedulerDown": ({"other": "1x60"}, {f"scheduler_build_info{{{R}}}": "1x60"}, "10m"),
    "SchedulerReplicaDown": (
        {f"up{{{R}}}": "1x10 0x50", f"scheduler_build_info{{{R}}}": "1x10 stale"},
        {f"up{{{R}}}": "1x10 0x3 1x50", f"scheduler_build_info{{{R}}}": "1x60", 'up{job="other",instance="b"}': "0x60"},
        "20m",
    ),
    "SchedulerReplicaNotReady": ({f"scheduler_ready{{{R}}}": "0x60"}, {f"scheduler_ready{{{R}}}": "0x4 1x60"}, "10m"),
    "SchedulerLatenessBudgetBurnFast": (late(0.03), late(0.01), "30m"),
    "SchedulerLatenessBudgetBurnSlow": (late(0.01), late(0.004), "40m"),
    "SchedulerOccurrencesGivenUp": (
        {f"scheduler_occurrences_given_up_total{{{R}}}": "0x5 3x60"},
        {f"scheduler_occurrences_given_up_total{{{R}}}": "3x60"},
        "10m",
    ),
    "SchedulerTriggersRepeated": (
        {
            f'scheduler_triggers_repeated_total{{{R},reason="failed"}}': "0+3x60",
            f"scheduler_triggers_sent_total{{{R}}}": "0+100x60",
        },
        {
            f'scheduler_triggers_repeated_total{{{R},reason="failed"}}': "0+1x60",
            f"scheduler_triggers_sent_total{{{R}}}": "0+200x60",
        },
        "30m",
    ),
    "SchedulerClockSkew": (
        {f"scheduler_clock_timestamp_seconds{{{R}}}": "0.8+60x60"},
        {f"scheduler_clock_timestamp_seconds{{{R}}}": "0.2+60x60"},
        "10m",
    ),
    "SchedulerEtcdWatchStalled": (
        {f"scheduler_etcd_watch_lag_seconds{{{R}}}": "5x3 60x60"},
        {f"scheduler_etcd_watch_lag_seconds{{{R}}}": "5x60"},
        "10m",
    ),
    "SchedulerPartitionsUnowned": (
        {f"scheduler_owned_partitions{{{R}}}": "127x60", f"scheduler_partitions{{{R}}}": "128x60"},
        {f"scheduler_owned_partitions{{{R}}}": "128x60", f"scheduler_partitions{{{R}}}": "128x60"},
        "10m",
    ),
    "SchedulerPartitionOwnedTwice": (
        {
            f"scheduler_owned_partitions{{{R}}}": "64x60",
            f'scheduler_owned_partitions{{{R.replace("=a", "=b")},pod="b"}}': "65x60",
            f"scheduler_partitions{{{R}}}": "128x60",
        },
        {f"scheduler_owned_partitions{{{R}}}": "128x60", f"scheduler_partitions{{{R}}}": "128x60"},
        "10m",
    ),
    "SchedulerLeaseNearExpiry": (
        {f"scheduler_lease_expiry_timestamp_seconds{{{R}}}": "0.2+60x60"},
        {f"scheduler_lease_expiry_timestamp_seconds{{{R}}}": "4+60x60"},
        "10m",
    ),
    "SchedulerBacklog": (
        {f"scheduler_triggers_waiting{{{R}}}": "20000x60"},
        {f"scheduler_triggers_waiting{{{R}}}": "9000x60"},
        "20m",
    ),
    "SchedulerNoConsumers": (
        {f'scheduler_namespace_triggers_waiting{{{R},app_namespace="shop"}}': "5x60"},
        {
            f'scheduler_namespace_triggers_waiting{{{R},app_namespace="shop"}}': "5x60",
            f'scheduler_namespace_watch_streams{{{R},app_namespace="shop"}}': "1x60",
        },
        "20m",
    ),
    "SchedulerOldestDue": (
        {f"scheduler_oldest_due_seconds{{{R}}}": "0+60x60"},
        {f"scheduler_oldest_due_seconds{{{R}}}": "50x60"},
        "10m",
    ),
    "SchedulerEngineStuck": (
        {f"scheduler_engine_stuck_seconds{{{R}}}": "20x60"},
        {f"scheduler_engine_stuck_seconds{{{R}}}": "2x60"},
        "10m",
    ),
    "SchedulerEventLoopBlocked": (loop("0.5"), loop("0.1"), "20m"),
    "SchedulerEtcdSlow": (etcd("1.0"), etcd("0.25"), "20m"),
    "SchedulerEtcdErrors": (
        {
            f'scheduler_etcd_requests_total{{{R},operation="txn",result="ok"}}': "0+90x60",
            f'scheduler_etcd_requests_total{{{R},operation="txn",result="unknown"}}': "0+10x60",
        },
        {
            f'scheduler_etcd_requests_total{{{R},operation="txn",result="ok"}}': "0+99x60",
            f'scheduler_etcd_requests_total{{{R},operation="txn",result="unknown"}}': "0+1x60",
        },
        "20m",
    ),
    "SchedulerEtcdQuota": (
        {f"etcd_mvcc_db_total_size_in_bytes{{{R}}}": "90x60", f"etcd_server_quota_backend_bytes{{{R}}}": "100x60"},
        {f"etcd_mvcc_db_total_size_in_bytes{{{R}}}": "70x60", f"etcd_server_quota_backend_bytes{{{R}}}": "100x60"},
        "20m",
    ),
    "SchedulerEtcdDefragNeeded": (
        {
            f"etcd_mvcc_db_total_size_in_bytes{{{R}}}": "1e9x120",
            f"etcd_mvcc_db_total_size_in_use_in_bytes{{{R}}}": "1e8x120",
        },
        {
            f"etcd_mvcc_db_total_size_in_bytes{{{R}}}": "1e8x120",
            f"etcd_mvcc_db_total_size_in_use_in_bytes{{{R}}}": "1e7x120",
        },
        "90m",
    ),
    "SchedulerCertificateExpiry": (
        {f'scheduler_certificate_expiry_timestamp_seconds{{{R},source="server"}}': "80000x60"},
        {f'scheduler_certificate_expiry_timestamp_seconds{{{R},source="server"}}': "90000x60"},
        "10m",
    ),
    "SchedulerCertificateRefused": (
        {f'scheduler_certificate_reloads_total{{{R},result="failed"}}': "0x5 1x60"},
        {
            f'scheduler_certificate_reloads_total{{{R},result="failed"}}': "1x60",
            f'scheduler_certificate_reloads_total{{{R},result="ok"}}': "0+1x60",
        },
        "10m",
    ),
    "SchedulerSettingsRefused": (
        {f"scheduler_config_reload_success{{{R}}}": "1x5 0x60"},
        {f"scheduler_config_reload_success{{{R}}}": "1x60"},
        "10m",
    ),
    "SchedulerVersionSkew": (
        {f'scheduler_build_info{{{R},version="1"}}': "1x120", f'scheduler_build_info{{{R},version="2"}}': "1x120"},
        {
            f'scheduler_build_info{{{R},version="1"}}': "1x120",
            f'scheduler_build_info{{{R},version="2"}}': "_x30 1x10 stale",
        },
        "90m",
    ),
    "SchedulerRebalanceStorm": (
        {f"scheduler_claims_gained_total{{{R}}}": "0+60x60", f"scheduler_partitions{{{R}}}": "128x60"},
        {f"scheduler_claims_gained_total{{{R}}}": "0+10x60", f"scheduler_partitions{{{R}}}": "128x60"},
        "30m",
    ),
    "SchedulerCorruptRecords": (
        {f"scheduler_corrupt_records_total{{{R}}}": "0x5 1x60"},
        {f"scheduler_corrupt_records_total{{{R}}}": "1x60"},
        "10m",
    ),
}


def promtool(*arguments: str | Path) -> str:
    result = subprocess.run([deploy_tools() / "promtool", *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_promtool_takes_the_rules() -> None:
    assert "34 rules found" in promtool("check", "rules", RULES)


def test_every_alert_fires_when_it_should_and_not_when_it_nearly_should(tmp_path: Path) -> None:
    assert sorted(CASES) == ALERTS
    tests = []
    for name, (firing, quiet, at) in CASES.items():
        for series, expected in ((firing, 1), (quiet, 0)):
            query = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
            samples = [{"labels": "{}", "value": 1}] if expected else []
            tests.append(
                {
                    "name": f"{name} {'fires' if expected else 'is quiet'}",
                    "interval": "1m",
                    "input_series": [{"series": key, "values": values} for key, values in series.items()],
                    "promql_expr_test": [{"expr": query, "eval_time": at, "exp_samples": samples}],
                }
            )
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", path)


def test_what_an_alert_says(tmp_path: Path) -> None:
    """Labels and annotations with the value filled in."""
    labels = {"namespace": "n", "job": "j", "severity": "critical"}
    annotations = {
        "summary": "Partitions have no owner",
        "description": "j owns only 127 partitions together.",
        "runbook_url": "docs/runbooks/SchedulerPartitionsUnowned.md",
        "dashboard": "scheduler-overview",
    }
    firing, _, at = CASES["SchedulerPartitionsUnowned"]
    test = {
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in firing.items()],
        "alert_rule_test": [
            {
                "eval_time": at,
                "alertname": "SchedulerPartitionsUnowned",
                "exp_alerts": [{"exp_labels": labels, "exp_annotations": annotations}],
            }
        ],
    }
    path = tmp_path / "tests.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", path)


@pytest.fixture
def chart() -> Chart:
    return Chart(deploy_tools())


def rule(chart: Chart, values: str) -> dict[str, Any]:
    return find(chart.render(f"metrics: {{prometheusRule: {{enabled: true, {values}}}}}"), "PrometheusRule")["spec"]


def test_the_charts_rules_are_these(chart: Chart) -> None:
    ours = yaml.safe_load(RULES.read_text())
    assert rule(chart, "labels: {}") == ours


def test_values_change_alerts(chart: Chart) -> None:
    values = (
        "excludeRules: [SchedulerDown], alertLabels: {team: x}, runbookUrl: 'https://w/', "
        "overrides: {SchedulerBacklog: {severity: page, for: 1h, threshold: 7}, SchedulerNoConsumers: {threshold: 0}}"
    )
    alerts = {one["alert"]: one for one in rule(chart, values)["groups"][1]["rules"]}
    assert set(alerts) == set(ALERTS) - {"SchedulerDown"}
    backlog = alerts["SchedulerBacklog"]
    assert backlog["expr"].strip().endswith("> 7") and backlog["for"] == "1h"
    assert backlog["labels"] == {"severity": "page", "team": "x"}
    assert backlog["annotations"]["runbook_url"] == "https://w/SchedulerBacklog.md"
    for helm in ("helm3", "helm4"):
        text = chart.refusal("metrics: {prometheusRule: {enabled: true, excludeRules: [SchedulerDwon]}}", helm)
        assert "names the alert SchedulerDwon, which there is not" in text


def test_every_alert_has_a_runbook_with_four_parts() -> None:
    for name in ALERTS:
        text = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
        assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == ["Meaning", "Impact", "Diagnosis", "Mitigation"], name
        assert all(len(part.strip()) > 20 for part in text.split("## ")[1:]), name


def test_every_metric_that_is_named_is_there() -> None:
    """In rules, runbooks, dashboards and the chart; of ours alone."""
    documented = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    texts = [RULES, *(ROOT / "docs" / "runbooks").glob("*.md"), *(ROOT / "deploy" / "grafana").glob("*.json")]
    texts.append(ROOT / "charts/scheduler/templates/autoscaling.yaml")
    for path in texts:
        for name in re.findall(r"(?<![\w:])(?:dapr_)?scheduler_[a-z_]+", path.read_text()):
            base = re.sub(r"_(bucket|count|sum)$", "", name)
            assert base in documented, f"{path.name}: {name}"


def test_every_log_event_that_is_named_is_there() -> None:
    source = "".join(path.read_text() for path in (ROOT / "scheduler").rglob("*.py"))
    for path in (ROOT / "docs" / "runbooks").glob("*.md"):
        for line in path.read_text().splitlines():
            if "Logs:" in line:
                for event in re.findall(r"`([a-z]+_[a-z_]+)`", line):
                    assert f'"{event}"' in source, f"{path.name}: {event}"


def test_the_same_dashboards_in_deploy_and_in_the_chart(chart: Chart) -> None:
    manifests = chart.render("metrics: {dashboards: {enabled: true, folder: F, grafanaOperator: true}}")
    maps = {
        one["metadata"]["name"]: one
        for one in manifests
        if "dashboard-" in one["metadata"]["name"] and one["kind"] == "ConfigMap"
    }
    ours = {path.stem: json.loads(path.read_text()) for path in (ROOT / "deploy" / "grafana").glob("*.json")}
    assert len(ours) == 5
    for key, dashboard in ours.items():
        one = maps[f"release-scheduler-dashboard-{key}"]
        assert json.loads(one["data"][f"scheduler-{key}.json"]) == dashboard
        assert (
            one["metadata"]["labels"]["grafana_dashboard"] == "1"
            and one["metadata"]["annotations"]["grafana_folder"] == "F"
        )
    assert len([one for one in manifests if one["kind"] == "GrafanaDashboard"]) == 5
