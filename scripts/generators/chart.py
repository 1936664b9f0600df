"""The chart's schema and the tables of its README, from values.yaml: comments are descriptions, defaults give types, `@schema` lines add the rest."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scheduler.cli import config_file
from scheduler.cli import main as command

CHART = "charts/scheduler"
# Flags that the chart sets itself, from values of other names.
MANAGED_FLAGS = re.compile(
    "id|processes|port|listen-address|override-broadcast-host-port|healthz-.*|enable-metrics|metrics-port|metrics-listen-address|etcd-.*|mode|kubeconfig|namespace|tls-.*|sentry-.*|"
    "trust-anchors-file|trust-domain|app-trust-domains|allow-insecure"
)
_JSON_TYPES: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
_SECRET = {"minLength": 1}
_ON = True


def _when(path: str, value: object, then: dict[str, Any]) -> dict[str, Any]:
    """If the value at `path` is `value`, the root must also fit `then`."""
    return {"if": _at(path, {"const": value}), "then": then}


def _at(path: str, schema: dict[str, Any]) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        schema = {"properties": {name: schema}, "required": [name]}
    return schema


# What one value demands of another.
RULES = [
    _when("tls.mode", "existingSecret", _at("tls.existingSecret", _SECRET)),
    _when("etcd.bundled.tls.mode", "existingSecret", _at("etcd.bundled.tls.existingSecret", _SECRET)),
    _when("namespaceController.enabled", _ON, _at("tls.mode", {"not": {"const": "disabled"}})),
    {
        "if": _at("autoscaling.mode", {"const": "keda"}),
        "then": {
            "anyOf": [_at("autoscaling.keda.serverAddress", _SECRET), _at("autoscaling.keda.triggers", {"minItems": 1})]
        },
    },
    # Never both bounds of the disruption budget, and never both monitors: each would count every replica twice.
    {
        "if": _at("podDisruptionBudget.minAvailable", {"not": {"type": "null"}}),
        "then": {"properties": {"podDisruptionBudget": {"properties": {"maxUnavailable": {"type": "null"}}}}},
    },
    _when("metrics.serviceMonitor.enabled", _ON, _at("metrics.podMonitor.enabled", {"const": False})),
]


@dataclass
class Value:
    """One line of values.yaml with a key, and what its comment says."""

    path: tuple[str, ...]
    text: str = ""
    extra: dict[str, Any] = field(default_factory=dict)
    flags: str = ""


def parse(text: str) -> list[Value]:
    """Every key of values.yaml in order, with its comment."""
    values: list[Value] = []
    stack: list[tuple[int, str]] = []
    words: list[str] = []
    pending = Value(())
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# @schema "):
            pending.extra.update(json.loads(stripped.removeprefix("# @schema ")))
        elif stripped.startswith("# @flags "):
            pending.flags = stripped.removeprefix("# @flags ")
        elif stripped.startswith("#"):
            words.append(stripped.lstrip("# "))
        elif match := re.match(r"( *)([A-Za-z][\w-]*):", line):
            indent = len(match[1])
            while stack and stack[-1][0] >= indent:
                stack.pop()
            stack.append((indent, match[2]))
            pending.path = tuple(name for _, name in stack)
            pending.text = " ".join(words)
            values.append(pending)
            words, pending = [], Value(())
        else:
            # A blank line ends a comment that belongs to no key.
            words, pending = [], Value(())
    return values


def default_of(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values[name]
    return values


def serve_flags() -> dict[str, Any]:
    """Schemas of the settings that `config` may hold."""
    flags: dict[str, Any] = config_file.schema(command.commands["serve"])["properties"]
    return {name: schema for name, schema in flags.items() if not MANAGED_FLAGS.fullmatch(name)}


def schema(text: str, removed: list[dict[str, str]]) -> dict[str, Any]:
    """The JSON schema (draft 7) of values.yaml; removed values pass it, so that the template's guard can say what to do."""
    defaults = yaml.safe_load(text)
    root: dict[str, Any] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart scheduler",
        "type": "object",
        "additionalProperties": False,
        "properties": {},
        "allOf": RULES,
    }
    nodes: dict[tuple[str, ...], dict[str, Any]] = {(): root}
    for value in parse(text):
        default = default_of(defaults, value.path)
        node: dict[str, Any] = {"description": value.text} if value.text else {}
        if default is not None:
            node["type"] = _JSON_TYPES[type(default)]
        if value.flags:
            node.update(additionalProperties=False, properties=serve_flags())
        elif isinstance(default, dict) and default:
            node.update(additionalProperties=False, properties={})
            if f"{value.path[-1]}: {{" in text:
                # Written on one line: the keys have no comments of their own.
                free = value.path[-1] in {"resources", "requests", "labels", "instanceSelector"}
                node.update(
                    additionalProperties=free,
                    properties={}
                    if free
                    else {name: {"type": _JSON_TYPES[type(one)]} for name, one in default.items()},
                )
        for key, extra in value.extra.items():
            node[key] = (
                {**node.get(key, {}), **extra} if isinstance(extra, dict) and isinstance(node.get(key), dict) else extra
            )
        nodes[value.path] = node
        parent = nodes[value.path[:-1]]
        parent.setdefault("properties", {})
        if value.path[-1] not in parent["properties"]:
            parent["properties"][value.path[-1]] = node
    for gone in removed:
        *parent, name = gone["value"].split(".")
        nodes[tuple(parent)]["properties"][name] = {"description": f"Gone since {gone['since']}: {gone['instead']}"}
    # Subcharts' conveniences that helm itself adds.
    root["properties"]["global"]["additionalProperties"] = True
    return root


def table(text: str) -> str:
    """The README's table of values."""
    defaults = yaml.safe_load(text)
    known = parse(text)
    parents = {value.path[:-1] for value in known}
    rows = ["| value | default | what it is |", "| --- | --- | --- |"]
    about: dict[tuple[str, ...], str] = {}
    for value in known:
        if value.path in parents:
            about[value.path] = value.text
            if value.text:
                rows.append(f"| `{'.'.join(value.path)}` | | **{value.text}** |")
            continue
        default = json.dumps(default_of(defaults, value.path), separators=(", ", ": "))
        rows.append(f"| `{'.'.join(value.path)}` | `{default}` | {value.text} |".replace("\\|", "|"))
    others = ", ".join(f"`{name}`" for name in serve_flags())
    return "\n".join([*rows, "", f"`config` takes these flags of `scheduler serve`: {others}."])


def files(root: Path) -> dict[str, str]:
    """What is generated of the chart."""
    text = (root / CHART / "values.yaml").read_text()
    removed = yaml.safe_load((root / CHART / "files/removed.yaml").read_text())
    gone = ["| value | since | instead |", "| --- | --- | --- |"]
    gone += [f"| `{one['value']}` | {one['since']} | {one['instead']} |" for one in removed]
    return {
        f"{CHART}/values.schema.json": json.dumps(schema(text, removed), indent=2) + "\n",
        f"{CHART}/README.md": between((root / CHART / "README.md").read_text(), "values", table(text)),
        f"{CHART}/UPGRADING.md": between(
            (root / CHART / "UPGRADING.md").read_text(), "removed values", "\n".join(gone)
        ),
    }


def between(whole: str, name: str, text: str) -> str:
    """The whole with this text between its marks of that name."""
    begin, end = f"<!-- {name}: generated -->", f"<!-- end of {name} -->"
    head, rest = whole.split(begin)
    return f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}"
