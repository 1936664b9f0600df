"""Examples for GitOps tools and for a collector: well formed, by their own schemas where one is packaged, and their values are values of the chart."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.conftest import CHART, Chart, deploy_tools
from tests.support.processes import ROOT

EXAMPLES = CHART / "examples"
COLLECTOR = ROOT / "deploy" / "otel-collector.yaml"
# Run by the deploy tools' own Python, which has a parser of HCL: the arguments of the one resource, and its values.
READ_TERRAFORM = """
import hcl2, json, re, sys
text = open(sys.argv[1]).read()
(resource,) = hcl2.loads(text)["resource"]
(encoded,) = re.findall(r"yamlencode\\((\\{.*\\})\\)\\]", text, re.DOTALL)
print(json.dumps([resource["helm_release"]["scheduler"], hcl2.loads(f"values = {encoded}\\n")["values"][0]]))
"""


@pytest.fixture(scope="module")
def tools() -> Path:
    return deploy_tools()


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


def test_flux(tools: Path) -> None:
    work = {"versions": [], "cases": {"flux": documents("flux.yaml")}}

    def problems() -> list[str]:
        command = [tools / "venv/bin/python", ROOT / "tests/support/validate_manifests.py"]
        result = subprocess.run(command, input=json.dumps(work), capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    assert problems() == []
    source, release = work["cases"]["flux"]
    reference = release["spec"]["chart"]["spec"]["sourceRef"]
    assert (reference["kind"], reference["name"]) == (source["kind"], source["metadata"]["name"])
    Chart(tools).render(yaml.safe_dump(release["spec"]["values"]))
    release["spec"]["upgrade"]["retry"] = 1
    assert "retry" in str(problems()), "the check can fail"


def test_argo_cd(tools: Path) -> None:
    (application,) = documents("argocd.yaml")
    assert (application["apiVersion"], application["kind"]) == ("argoproj.io/v1alpha1", "Application")
    spec = application["spec"]
    assert set(spec) == {"project", "source", "destination", "syncPolicy"}
    assert (ROOT / spec["source"]["path"]).is_dir()
    values = yaml.safe_dump(spec["source"]["helm"]["valuesObject"])
    # Argo CD renders without a cluster, each time anew: what it sees must not differ.
    assert Chart(tools).text_anew(values) == Chart(tools).text_anew(values)


def test_terraform(tools: Path) -> None:
    command = [tools / "venv/bin/python", "-c", READ_TERRAFORM, EXAMPLES / "terraform.tf"]
    read = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    arguments, values = json.loads(read)
    assert {"name", "namespace", "chart", "values"} <= arguments.keys()
    Chart(tools).render(yaml.safe_dump(values))


def test_the_collector(tools: Path, tmp_path: Path) -> None:
    """Everything in it is used, and everything used is in it; Prometheus takes the scrape configuration."""
    content = yaml.safe_load(COLLECTOR.read_text())
    for kind in ("receivers", "processors", "exporters"):
        used = {name for one in content["service"]["pipelines"].values() for name in one[kind]}
        assert used == content[kind].keys(), kind
    assert content["service"]["extensions"] == list(content["extensions"])
    assert all(one["processors"][0] == "memory_limiter" for one in content["service"]["pipelines"].values())
    scrape = tmp_path / "prometheus.yml"
    scrape.write_text(yaml.safe_dump(content["receivers"]["prometheus"]["config"]))
    checked = subprocess.run(
        [tools / "promtool", "check", "config", scrape], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    composed = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    ours = content["receivers"]["prometheus"]["config"]["scrape_configs"]
    assert ours[0]["static_configs"] == composed[0]["static_configs"]
