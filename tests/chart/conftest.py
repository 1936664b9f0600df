"""The chart, rendered by the real helm, versions 3 and 4."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.processes import ROOT

# PyYAML's own parser in C, where it was built with it, is ten times as fast.
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

CHART = ROOT / "charts" / "scheduler"
CASES = sorted(CHART.glob("ci/*-values.yaml"))
HELMS = ("helm3", "helm4")
Manifest = dict[str, Any]


@cache
def deploy_tools() -> Path:
    if os.environ.get("CI") != "true" and not (shutil.which("npm") and shutil.which("apt-get")):
        pytest.skip("checking charts/ and deploy/ needs npm and apt-get")
    answer = subprocess.run([ROOT / "scripts" / "deploy-tools"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(answer.stdout.strip())


class Chart:
    def __init__(self, tools: Path) -> None:
        self.tools = tools
        self._rendered: dict[tuple[str, ...], str] = {}

    def helm(self, helm: str, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.tools / helm, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=60
        )

    def text(self, values: str | Path, helm: str = "helm4", *arguments: str) -> str:
        """Rendered from a file of values, or from YAML; each once."""
        key = (str(values), helm, *arguments)
        if key not in self._rendered:
            self._rendered[key] = self.text_anew(values, helm, *arguments)
        return self._rendered[key]

    def text_anew(self, values: str | Path, helm: str = "helm4", *arguments: str) -> str:
        given = ["-f", str(values)] if isinstance(values, Path) else ["-f", "-"]
        stdin = "" if isinstance(values, Path) else values
        result = self.helm(
            helm, "template", "release", CHART, "--namespace=space", *given, *arguments, stdin=stdin or "{}"
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def render(self, values: str | Path = "{}", helm: str = "helm4", *arguments: str) -> list[Manifest]:
        return [one for one in yaml.load_all(self.text(values, helm, *arguments), Loader) if one]

    def refusal(self, values: str, helm: str) -> str:
        """What helm says of values that it refuses."""
        result = self.helm(helm, "template", "release", CHART, "-f", "-", stdin=values)
        assert result.returncode != 0, "nothing was refused"
        return result.stderr


@pytest.fixture(scope="session")
def tools() -> Path:
    return deploy_tools()


@pytest.fixture(scope="session")
def chart(tools: Path) -> Chart:
    return Chart(tools)


def find(manifests: list[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The only one of a kind (and name)."""
    found = [one for one in manifests if one["kind"] == kind and name in {None, one["metadata"]["name"]}]
    assert len(found) == 1, [(one["kind"], one["metadata"]["name"]) for one in manifests]
    return found[0]


def pod_specs(manifest: Manifest) -> list[tuple[Manifest, Manifest]]:
    """(metadata, spec) of every pod that a manifest makes."""
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "Pod":
            return [(manifest["metadata"], spec)]
        case "Deployment" | "StatefulSet":
            return [(spec["template"].get("metadata", {}), spec["template"]["spec"])]
        case "CronJob":
            template = spec["jobTemplate"]["spec"]["template"]
            return [(template.get("metadata", {}), template["spec"])]
    return []


def containers(manifests: list[Manifest]) -> list[Manifest]:
    return [
        container
        for manifest in manifests
        for _, spec in pod_specs(manifest)
        for container in (*spec.get("initContainers", []), *spec["containers"])
    ]


def serve_arguments(manifests: list[Manifest], directory: Path) -> list[str]:
    """The arguments of the replicas, with their file of settings where it can be read."""
    container = next(one for one in containers(manifests) if one["name"] == "scheduler")
    (mount,) = [one for one in container["volumeMounts"] if one["name"] == "config"]
    (volume,) = [
        volume
        for manifest in manifests
        if manifest["kind"] in {"Deployment", "StatefulSet"}
        for volume in manifest["spec"]["template"]["spec"].get("volumes", [])
        if volume["name"] == "config"
    ]
    for name, text in find(manifests, "ConfigMap", volume["configMap"]["name"])["data"].items():
        (directory / name).write_text(text)
    return [one.replace(mount["mountPath"] + "/", f"{directory}/") for one in container["args"]]
