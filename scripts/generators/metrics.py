"""The table of docs/metrics.md, from the source."""

from pathlib import Path

from generators.chart import between

from scheduler.exposition import Sample
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


def samples() -> list[Sample]:
    """Every metric of a replica; nothing is read."""
    return scheduler_samples(
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


def _name(sample: Sample) -> str:
    """As Prometheus knows it."""
    return f"{sample.name}_total" if sample.kind == "counter" else sample.name


def files(root: Path) -> dict[str, str]:
    """What is generated."""
    rows = ["| name | type | labels | what it is |", "| --- | --- | --- | --- |"]
    reference = []
    for sample in sorted(samples(), key=lambda one: one.name):
        labels = (sample.label,) if isinstance(sample.label, str) else sample.label
        shown = ", ".join(f"`{label}`" for label in labels if label)
        row = f"| `{_name(sample)}` | {sample.kind} | {shown} | {sample.text} |"
        (reference if sample.name.startswith("dapr_") else rows).append(row)
    text = "\n".join([*rows, "", "By the reference's names, so that its dashboards work:", "", *rows[:2], *reference])
    path = "docs/metrics.md"
    return {path: between((root / path).read_text(), "metrics", text)}
