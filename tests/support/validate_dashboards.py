"""Run by the deploy tools' own Python: dashboards against Grafana's own models of dashboards, panels and Prometheus queries.

Standard input: {name: dashboard}. Standard output: a list of what the models do not know.
"""

import json
import re
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from validate_manifests import lost

# The models have what annotations of every data source share; this one is the Prometheus data source's own.
KNOWN = re.compile(r"unknown field \.annotations\.list\[\d+\]\.step")


def main() -> None:
    register_default_plugins()
    found = []
    for name, dashboard in json.load(sys.stdin).items():
        kept = json.loads(json.dumps(Dashboard.from_json(dashboard), cls=JSONEncoder))
        found += [f"{name}: {problem}" for problem in lost(dashboard, kept) if not KNOWN.fullmatch(problem)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
