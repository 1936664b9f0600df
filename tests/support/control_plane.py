"""A real Kubernetes control plane on loopback: etcd, API server, controllers, scheduler; kwok plays the nodes and what would run on them."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.processes import ROOT, Child, EtcdServer, free_port, wait_until

SOURCES = ROOT / "tests" / "chart" / "kubernetes"
NODES = 3
VOLUMES = 12


@cache
def kubernetes_tools() -> Path:
    if os.environ.get("CI") != "true" and shutil.which("go") is None:
        pytest.skip("building a control plane needs go")
    answer = subprocess.run([ROOT / "scripts" / "kubernetes-tools"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(answer.stdout.strip())


class ControlPlane:
    """Runs from start() to close(); whoever holds its kubeconfig may do everything."""

    def __init__(self, directory: Path, kubectl: Path) -> None:
        self.directory = directory
        self.tools = kubernetes_tools()
        self._kubectl = kubectl
        self.kubeconfig = directory / "kubeconfig"
        self._etcd = EtcdServer(directory / "etcd")
        self._children: list[Child] = []

    def start(self) -> "ControlPlane":
        self._etcd.start()
        self._start_api_server()
        wait_until(self._ready, timeout_s=90, what="the API server is ready")
        # Nothing else listens: several control planes may run at a time.
        alone = ("--leader-elect=false", "--secure-port=0", f"--kubeconfig={self.kubeconfig}")
        self._spawn(
            "kube-controller-manager",
            *alone,
            f"--service-account-private-key-file={self.directory / 'accounts.key'}",
            f"--root-ca-file={self.directory / 'certificates' / 'apiserver.crt'}",
        )
        self._spawn("kube-scheduler", *alone)
        stages = [*sorted((self.tools / "stages").glob("*.yaml")), *sorted(SOURCES.glob("stage-*.yaml"))]
        self._spawn(
            "kwok", f"--kubeconfig={self.kubeconfig}", "--manage-all-nodes", *(f"--config={one}" for one in stages)
        )
        self.apply(*(_node(index) for index in range(NODES)), *(_volume(index) for index in range(VOLUMES)))
        return self

    def close(self) -> None:
        for child in (*reversed(self._children), self._etcd):
            child.close()

    def kubectl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._kubectl, f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def apply(self, *objects: dict[str, Any]) -> None:
        stdin = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        result = self.kubectl("apply", "--filename=-", stdin=stdin)
        assert result.returncode == 0, result.stderr

    def namespace(self, name: str) -> None:
        """One where Pod Security "restricted" is in force, and heard of where it would only warn."""
        modes = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": modes}})
        wait_until(
            lambda: self.kubectl("get", "serviceaccount", "default", "-n", name).returncode == 0,
            timeout_s=30,
            what=f"the controllers have seen namespace {name}",
        )

    def objects(self, kinds: str, namespace: str) -> dict[tuple[str, str], dict[str, Any]]:
        """Of these kinds (comma separated), by kind and name."""
        result = self.kubectl("get", kinds, f"--namespace={namespace}", "--output=json")
        assert result.returncode == 0, result.stderr
        return {(one["kind"], one["metadata"]["name"]): one for one in json.loads(result.stdout)["items"]}

    def logs(self) -> str:
        return "\n".join(f"{child.log.name}:\n{child.tail(1_500)}" for child in self._children)

    def _start_api_server(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        accounts = self.directory / "accounts.key"
        accounts.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        tokens = self.directory / "tokens.csv"
        tokens.write_text("administrator,administrator,administrator,system:masters\n")
        port = free_port()
        certificates = self.directory / "certificates"
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers={self._etcd.endpoint}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={certificates}",
            "--authorization-mode=RBAC",
            f"--token-auth-file={tokens}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={accounts}",
            f"--service-account-signing-key-file={accounts}",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:10:96::/112",
            # Lists that are streamed need a newer etcd than a test may have.
            "--feature-gates=WatchList=false",
            # Nobody in the cluster asks for the API server, which listens on loopback alone.
            "--endpoint-reconciler-type=none",
        )
        cluster = {
            "server": f"https://127.0.0.1:{port}",
            "certificate-authority": str(certificates / "apiserver.crt"),
        }
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "local", "cluster": cluster}],
            "users": [{"name": "administrator", "user": {"token": "administrator"}}],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": "administrator"}}],
            "current-context": "local",
        }
        self.kubeconfig.write_text(json.dumps(content))

    def _ready(self) -> bool:
        assert self._children[0].process is not None
        assert self._children[0].process.poll() is None, self.logs()
        return self.kubectl("get", "--raw=/readyz").returncode == 0

    def _spawn(self, program: str, *arguments: str) -> None:
        child = Child(self.directory / f"{program}.log")
        self._children.append(child)
        child.spawn([str(self.tools / program), *arguments])


def _node(index: int) -> dict[str, Any]:
    name = f"node-{index}"
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": f"zone-{index}",
        "type": "kwok",
    }
    capacity = {"cpu": "32", "memory": "256Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"allocatable": capacity, "capacity": capacity},
    }


def _volume(index: int) -> dict[str, Any]:
    """Claims that name no storage class are bound to these."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"volume-{index}"},
        "spec": {
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": f"/nowhere/{index}"},
        },
    }
