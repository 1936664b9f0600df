"""Every panel of every dashboard shows something: its queries against a real Prometheus that scrapes a running cluster, by the rules that we ship."""

import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from tests.chart.conftest import deploy_tools
from tests.support.client import Client, Watcher, job_metadata
from tests.support.processes import ROOT, Child, free_port, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "deploy" / "grafana").glob("*.json"))}


class Prometheus(Child):
    """A server that scrapes each second."""

    def __init__(self, directory: Path, targets: dict[str, list[str]]) -> None:
        directory.mkdir()
        super().__init__(directory / "prometheus.log")
        self.port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ROOT / "deploy" / "prometheus" / "scheduler.rules.yml")],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": addresses}]} for job, addresses in targets.items()
            ],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.spawn(
            [
                str(deploy_tools() / "prometheus"),
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--enable-feature=exemplar-storage",
            ]
        )

    def ask(self, path: str, **parameters: str) -> Any:
        with urlopen(f"http://127.0.0.1:{self.port}/{path}?{urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def ready(self) -> bool:
        try:
            return all(one["health"] == "up" for one in self.ask("api/v1/targets")["activeTargets"])
        except OSError:
            return False

    def shows(self, query: str) -> bool:
        """Whether a query gives at least one number."""
        return any(not math.isnan(float(one["value"][1])) for one in self.ask("api/v1/query", query=query)["result"])


def queries() -> Iterator[tuple[str, str]]:
    for key, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            for target in panel["targets"]:
                yield f"{key}: {panel['title']} {target['refId']}", target["expr"]


def filled(query: str) -> str:
    """As Grafana fills it in while everything is selected."""
    for name in ("namespace", "job", "instance", "app_namespace"):
        query = query.replace(f'"${name}"', '".*"')
    query = query.replace("$__rate_interval", "20s").replace("$__range", "20s")
    assert "$" not in query, query
    return query


def test_every_panel_shows_something(cluster: Callable[..., Any], tmp_path: Path) -> None:
    """Also while the replicas trace, and so are scraped in OpenMetrics: Prometheus has exemplars then."""
    three = cluster(3, "--tracing=link")
    targets = {
        "scheduler": [f"127.0.0.1:{one.metrics_port}" for one in three.replicas],
        "etcd": [f"127.0.0.1:{three.etcd.port}"],
    }
    prometheus = Prometheus(tmp_path / "prometheus", targets)
    client = Client(three.addresses[0])
    watchers: list[Watcher] = []
    try:
        wait_until(prometheus.ready, timeout_s=30, what="all targets are scraped")
        watchers.append(Watcher(three.addresses, namespace="shop"))
        watchers.append(Watcher(three.addresses, namespace="sick", verdict=lambda _hit: pb.FAILED))
        for namespace in ("shop", "sick", "nobody"):
            for number in range(6):
                client.schedule(f"job{number}", metadata=job_metadata("app", namespace), schedule="@every 1s")
        wait_until(
            lambda: prometheus.shows("min(count_over_time(scheduler_ready[1m])) >= 4"),
            timeout_s=30,
            what="there is a before, for rates",
        )
        # Partitions move: loads, claims and resyncs have something to show.
        three.replicas[2].terminate()
        three.replicas[2].start()
        open_queries = {name: filled(query) for name, query in queries()}
        assert len(open_queries) > 50
        deadline = time.monotonic() + 60
        while open_queries and time.monotonic() < deadline:
            client.schedule(f"one{time.monotonic_ns()}", metadata=job_metadata("app", "shop"), due_time="0s")
            open_queries = {name: query for name, query in open_queries.items() if not prometheus.shows(query)}
            time.sleep(0.5)  # Prometheus scrapes once a second: asking more often costs it more than it tells.
        assert not open_queries
        for dashboard in DASHBOARDS.values():
            for annotation in dashboard["annotations"]["list"]:
                prometheus.ask("api/v1/query", query=filled(annotation["expr"]))
        wait_until(
            lambda: prometheus.shows('ALERTS{alertname="SchedulerNoConsumers",app_namespace="nobody"}'),
            timeout_s=30,
            what="the alert about nobody's jobs is pending",
        )
        now_s = time.time()
        found = prometheus.ask(
            "api/v1/query_exemplars",
            query="scheduler_trigger_lateness_seconds_bucket",
            start=str(now_s - 60),
            end=str(now_s + 60),
        )
        assert any(one["labels"]["trace_id"] for series in found for one in series["exemplars"])
        unhealthy = [
            rule
            for group in prometheus.ask("api/v1/rules")["groups"]
            for rule in group["rules"]
            if rule["health"] != "ok"
        ]
        assert unhealthy == []
    finally:
        for watcher in watchers:
            watcher.close()
        client.close()
        prometheus.close()


@pytest.mark.parametrize("key", DASHBOARDS)
def test_dashboards_are_complete(key: str) -> None:
    """Fixed ids, descriptions and units, variables instead of names, and nothing that overlaps."""
    dashboard = DASHBOARDS[key]
    assert dashboard["uid"] == f"scheduler-{key}"
    names = {one["name"] for one in dashboard["templating"]["list"]}
    assert {"datasource", "namespace", "job", "instance"} <= names
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert len(panel["description"]) > 9 and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken and all(x < 24 for x, _ in cells), panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def unknown_to_grafana(dashboards: dict[str, Any]) -> list[str]:
    """What Grafana's own models do not know."""
    command = [deploy_tools() / "venv/bin/python", ROOT / "tests/support/validate_dashboards.py"]
    result = subprocess.run(command, input=json.dumps(dashboards), capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found: list[str] = json.loads(result.stdout)
    return found


def test_grafanas_own_models_know_every_field() -> None:
    assert unknown_to_grafana(DASHBOARDS) == []
    # The check can fail: a typing error in a dashboard, in a panel, in its options and in its query is found.
    broken = json.loads(json.dumps(DASHBOARDS["overview"]))
    panel = next(one for one in broken["panels"] if one["type"] == "timeseries")
    for place in (broken, panel, panel["fieldConfig"]["defaults"]["custom"], panel["targets"][0]):
        place["typo"] = 1
    assert len(unknown_to_grafana({"broken": broken})) == 4
