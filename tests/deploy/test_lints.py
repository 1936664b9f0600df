"""What others' tools say of deploy/, the rendered chart and the scripts; what is not followed has its reason here."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.chart.conftest import CHART, Chart, deploy_tools
from tests.support.processes import ROOT

# checkov's findings that stand, and why.
ACCEPTED = {
    "CKV_K8S_8": "the pod of `helm test` runs once: it has nothing to be alive for",
    "CKV_K8S_9": "nor to be ready for",
    "CKV_K8S_11": "a CPU limit delays triggers: it is the operator's choice (resources.limits)",
    "CKV_K8S_13": "a memory limit follows from the number of jobs: docs/scale.md, resources.limits",
    "CKV_K8S_15": "tags are versions and do not move, so nodes need not ask again",
    "CKV_K8S_43": "digests are the operator's to pin (image.digest): the chart is older than a mirror's image",
    "CKV_K8S_116": "looks for etcd's flags in `command`; ours stand in `args`, and tests/chart/test_processes.py connects without a certificate",
    "CKV_K8S_117": "as before",
    "CKV_K8S_119": "as before",
}
SECURED = """
tls: {mode: selfSigned}
networkPolicy: {enabled: true}
etcd: {bundled: {tls: {mode: selfSigned}, snapshots: {enabled: true}}}
"""
WRITTEN = (
    "{extends: relaxed, ignore: [deploy/kustomize/base/scheduler.yaml], rules: {line-length: disable, commas: disable}}"
)
# What a template leaves between the lines is nobody's handwriting.
RENDERED = "{extends: relaxed, rules: {line-length: disable, trailing-spaces: disable, empty-lines: disable, indentation: disable}}"


@pytest.fixture(scope="module")
def tools() -> Path:
    return deploy_tools()


@pytest.fixture(scope="module")
def chart(tools: Path) -> Chart:
    return Chart(tools)


def test_checkov(chart: Chart, tools: Path, tmp_path: Path) -> None:
    (tmp_path / "rendered.yaml").write_text(chart.text(SECURED))
    command = [tools / "venv/bin/checkov", "-d", tmp_path, "--framework", "kubernetes", "--skip-download", "-o", "json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(result.stdout)["results"]
    assert len(found["passed_checks"]) > 300, "hardly anything was looked at"
    failed = {one["check_id"]: f"{one['check_name']}: {one['resource']}" for one in found["failed_checks"]}
    assert {name: text for name, text in failed.items() if name not in ACCEPTED} == {}
    assert ACCEPTED.keys() == failed.keys(), "what is accepted is found no more"


def test_yamllint(chart: Chart, tools: Path, tmp_path: Path) -> None:
    rendered = tmp_path / "rendered.yaml"
    rendered.write_text(chart.text(SECURED))
    sources = ["deploy", *(CHART / name for name in ("Chart.yaml", "values.yaml", "ci", "files", "examples"))]
    for rules, paths in ((WRITTEN, sources), (RENDERED, [rendered, ROOT / "deploy/kustomize/base/scheduler.yaml"])):
        command = [tools / "venv/bin/yamllint", "--strict", "-d", rules, *paths]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stdout) == (0, "")


def test_shellcheck(tools: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    scripts = [
        name for name in listed if (ROOT / name).is_file() and (ROOT / name).read_bytes()[:64].find(b"bash\n") > 0
    ]
    assert {"scripts/test", ".ci/run"} <= set(scripts)
    command = [tools / "venv/bin/shellcheck", "--severity=info", "--exclude=SC1091", *scripts]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")
