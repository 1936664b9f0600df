"""Run by the deploy tools' own Python: manifests against Kubernetes' schemas of several versions, and custom resources against their operators' models.

Standard input: {"versions": [...], "cases": {name: [manifest, ...]}}. Standard output: a list of what is wrong.
"""

import importlib
import json
import sys
from typing import Any

import kubernetes_validate

CUSTOM = {
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
    "cert-manager.io/v1": "cloudcoil.models.cert_manager.v1",
    "helm.toolkit.fluxcd.io/v2": "cloudcoil.models.fluxcd.helm.v2",
    "source.toolkit.fluxcd.io/v1": "cloudcoil.models.fluxcd.source.v1",
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
}
# Nobody packages a schema of these.
UNCHECKED = {"grafana.integreatly.org/v1beta1"}


def lost(given: Any, kept: Any, path: str = "") -> list[str]:
    """What a model dropped silently: keys that it does not know."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [
            problem
            for key, value in given.items()
            for problem in (
                [f"unknown field {path}.{key}"] if key not in kept else lost(value, kept[key], f"{path}.{key}")
            )
        ]
    if isinstance(given, list) and isinstance(kept, list):
        return [
            problem
            for index, pair in enumerate(zip(given, kept, strict=True))
            for problem in lost(*pair, f"{path}[{index}]")
        ]
    return []


def problems(manifest: dict[str, Any], versions: list[str]) -> list[str]:
    api, kind = manifest["apiVersion"], manifest["kind"]
    if api in UNCHECKED:
        return []
    if api in CUSTOM:
        model = getattr(importlib.import_module(CUSTOM[api]), kind)
        try:
            parsed = model.model_validate(manifest)
        except ValueError as error:
            return [str(error)]
        return lost(manifest, json.loads(parsed.model_dump_json(by_alias=True, exclude_unset=True)))
    found = []
    for version in versions:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            found.append(f"Kubernetes {version}: {getattr(error, 'message', error)}")
    return found


def main() -> None:
    work = json.load(sys.stdin)
    found = [
        f"{name}: {manifest['kind']}/{manifest['metadata']['name']}: {problem}"
        for name, manifests in work["cases"].items()
        for manifest in manifests
        for problem in problems(manifest, work["versions"])
    ]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
