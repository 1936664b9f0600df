"""deploy/compose.yaml, brought up by podman-compose: three replicas serve, a job fires, Prometheus scrapes them with our rules, nothing is left.

The images are built here under the names that the file asks for. Grafana cannot be built, so it is the one service that is left out.
"""

import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator

import pytest
import yaml

from scheduler.etcd.binary import find_etcd
from tests.chart.conftest import deploy_tools
from tests.support.client import hosts_of
from tests.support.containers import RESTRICTED, container_image, environment, local_image, podman
from tests.support.processes import ROOT, answers, free_port, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FILE = ROOT / "deploy" / "compose.yaml"
SERVICES = yaml.safe_load(FILE.read_text())["services"]
PROJECT = "scheduler-test"
# Its own may be somebody's for a moment: they are of those that kernels give to outgoing connections.
PORTS = {
    name: str(free_port()) for name in ("SCHEDULER_0_PORT", "SCHEDULER_1_PORT", "SCHEDULER_2_PORT", "PROMETHEUS_PORT")
}


PROMETHEUS = f"http://127.0.0.1:{PORTS['PROMETHEUS_PORT']}"


def compose(*arguments: str) -> None:
    command = [deploy_tools() / "venv/bin/podman-compose", "-p", PROJECT, "-f", FILE, *arguments]
    result = subprocess.run(
        command, env={**environment(), **PORTS}, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr


def left() -> list[str]:
    """What podman still has of the project."""
    found = [
        podman("ps", "--all", "--format={{.Names}}"),
        podman("volume", "ls", "--format={{.Name}}"),
        podman("network", "ls", "--format={{.Name}}"),
    ]
    return [name for text in found for name in text.split() if name.startswith(PROJECT)]


@pytest.fixture
def up() -> Iterator[None]:
    assert container_image() == f"localhost/{SERVICES['scheduler-0']['image']}"
    local_image(SERVICES["etcd"]["image"], find_etcd().path, "/usr/local/bin/etcd")
    local_image(
        f"docker.io/{SERVICES['prometheus']['image']}",
        deploy_tools() / "prometheus",
        "/bin/prometheus",
        entrypoint=True,
    )
    # Of a run that was cut off.
    compose("down", "--volumes")
    try:
        compose("up", "--detach", "--no-build", *(name for name in SERVICES if name != "grafana"))
        yield
    finally:
        compose("down", "--volumes")


def query(expression: str) -> dict[str, str]:
    """Value by instance, from the composition's Prometheus."""
    with urllib.request.urlopen(f"{PROMETHEUS}/api/v1/query?query={expression}", timeout=5) as answer:
        result = json.load(answer)["data"]["result"]
    return {one["metric"]["instance"]: one["value"][1] for one in result}


def test_it_comes_up_fires_is_scraped_and_goes(up: None) -> None:
    ports = [int(PORTS[f"SCHEDULER_{index}_PORT"]) for index in range(3)]
    wait_until(lambda: all(answers(port) for port in ports), timeout_s=30, what="three replicas answer")
    names = {"scheduler-0:50006", "scheduler-1:50006", "scheduler-2:50006"}
    wait_until(
        lambda: all(set(hosts_of(f"127.0.0.1:{port}")) == names for port in ports), timeout_s=20, what="each lists all"
    )
    # From inside, as a sidecar: replicas tell names that are known there alone.
    network = f"--network={PROJECT}_default"
    verify = ("job", "verify", "--app-id=verify", "--address=scheduler-1:50006")
    assert "fired on scheduler-" in podman("run", "--rm", network, *RESTRICTED, container_image(), *verify)
    targets = {f"scheduler-{index}:9090" for index in range(3)} | {"etcd:2379"}
    wait_until(
        lambda: query("up") == dict.fromkeys(targets, "1"), timeout_s=40, what="Prometheus has scraped all of them"
    )
    with urllib.request.urlopen(f"{PROMETHEUS}/api/v1/rules", timeout=5) as answer:
        assert len(json.load(answer)["data"]["groups"]) > 1
    started = time.monotonic()
    compose("down", "--volumes")
    print(f"down took {time.monotonic() - started:.1f} s")
    assert left() == []


def test_its_ports_are_those_that_its_head_names() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {
        "scheduler-0": ["127.0.0.1:${SCHEDULER_0_PORT:-50006}:50006"],
        "scheduler-1": ["127.0.0.1:${SCHEDULER_1_PORT:-50007}:50006"],
        "scheduler-2": ["127.0.0.1:${SCHEDULER_2_PORT:-50008}:50006"],
        "prometheus": ["127.0.0.1:${PROMETHEUS_PORT:-9099}:9090"],
        "grafana": ["127.0.0.1:${GRAFANA_PORT:-3000}:3000"],
    }
