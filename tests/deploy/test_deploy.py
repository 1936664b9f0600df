"""deploy/: what stands in it fits the product, and itself."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from scheduler import __version__, app
from scheduler.cli import main
from scheduler.config import ServeSettings
from tests.chart.conftest import deploy_tools
from tests.support.processes import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def settings(arguments: list[str], environment: dict[str, str]) -> ServeSettings:
    """What `scheduler` makes of them."""
    taken: list[ServeSettings] = []

    async def run(found: ServeSettings, *_: object, **__: object) -> int:
        taken.append(found)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app, "run", run)
        result = CliRunner().invoke(main, arguments, env=environment)
    assert result.exit_code == 0, result.output
    return taken[0]


def test_the_dockerfile_is_well_made() -> None:
    hadolint = deploy_tools() / "venv/bin/hadolint"
    result = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")
    text = (DEPLOY / "Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text()
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE), (
        "numeric, so that Kubernetes can tell that it is not root"
    )
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for name in source.split():
            assert (ROOT / name).exists() and f"!{name}" in ignored, name
    # No instruction needs a shell.
    assert not [line for line in text.splitlines() if re.match(r"(RUN|CMD|ENTRYPOINT) (?!\[)", line)]


def test_the_compositions_replicas_are_settings_that_serve_takes() -> None:
    replicas = {name: one for name, one in COMPOSE["services"].items() if name.startswith("scheduler-")}
    assert len(replicas) == 3
    for name, one in replicas.items():
        found = settings(one["command"], one["environment"])
        assert found.id == name and found.override_broadcast_host_port == f"{name}:50006"
        assert one["read_only"] is True and one["cap_drop"] == ["ALL"]
        assert one["image"] == f"scheduler:{__version__}"
        assert all(port.startswith("127.0.0.1:") for port in one["ports"]), "plaintext is for this machine alone"


def test_the_composition_mounts_what_is_there() -> None:
    named = set(COMPOSE["volumes"])
    for one in COMPOSE["services"].values():
        for volume in one.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in named or (DEPLOY / source).is_dir(), source
        assert ":" in one["image"] and not one["image"].endswith(":latest")
    targets = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    hosts = {
        target.partition(":")[0] for one in targets for group in one["static_configs"] for target in group["targets"]
    }
    assert hosts <= set(COMPOSE["services"])
    (source,) = yaml.safe_load((DEPLOY / "compose/grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"].split("/")[2].partition(":")[0] in COMPOSE["services"]


def test_prometheus_takes_its_configuration() -> None:
    promtool = deploy_tools() / "promtool"
    path = DEPLOY / "prometheus" / "prometheus.yml"
    result = subprocess.run([promtool, "check", "config", path], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "34 rules found" in result.stdout, result.stdout + result.stderr


def test_the_unit_starts_what_serve_takes_and_stops_it_in_time() -> None:
    text = (DEPLOY / "systemd" / "scheduler@.service").read_text()
    lines = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Za-z]+=", line))
    command = lines["ExecStart"].replace("%i", "a").split()
    assert Path(command[0]).name == "scheduler"
    found = settings(command[1:], {"SCHEDULER_SERVE_ETCD_CLIENT_ENDPOINTS": "http://etcd:2379"})
    assert found.id == "a" and found.etcd_client_endpoints == ("http://etcd:2379",)
    assert float(lines["TimeoutStopSec"].removesuffix("s")) > found.drain_timeout_s
    assert lines["DynamicUser"] == "yes" and lines["ProtectSystem"] == "strict" and lines["NoNewPrivileges"] == "yes"
    assert found.etcd_data_dir.is_relative_to(Path("/var/lib") / lines["StateDirectory"].replace("%i", "a"))


def test_kustomize() -> None:
    """The base is the chart's rendering as it is now, and the example builds on it."""
    printed = subprocess.run(
        [ROOT / "scripts" / "kustomize-base", "--print"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == (DEPLOY / "kustomize" / "base" / "scheduler.yaml").read_text(), (
        "run scripts/kustomize-base"
    )
    overlay = DEPLOY / "kustomize" / "overlays" / "five-replicas"
    built = subprocess.run(
        [deploy_tools() / "kubectl-helm4", "kustomize", overlay], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    manifests = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(built.stdout)}
    spec = manifests["StatefulSet", "scheduler"]["spec"]
    assert spec["replicas"] == 5 and manifests["StatefulSet", "scheduler-etcd"]["spec"]["replicas"] == 3
    assert spec["template"]["spec"]["containers"][0]["image"] == f"registry.example.internal/scheduler:{__version__}"
    assert {one["metadata"]["namespace"] for one in manifests.values()} == {"scheduler"}
