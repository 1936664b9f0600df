"""Prometheus' rules for those without Kubernetes, and a runbook page per alert, from charts/scheduler/files: one file an alert, as the chart renders them."""

from pathlib import Path
from typing import Any

import yaml

SOURCE = "charts/scheduler/files"
RUNBOOKS = "docs/runbooks"


def alerts(root: Path) -> list[dict[str, Any]]:
    """Every alert's file."""
    return [yaml.safe_load(path.read_text()) for path in sorted((root / SOURCE / "alerts").glob("*.yaml"))]


def rule(alert: dict[str, Any]) -> dict[str, Any]:
    """As Prometheus takes it; the chart's template does the same with what values say."""
    return {
        "alert": alert["alert"],
        "expr": alert["expr"].replace("$threshold", str(alert.get("threshold", ""))),
        "for": alert["for"],
        "labels": {"severity": alert["severity"]},
        "annotations": {
            "summary": alert["summary"],
            "description": alert["description"],
            "runbook_url": f"{RUNBOOKS}/{alert['alert']}.md",
            "dashboard": alert["dashboard"],
        },
    }


def groups(root: Path) -> dict[str, Any]:
    """The whole file."""
    recording = yaml.safe_load((root / SOURCE / "recording.yaml").read_text())
    return {
        "groups": [
            {"name": "scheduler.recording", "rules": recording},
            {"name": "scheduler.alerts", "rules": [rule(one) for one in alerts(root)]},
        ]
    }


def page(alert: dict[str, Any]) -> str:
    """A runbook."""
    expr = alert["expr"].replace("$threshold", str(alert.get("threshold", ""))).strip()
    head = f"# {alert['alert']}\n\n{alert['summary']}. Severity {alert['severity']}, after {alert['for']}.\n\n```promql\n{expr}\n```\n"
    parts = [
        f"\n## {name.capitalize()}\n\n{alert[name].strip()}\n"
        for name in ("meaning", "impact", "diagnosis", "mitigation")
    ]
    return head + "".join(parts)


def files(root: Path) -> dict[str, str]:
    """What is generated."""
    rules = yaml.safe_dump(groups(root), sort_keys=False, width=1000, allow_unicode=True)
    index = "# Runbooks\n\nOne page an alert; the alerts are in `charts/scheduler/files/alerts`.\n\n| alert | severity | what it says |\n| --- | --- | --- |\n"
    index += "".join(
        f"| [{one['alert']}]({one['alert']}.md) | {one['severity']} | {one['summary']} |\n" for one in alerts(root)
    )
    return {
        "deploy/prometheus/scheduler.rules.yml": f"# Made by scripts/generate.py from {SOURCE}.\n{rules}",
        f"{RUNBOOKS}/README.md": index,
        **{f"{RUNBOOKS}/{one['alert']}.md": page(one) for one in alerts(root)},
    }
