"""What the chart renders, run: three members of the bundled etcd, replicas on them, the test's pod, snapshots and defragmentation."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.etcd.binary import find_etcd
from tests.chart.conftest import CHART, Chart, containers, find
from tests.support.processes import ROOT, Child, answers, free_port, wait_until

pytestmark = pytest.mark.e2e

NAMES = [f"release-scheduler-etcd-{index}" for index in range(3)]


def test_rendered_arguments_make_a_cluster_that_fires(chart: Chart, tmp_path: Path) -> None:
    manifests = chart.render("{etcd: {bundled: {quotaBackendBytes: 1073741824}}}")
    etcd = next(one for one in containers(manifests) if one["name"] == "etcd")
    # Each member's names in the cluster's DNS become ports of loopback.
    ports = {name: {2379: free_port(), 2380: free_port(), 2381: free_port()} for name in NAMES}
    children: list[Child] = []

    def local(text: str, own: str) -> str:
        text = text.replace("$(POD_NAME)", own).replace("/var/lib/etcd", str(tmp_path / own))
        text = text.replace("/var/lib/scheduler", str(tmp_path / own))
        for name, numbers in ports.items():
            for number, port in numbers.items():
                text = re.sub(rf"{name}\.[a-z0-9.-]+:{number}", f"127.0.0.1:{port}", text)
        for number, port in ports.get(own, {}).items():
            text = text.replace(f"0.0.0.0:{number}", f"127.0.0.1:{port}")
        return text

    def spawn(name: str, command: list[str]) -> None:
        (tmp_path / name).mkdir()
        child = Child(tmp_path / f"{name}.log")
        children.append(child)
        child.spawn(command)

    try:
        for name in NAMES:
            spawn(name, [str(find_etcd().path), *(local(one, name) for one in etcd["args"])])
        wait_until(lambda: all(answers(one[2379]) for one in ports.values()), timeout_s=30, what="three etcds answer")
        serve = next(one for one in containers(manifests) if one["name"] == "scheduler")["args"]
        addresses = []
        for index in range(2):
            name, port = f"release-scheduler-{index}", free_port()
            addresses.append(f"127.0.0.1:{port}")
            arguments = [local(one, name) for one in serve]
            for flag, value in (("port", port), ("healthz-port", free_port()), ("metrics-port", free_port())):
                arguments = [f"--{flag}={value}" if one.startswith(f"--{flag}=") else one for one in arguments]
            told = f"--override-broadcast-host-port=127.0.0.1:{port}"
            arguments = [told if one.startswith("--override-broadcast") else one for one in arguments]
            spawn(name, [sys.executable, "-m", "scheduler", *arguments, "--listen-address=127.0.0.1"])
        verify = find(manifests, "Pod")["spec"]["containers"][0]["args"]
        told = f"--address={addresses[0]}"
        command = [
            sys.executable,
            "-m",
            "scheduler",
            *(told if one.startswith("--address=") else one for one in verify),
        ]
        wait_until(
            lambda: all(answers(int(one.rpartition(":")[2])) for one in addresses), timeout_s=20, what="replicas answer"
        )

        def fires() -> bool:
            result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            return result.returncode == 0 and "2 replicas" in result.stdout

        wait_until(fires, timeout_s=30, what="the command of `helm test` sees a job fire")
    finally:
        for child in children:
            child.close()


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
