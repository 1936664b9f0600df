"""Every case of ci/ renders in both helms, byte for byte the same each time, into what Kubernetes and the operators take, under Pod Security "restricted"."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from tests.chart.conftest import CASES, CHART, HELMS, Chart, Loader, Manifest, pod_specs
from tests.support.processes import ROOT

# From the oldest that Chart.yaml allows; newer fields (trafficDistribution) are left to the newer ones.
VERSIONS = ["1.31", "1.34", "1.37"]
OLD_VERSIONS = ["1.27"]


@pytest.fixture(scope="module")
def rendered(chart: Chart) -> dict[tuple[str, str], str]:
    jobs = [(case, helm) for case in CASES for helm in HELMS]
    with ThreadPoolExecutor(2) as pool:
        texts = pool.map(lambda job: chart.text(*job), jobs)
    return {(case.name, helm): text for (case, helm), text in zip(jobs, texts, strict=True)}


def manifests(text: str) -> list[Manifest]:
    return [one for one in yaml.load_all(text, Loader) if one]


@pytest.mark.parametrize("helm", HELMS)
def test_lint(chart: Chart, helm: str) -> None:
    for case in CASES:
        result = chart.helm(helm, "lint", "--strict", CHART, "-f", case)
        assert result.returncode == 0, f"{case.name}: {result.stdout}{result.stderr}"


@pytest.mark.parametrize("helm", HELMS)
def test_package(chart: Chart, helm: str, tmp_path) -> None:
    result = chart.helm(helm, "package", CHART, "-d", tmp_path)
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("scheduler-*.tgz")
    listing = subprocess.run(["tar", "-tzf", archive], capture_output=True, text=True, check=True).stdout
    assert "scheduler/files/removed.yaml" in listing and "scheduler/ci/" not in listing
    # An archive over a megabyte does not fit the Secret that helm keeps a release in.
    assert archive.stat().st_size < 200_000


def test_both_helms_and_every_rendering_agree(chart: Chart, rendered) -> None:
    """Nothing random, nothing that depends on the cluster: what GitOps needs. (Self-signed certificates are the exception, by nature.)"""
    for case in CASES:
        three, four = (rendered[case.name, helm] for helm in HELMS)
        if case.name != "self-signed-values.yaml":
            assert manifests(three) == manifests(four), case.name
            assert chart.text_anew(case) == four, case.name


def test_kubernetes_and_the_operators_take_it(chart: Chart, rendered) -> None:
    cases = {case.name: manifests(rendered[case.name, "helm4"]) for case in CASES}

    def check(versions: list[str], names: list[str]) -> list[str]:
        # What several cases share is looked at once.
        once = {json.dumps(one): (name, one) for name in names for one in cases[name]}
        work = {"versions": versions, "cases": {}}
        for name, one in once.values():
            work["cases"].setdefault(name, []).append(one)
        result = subprocess.run(
            [chart.tools / "venv/bin/python", ROOT / "tests/support/validate_manifests.py"],
            input=json.dumps(work),
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    assert check(VERSIONS, list(cases)) == []
    assert check(OLD_VERSIONS, ["default-values.yaml", "external-etcd-values.yaml", "deployment-hpa-values.yaml"]) == []
    kinds = {one["kind"] for case in cases.values() for one in case}
    assert {"ServiceMonitor", "PodMonitor", "Certificate", "Issuer", "ScaledObject", "HorizontalPodAutoscaler"} <= kinds
    # The check can fail: a typing error in each sort of manifest is found.
    broken = json.loads(json.dumps(cases["monitoring-values.yaml"]))
    for one in broken:
        one["spec" if "spec" in one else "metadata"]["typo"] = 1
    cases["broken"] = broken
    assert len(check(["1.37"], ["broken"])) >= len([one for one in broken if "grafana" not in one["apiVersion"]])


def restricted(metadata: Manifest, spec: Manifest) -> list[str]:
    """What of Pod Security "restricted" (version 1.30) a pod breaks."""
    broken = [f"{field} is set" for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field)]
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    broken += [f"volume {one['name']}" for one in spec.get("volumes", []) if not (set(one) - {"name"}) <= allowed]
    pod = spec.get("securityContext", {})
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        own = container.get("securityContext", {})
        name = container["name"]
        if own.get("privileged") or own.get("allowPrivilegeEscalation") is not False:
            broken.append(f"{name} may gain privileges")
        if "ALL" not in own.get("capabilities", {}).get("drop", []):
            broken.append(f"{name} keeps capabilities")
        if set(own.get("capabilities", {}).get("add", [])) - {"NET_BIND_SERVICE"}:
            broken.append(f"{name} adds capabilities")
        if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
            broken.append(f"{name} may be root")
        if own.get("runAsUser", pod.get("runAsUser")) == 0:
            broken.append(f"{name} is root")
        seccomp = own.get("seccompProfile", pod.get("seccompProfile", {})).get("type")
        if seccomp not in {"RuntimeDefault", "Localhost"}:
            broken.append(f"{name} has no seccomp profile")
        if any(port.get("hostPort") for port in container.get("ports", [])):
            broken.append(f"{name} takes a port of the host")
    annotations = metadata.get("annotations", {})
    return broken + [key for key in annotations if key.startswith("container.apparmor")]


def test_pod_security_restricted(rendered) -> None:
    pods = 0
    for (case, _), text in rendered.items():
        for manifest in manifests(text):
            for metadata, spec in pod_specs(manifest):
                pods += 1
                where = f"{case}: {manifest['kind']}/{manifest['metadata']['name']}"
                assert restricted(metadata, spec) == [], where
                if manifest["kind"] != "Pod" or "test" in manifest["metadata"]["name"]:
                    assert spec.get("automountServiceAccountToken") is not True or "namespaces" in text, where
    assert pods > 50
    bad = {"containers": [{"name": "x", "securityContext": {"runAsUser": 0}}], "hostNetwork": True}
    assert len(restricted({}, bad)) == 6


def test_our_own_containers_write_nothing_but_to_volumes(rendered) -> None:
    for (case, _), text in rendered.items():
        for manifest in manifests(text):
            for _, spec in pod_specs(manifest):
                for container in (*spec.get("initContainers", []), *spec["containers"]):
                    if container["name"] not in {"before", "beside"}:
                        assert container["securityContext"]["readOnlyRootFilesystem"] is True, (case, container["name"])


def test_generated_files_are_fresh() -> None:
    """Schema, README and the rest say what their sources say."""
    result = subprocess.run(
        [sys.executable, "scripts/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_value_is_described() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    bare = []

    def walk(node: Manifest, path: str) -> None:
        for name, child in node.get("properties", {}).items():
            here = f"{path}.{name}".strip(".")
            inline = any(
                here.startswith(parent)
                for parent in ("tls.keys.", "probes.", "etcd.external.", "etcd.bundled.tls.keys.")
            )
            if "properties" not in child and not child.get("description") and not inline:
                bare.append(here)
            walk(child, here)

    walk(schema, "")
    assert [name for name in bare if not name.endswith(("whenDeleted", "whenScaled"))] == []
