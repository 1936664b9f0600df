"""What the chart renders, run: three members of the bundled etcd, replicas on them, the test's pod, snapshots and defragmentation."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.etcd.binary import find_etcd
from tests.chart.conftest import CHART, Chart, Manifest, containers, find, serve_arguments
from tests.support.processes import ROOT, Child, answers, free_port, wait_until

pytestmark = pytest.mark.e2e

NAMES = [f"release-scheduler-etcd-{index}" for index in range(3)]
VALUES = """
etcd:
  bundled:
    quotaBackendBytes: 1073741824
    snapshots: {enabled: true, keep: 2}
    tls: {mode: TLS}
"""


class Machine:
    """Pods of a rendering, as processes: each member's names in the cluster's DNS become ports of loopback, mounts become folders."""

    def __init__(self, manifests: list[Manifest], directory: Path) -> None:
        self.manifests = manifests
        self.directory = directory
        self.ports = {name: {2379: free_port(), 2380: free_port(), 2381: free_port()} for name in NAMES}
        self.children: list[Child] = []
        self.mounts = {"/snapshots": directory / "snapshots"}
        self.mounts["/snapshots"].mkdir()
        for secret in (one for one in manifests if one["kind"] == "Secret"):
            place = self.mounts["/etc/etcd/tls"] = self.mounts["/etc/scheduler/etcd-tls"] = directory / "secret"
            place.mkdir()
            for name, content in secret["data"].items():
                (place / name).write_bytes(base64.b64decode(content))

    def local(self, text: str, own: str = "") -> str:
        text = text.replace("$(POD_NAME)", own).replace("/var/lib/etcd", str(self.directory / own))
        text = text.replace("/var/lib/scheduler", str(self.directory / own))
        for mount, place in self.mounts.items():
            text = text.replace(mount, str(place))
        for name, numbers in self.ports.items():
            for number, port in numbers.items():
                text = re.sub(rf"{name}\.[a-z0-9.-]+:{number}", f"127.0.0.1:{port}", text)
        for number, port in self.ports.get(own, {}).items():
            text = text.replace(f"0.0.0.0:{number}", f"127.0.0.1:{port}")
        return text

    def spawn(self, name: str, command: list[str]) -> None:
        (self.directory / name).mkdir()
        child = Child(self.directory / f"{name}.log")
        self.children.append(child)
        child.spawn(command)

    def start_etcd(self) -> None:
        etcd = next(one for one in containers(self.manifests) if one["name"] == "etcd")
        for name in NAMES:
            self.spawn(name, [str(find_etcd().path), *(self.local(one, name) for one in etcd["args"])])
        ports = [one[2379] for one in self.ports.values()]
        wait_until(lambda: all(answers(port) for port in ports), timeout_s=30, what="three etcds answer")

    def start_replica(self, name: str) -> str:
        """Its address."""
        serve = serve_arguments(self.manifests, self.directory)
        port = free_port()
        arguments = [self.local(one, name) for one in serve]
        for flag, value in (("port", port), ("healthz-port", free_port()), ("metrics-port", free_port())):
            arguments = [f"--{flag}={value}" if one.startswith(f"--{flag}=") else one for one in arguments]
        told = f"--override-broadcast-host-port=127.0.0.1:{port}"
        arguments = [told if one.startswith("--override-broadcast") else one for one in arguments]
        self.spawn(name, [sys.executable, "-m", "scheduler", *arguments, "--listen-address=127.0.0.1"])
        return f"127.0.0.1:{port}"

    def run(self, container: Manifest, program: Path, **environment: str) -> str:
        """What a container of a CronJob does, with its program; what it prints."""
        fixed = {one["name"]: self.local(one["value"]) for one in container["env"] if "value" in one}
        words = [re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], one) for one in container["command"]]
        result = subprocess.run(
            [program, *(self.local(one) for one in words[1:])],
            env={**os.environ, **fixed},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    def close(self) -> None:
        for child in self.children:
            child.close()


def container_of(manifests: list[Manifest], name: str) -> Manifest:
    return next(one for one in containers(manifests) if one["name"] == name)


@pytest.mark.parametrize("tls", ["disabled", "selfSigned"])
def test_rendered_arguments_make_a_cluster_that_fires(chart: Chart, tmp_path: Path, tls: str) -> None:
    """And is defragmented, and saved, by what the CronJobs would run."""
    manifests = chart.render(VALUES.replace("TLS", tls))
    machine = Machine(manifests, tmp_path)
    try:
        machine.start_etcd()
        addresses = [machine.start_replica(f"release-scheduler-{index}") for index in range(2)]
        verify = find(manifests, "Pod")["spec"]["containers"][0]["args"]
        told = f"--address={addresses[0]}"
        command = [
            *(sys.executable, "-m", "scheduler"),
            *(told if one.startswith("--address=") else one for one in verify),
        ]
        wait_until(
            lambda: all(answers(int(one.rpartition(":")[2])) for one in addresses), timeout_s=30, what="replicas answer"
        )

        def fires() -> bool:
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            return result.returncode == 0 and "2 replicas" in result.stdout

        wait_until(fires, timeout_s=30, what="the command of `helm test` sees a job fire")

        etcdctl = chart.tools / "etcdctl"
        printed = machine.run(container_of(manifests, "defrag"), etcdctl)
        assert printed.count("Finished defragmenting etcd member") == 3
        for minute in range(3):
            machine.run(container_of(manifests, "save"), etcdctl, JOB_NAME=f"snapshot-{minute}")
        saved = machine.mounts["/snapshots"]
        status = subprocess.run(
            [etcdctl, "snapshot", "status", saved / "snapshot-2.db"],
            env={**os.environ, "ETCDCTL_API": "3"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(status.stdout.split(",")[2]) > 128, "a snapshot holds the claims at least"
        prune = container_of(manifests, "prune")
        subprocess.run([sys.executable, "-c", prune["command"][2], saved, prune["args"][1]], check=True)
        assert sorted(path.name for path in saved.iterdir()) == ["snapshot-1.db", "snapshot-2.db"]
        if tls != "disabled":
            stranger = [etcdctl, f"--endpoints=https://127.0.0.1:{machine.ports[NAMES[0]][2379]}", "get", "/"]
            environment = {**os.environ, "ETCDCTL_API": "3", "ETCDCTL_CACERT": str(tmp_path / "secret" / "ca.crt")}
            refused = subprocess.run(stranger, env=environment, capture_output=True, text=True, check=False, timeout=30)
            assert refused.returncode != 0, "etcd let somebody in who has no certificate"
    finally:
        machine.close()


def test_old_snapshots_go(tmp_path: Path) -> None:
    for index in range(5):
        one = tmp_path / f"snapshot-{index}.db"
        one.touch()
        os.utime(one, (index, index))
    (tmp_path / "half.db.part").touch()
    script = (CHART / "files" / "prune-snapshots.py").read_text()
    result = subprocess.run([sys.executable, "-c", script, tmp_path, "2"], capture_output=True, text=True, check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.db.part", "snapshot-3.db", "snapshot-4.db"]
    assert result.stdout.endswith("kept 2\n")


def test_the_script_in_the_manifest_is_the_script(chart: Chart) -> None:
    manifests = chart.render("{etcd: {bundled: {snapshots: {enabled: true, keep: 9}}}}")
    prune = next(one for one in containers(manifests) if one["name"] == "prune")
    assert prune["command"][2].strip() == (CHART / "files" / "prune-snapshots.py").read_text().strip()
    assert prune["args"] == ["/snapshots", "9"]
