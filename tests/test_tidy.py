"""The house stays tidy: docstrings, sizes, unique metrics, and nothing of any one machine in the files."""

import ast
import re
import subprocess

import pytest

from scheduler.metrics import (
    ClusterStatistics,
    DeliveryStatistics,
    EngineStatistics,
    IdentityStatistics,
    KubernetesStatistics,
    ProcessStatistics,
    RpcStatistics,
)
from scheduler.samples import scheduler_samples
from tests.support.processes import ROOT

MODULES = sorted(path for path in (ROOT / "scheduler").rglob("*.py") if "_pb" not in path.parts)
# Longer than a file should be; these may only shrink.
LONG = {
    "scheduler/cluster/cluster.py": 477,
}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_and_stays_small(module) -> None:
    text = module.read_text()
    assert ast.get_docstring(ast.parse(text)), "no docstring"
    assert len(text.splitlines()) <= LONG.get(str(module.relative_to(ROOT)), 420)
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)


def test_metric_names_are_unique() -> None:
    samples = scheduler_samples(
        engine=EngineStatistics(),
        delivery=DeliveryStatistics(),
        cluster=ClusterStatistics(),
        rpc=RpcStatistics(),
        identity=IdentityStatistics(),
        kubernetes=KubernetesStatistics(),
        process=ProcessStatistics(),
        gauges={},
        gates=list,
        tables={},
    )
    names = [sample.name for sample in samples]
    assert len(names) == len(set(names))
    assert all(name.startswith(("scheduler_", "dapr_scheduler_", "grpc_server_")) for name in names)


def test_the_readmes_commands_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in re.findall(r"^scripts/[a-z-]+$", readme, re.MULTILINE):
        assert (ROOT / command).stat().st_mode & 0o100
    for link in re.findall(r"\]\(([A-Za-z][^)#:]*)\)", readme):
        assert (ROOT / link).exists(), link


def test_no_machine_or_registry_is_named() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    here = str(ROOT.parent)
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".jsonl"} or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        assert here + "/" not in text or here == "/", name
        assert (
            not re.search(r"--(extra-)?index-url|registry\.npmjs|proxy\.golang", text)
            or name == "tests/test_tidy.py"
            or "no-emit-index-url" in text
        ), name
