"""The chart on a real control plane: what the API server admits and refuses, what the controllers make of it, and a release's whole life.

Namespaces enforce Pod Security "restricted". Pods are placed by the real scheduler and played by kwok: nothing runs in them.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.chart.conftest import CASES, CHART, Chart, pod_specs
from tests.support.control_plane import ControlPlane
from tests.support.processes import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PREVIOUS = Path(__file__).parent / "previous" / "scheduler-0.1.0.tgz"
KINDS = "all,configmaps,secrets,serviceaccounts,networkpolicies,poddisruptionbudgets,persistentvolumeclaims,hpa"
# What every namespace has of itself.
CLUSTERS_OWN = {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")}
# Everything that our chart makes of Kubernetes' own kinds.
FULL = """
replicas: 5
tls: {mode: selfSigned}
namespaceController: {enabled: true}
networkPolicy: {enabled: true}
etcd: {bundled: {snapshots: {enabled: true}, podAnnotations: {changed: "yes"}}}
metrics: {dashboards: {enabled: true}}
"""


@pytest.fixture(scope="module")
def plane(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    one = ControlPlane(tmp_path_factory.mktemp("plane"), tools / "kubectl-helm4")
    try:
        yield one.start()
    finally:
        one.close()


class Release:
    """One release, by one helm, in a namespace of its own."""

    def __init__(self, plane: ControlPlane, chart: Chart, helm: str, namespace: str) -> None:
        self.plane, self.chart, self.helm, self.namespace = plane, chart, helm, namespace
        plane.namespace(namespace)

    def run(self, *arguments: str | Path, values: str = "") -> subprocess.CompletedProcess[str]:
        given = ("--values=-",) if values else ()
        where = (f"--namespace={self.namespace}", f"--kubeconfig={self.plane.kubeconfig}")
        return self.chart.helm(self.helm, *arguments, *given, *where, stdin=values)

    def done(self, *arguments: str | Path, values: str = "") -> str:
        result = self.run(*arguments, values=values)
        assert result.returncode == 0, result.stderr + self.plane.logs()
        assert "violate" not in result.stderr, "Pod Security had something to say"
        return result.stdout

    def waited(self, verb: str, what: str | Path, *arguments: str, values: str = "") -> None:
        """Done, and everything that it made came up."""
        self.done(verb, "release", what, "--wait", "--timeout=55s", *arguments, values=values)

    def ready(self, name: str) -> int:
        workload = self.plane.objects("statefulsets", self.namespace)["StatefulSet", name]
        status = workload["status"]
        assert status["observedGeneration"] == workload["metadata"]["generation"]
        assert status["updateRevision"] == status["currentRevision"], "not every pod is of the newest revision"
        return status.get("readyReplicas", 0)

    def left(self) -> set[tuple[str, str]]:
        return set(self.plane.objects(KINDS, self.namespace)) - CLUSTERS_OWN

    def uninstall(self) -> None:
        self.done("uninstall", "release", "--wait", "--timeout=55s")
        kept = {("PersistentVolumeClaim", f"data-release-scheduler-etcd-{index}") for index in range(3)}
        kept |= {one for one in self.left() if one == ("PersistentVolumeClaim", "release-scheduler-etcd-snapshots")}
        wait_until(lambda: self.left() == kept, timeout_s=30, what="nothing is left but claims, as UPGRADING.md says")


def test_pod_security_is_in_force(plane: ControlPlane) -> None:
    plane.namespace("strict")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": "strict"},
        "spec": {"containers": [{"name": "one", "image": "one"}]},
    }
    refused = plane.kubectl("apply", "--filename=-", stdin=json.dumps(pod))
    assert refused.returncode != 0
    assert 'violates PodSecurity "restricted' in refused.stderr and "runAsNonRoot" in refused.stderr


def test_a_releases_life(plane: ControlPlane, chart: Chart) -> None:
    """Installed as the first chart was, upgraded to this one, changed, rolled back, tested, removed; by Helm 4."""
    release = Release(plane, chart, "helm4", "life")
    release.waited("install", PREVIOUS)
    assert release.ready("release-scheduler") == 3 and release.ready("release-scheduler-etcd") == 3
    claims = plane.objects("persistentvolumeclaims", "life")
    assert len(claims) == 3 and {one["status"]["phase"] for one in claims.values()} == {"Bound"}

    release.waited("upgrade", CHART)
    release.waited("upgrade", CHART, values=FULL)
    assert release.ready("release-scheduler") == 5 and release.ready("release-scheduler-etcd") == 3
    assert plane.objects("persistentvolumeclaims", "life").keys() > claims.keys(), "etcd's data outlived the upgrades"
    authority = plane.objects("secrets", "life")["Secret", "release-scheduler-tls"]["data"]
    budgets = plane.objects("poddisruptionbudgets", "life")
    assert {name: one["status"]["disruptionsAllowed"] for (_, name), one in budgets.items()} == {
        "release-scheduler": 1,
        "release-scheduler-etcd": 1,
    }
    account = "--as=system:serviceaccount:life:release-scheduler"
    assert plane.kubectl("auth", "can-i", "watch", "namespaces", account).stdout == "yes\n"
    for forbidden in (("list", "secrets"), ("delete", "namespaces"), ("list", "pods")):
        assert plane.kubectl("auth", "can-i", *forbidden, account).stdout == "no\n", forbidden
    zones = [
        plane.objects("pods", "life")["Pod", f"release-scheduler-{index}"]["spec"]["nodeName"] for index in range(5)
    ]
    assert len(set(zones)) == 3, "replicas are spread over the zones"

    assert "Succeeded" in release.done("test", "release", "--timeout=50s")
    release.waited("upgrade", CHART, "--set=replicas=4", values=FULL)
    assert plane.objects("secrets", "life")["Secret", "release-scheduler-tls"]["data"] == authority
    release.done("rollback", "release", "2", "--wait", "--timeout=55s")
    assert release.ready("release-scheduler") == 3
    release.uninstall()
    assert "life-release-scheduler-namespaces" not in plane.kubectl("get", "clusterroles", "--output=name").stdout


def test_a_releases_life_with_helm_3(plane: ControlPlane, chart: Chart) -> None:
    release = Release(plane, chart, "helm3", "three")
    release.waited("install", CHART)
    release.waited("upgrade", CHART, "--set=replicas=2,config.lease-ttl=7")
    assert release.ready("release-scheduler") == 2
    assert "Succeeded" in release.done("test", "release", "--timeout=50s")
    release.done("rollback", "release", "1", "--wait", "--timeout=55s")
    assert release.ready("release-scheduler") == 3
    release.uninstall()


def test_a_test_that_fails_fails(plane: ControlPlane, chart: Chart) -> None:
    release = Release(plane, chart, "helm4", "failing")
    release.waited("install", CHART, values="{replicas: 1, commonLabels: {test.scheduler/hook-fails: 'yes'}}")
    result = release.run("test", "release", "--timeout=30s")
    assert result.returncode != 0 and "Failed" in result.stdout + result.stderr


def test_what_cannot_change_is_refused_and_nothing_changes(plane: ControlPlane, chart: Chart) -> None:
    release = Release(plane, chart, "helm4", "fixed")
    release.waited("install", CHART, "--set=replicas=1,etcd.bundled.replicas=1")
    before = plane.objects("statefulsets", "fixed")
    result = release.run(
        "upgrade", "release", CHART, "--set=replicas=1,etcd.bundled.replicas=1,etcd.bundled.persistence.size=9Gi"
    )
    assert (
        result.returncode != 0
        and "updates to statefulset spec" in result.stderr
        and "release-scheduler-etcd" in result.stderr
    )
    after = plane.objects("statefulsets", "fixed")
    assert {key: one["spec"] for key, one in after.items()} == {key: one["spec"] for key, one in before.items()}
    result = release.run("upgrade", "release", CHART, "--set=replicas=1,etcd.bundled.replicas=3")
    assert result.returncode != 0 and "the installed etcd has 1 members" in result.stderr
    result = release.run("upgrade", "release", CHART, "--set=etcd.bundled.replicas=1,etcd.bundled.tls.mode=selfSigned")
    assert result.returncode != 0 and "UPGRADING.md" in result.stderr


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("metrics.serviceMonitor.enabled=true", "ServiceMonitor"),
        ("metrics.prometheusRule.enabled=true", "PrometheusRule"),
        ("tls.mode=certManager", "Certificate"),
    ],
)
def test_a_missing_operator_is_named(plane: ControlPlane, chart: Chart, value: str, kind: str) -> None:
    release = Release(plane, chart, "helm4", f"without-{kind.lower()}")
    result = release.run("install", "release", CHART, f"--set={value}")
    assert result.returncode != 0
    assert f'no matches for kind "{kind}"' in result.stderr and "ensure CRDs are installed first" in result.stderr
    assert release.left() == set(), "something was left of what could not be installed"


def test_every_case_is_admitted(plane: ControlPlane, chart: Chart) -> None:
    """Each of ci/*-values.yaml, by the API server's own validation and Pod Security; objects of operators apart."""
    for namespace in ("space", "platform"):
        plane.namespace(namespace)
    known = set(plane.kubectl("api-resources", "--no-headers").stdout.split())
    for case in CASES:
        manifests = [one for one in yaml.safe_load_all(chart.text(case)) if one and one["kind"] in known]
        assert any(pod_specs(one) for one in manifests)
        items = {"apiVersion": "v1", "kind": "List", "items": manifests}
        result = plane.kubectl("apply", "--dry-run=server", "--filename=-", stdin=json.dumps(items))
        assert result.returncode == 0 and "violate" not in result.stderr, f"{case.name}: {result.stderr}"
