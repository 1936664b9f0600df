"""Grafana's dashboards, from code: the same five files for deploy/grafana and for the chart."""

import json
from pathlib import Path
from typing import Any

from generators.panels import API, LATE, OVERVIEW, REPLICAS, STORAGE, TENANTS, US, Panel

DASHBOARDS = {
    "overview": ("Scheduler / Overview", OVERVIEW),
    "replicas": ("Scheduler / Replicas", REPLICAS),
    "storage": ("Scheduler / Storage", STORAGE),
    "tenants": ("Scheduler / Tenants", TENANTS),
    "api": ("Scheduler / API", API),
}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_GRID = 24


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "custom": {}}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 30 if panel.stacked else 5,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
    if panel.steps:
        colours = zip(("green", "orange", "red"), (None, *panel.steps), strict=True)
        defaults["thresholds"] = {
            "mode": "absolute",
            "steps": [{"color": colour, "value": value} for colour, value in colours],
        }
    instant = panel.kind in {"table", "stat"}
    targets = [
        {
            "refId": chr(ord("A") + index),
            "expr": expr,
            "legendFormat": legend or "__auto",
            "datasource": _SOURCE,
            "instant": instant,
            "range": not instant,
            "exemplar": panel.kind == "timeseries",
            "format": "table" if panel.kind == "table" else "heatmap" if panel.kind == "heatmap" else "time_series",
        }
        for index, (expr, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "title": panel.title,
        "description": panel.text,
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": targets,
    }


def _variable(name: str, query: str, label: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def _annotation(name: str, expr: str, colour: str) -> dict[str, Any]:
    return {"name": name, "datasource": _SOURCE, "expr": expr, "enable": True, "iconColor": colour, "step": "60s"}


def dashboard(key: str) -> dict[str, Any]:
    """One dashboard, as Grafana imports it."""
    title, content = DASHBOARDS[key]
    panels: list[dict[str, Any]] = []
    x = y = height = 0
    for number, one in enumerate(content, 1):
        if x + one.width > _GRID:
            x, y, height = 0, y + height, 0
        panels.append(_panel(one, number, x, y))
        x, height = x + one.width, max(height, one.height)
    variables: list[dict[str, Any]] = [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}},
        _variable("namespace", "label_values(scheduler_build_info, namespace)", "Namespace"),
        _variable("job", 'label_values(scheduler_build_info{namespace=~"$namespace"}, job)', "Cluster"),
        _variable(
            "instance", 'label_values(scheduler_build_info{namespace=~"$namespace", job=~"$job"}, instance)', "Replica"
        ),
    ]
    if key == "tenants":
        variables.append(_variable("app_namespace", f"label_values({LATE}_count, app_namespace)", "App namespace"))
    links = [
        {
            "type": "dashboards",
            "tags": ["scheduler"],
            "title": "Dashboards",
            "asDropdown": True,
            "keepTime": True,
            "includeVars": True,
        },
        {"type": "link", "title": "Runbooks", "url": "docs/runbooks/README.md", "icon": "doc"},
    ]
    return {
        "uid": f"scheduler-{key}",
        "title": title,
        "tags": ["scheduler"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": links,
        "annotations": {
            "list": [
                _annotation(
                    "Roll-outs",
                    f"count by (version) (scheduler_build_info{{{US}}}) unless count by (version) (scheduler_build_info{{{US}}} offset 2m)",
                    "blue",
                ),
                _annotation("Rebalances", f"sum(increase(scheduler_claims_gained_total{{{US}}}[1m])) > 0", "purple"),
            ]
        },
        "templating": {"list": variables},
        "panels": panels,
    }


def files(_root: Path) -> dict[str, str]:
    """What is generated."""
    texts = {key: json.dumps(dashboard(key), indent=1) + "\n" for key in DASHBOARDS}
    return {
        f"{place}/{key}.json": text
        for place in ("deploy/grafana", "charts/scheduler/files/dashboards")
        for key, text in texts.items()
    }
