"""A release's life against a Kubernetes API: install, upgrade, roll back, test, uninstall; what must survive does, what cannot change is not touched."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chart.conftest import CHART, HELMS, Chart
from tests.support.kubernetes_api import KubernetesApi

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    one = KubernetesApi()
    one.objects["namespaces", "", "space"] = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "space"}}
    yield one
    one.close()


@pytest.fixture
def run(chart: Chart, api: KubernetesApi, tmp_path: Path) -> Run:
    config = tmp_path / "kubeconfig"
    named = [{"name": "c", "cluster": {"server": api.url}}]
    context = [{"name": "c", "context": {"cluster": "c", "user": "u"}}]
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": named,
        "contexts": context,
        "users": [{"name": "u"}],
        "current-context": "c",
    }
    config.write_text(json.dumps(content))

    def call(helm: str, *arguments: str | Path) -> tuple[int, str]:
        result = chart.helm(helm, *arguments, "--namespace=space", f"--kubeconfig={config}")
        return result.returncode, result.stdout + result.stderr

    return call


@pytest.mark.parametrize("helm", HELMS)
def test_install_upgrade_roll_back_uninstall(api: KubernetesApi, run: Run, helm: str) -> None:
    code, text = run(helm, "install", "release", CHART)
    assert code == 0, text
    assert api.get("statefulsets", "release-scheduler")["spec"]["replicas"] == 3
    code, text = run(helm, "upgrade", "release", CHART, "--set=replicas=5,config.lease-ttl=7,commonLabels.new=label")
    assert code == 0, text
    assert api.refused == []
    upgraded = api.get("statefulsets", "release-scheduler")
    assert upgraded["spec"]["replicas"] == 5
    assert "lease-ttl: 7" in api.get("configmaps", "release-scheduler")["data"]["config.yaml"]
    before = upgraded["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
    code, text = run(helm, "rollback", "release", "1")
    assert code == 0, text
    back = api.get("statefulsets", "release-scheduler")
    assert back["spec"]["replicas"] == 3
    assert back["spec"]["template"]["metadata"]["annotations"]["checksum/config"] != before
    code, text = run(helm, "history", "release")
    assert code == 0 and "Rollback to 1" in text
    assert ("pods", "space", "release-scheduler-test") not in api.objects, (
        "the test's pod is a hook, not part of the release"
    )
    code, text = run(helm, "uninstall", "release")
    assert code == 0, text
    assert {plural for plural, _, _ in api.objects} <= {"namespaces"}, api.objects.keys()


@pytest.mark.parametrize("helm", HELMS)
def test_an_upgrade_keeps_the_self_signed_authority(api: KubernetesApi, run: Run, helm: str) -> None:
    code, text = run(helm, "install", "release", CHART, "--set=tls.mode=selfSigned")
    assert code == 0, text
    before = api.get("secrets", "release-scheduler-tls")["data"]
    assert set(before) == {"tls.crt", "tls.key", "ca.crt", "ca.key"}
    code, text = run(helm, "upgrade", "release", CHART, "--set=tls.mode=selfSigned,replicas=4")
    assert code == 0, text
    assert api.get("secrets", "release-scheduler-tls")["data"] == before


def test_members_of_a_running_etcd_are_not_changed_by_an_upgrade(api: KubernetesApi, run: Run) -> None:
    assert run("helm4", "install", "release", CHART)[0] == 0
    code, text = run("helm4", "upgrade", "release", CHART, "--set=etcd.bundled.replicas=5")
    assert code != 0 and "etcd.bundled.replicas is 5, and the installed etcd has 3 members" in text


def test_snapshots_survive_the_release(api: KubernetesApi, run: Run) -> None:
    assert run("helm4", "install", "release", CHART, "--set=etcd.bundled.snapshots.enabled=true")[0] == 0
    assert run("helm4", "uninstall", "release")[0] == 0
    assert [name for plural, _, name in api.objects if plural == "persistentvolumeclaims"] == [
        "release-scheduler-etcd-snapshots"
    ]


@pytest.mark.parametrize("case", ["default", "minimal", "existing-secret"])
def test_notes(run: Run, case: str) -> None:
    code, text = run("helm3", "install", "release", CHART, "-f", CHART / "ci" / f"{case}-values.yaml")
    assert code == 0, text
    golden = Path(__file__).parent / "notes" / f"{case}.txt"
    assert text.split("NOTES:\n")[1] == golden.read_text()
