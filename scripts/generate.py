"""Writes every file that is made from another: see GENERATED. With --check: writes nothing, fails where a checked-in file differs.

Run as `.venv/bin/python scripts/generate.py`.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from generators import chart, dashboards, metrics, rules, settings

ROOT = Path(__file__).resolve().parents[1]
GENERATED: list[Callable[[Path], dict[str, str]]] = [
    chart.files,
    metrics.files,
    settings.files,
    rules.files,
    dashboards.files,
]


def main() -> int:
    check = "--check" in sys.argv[1:]
    stale = []
    for generator in GENERATED:
        for name, text in generator(ROOT).items():
            path = ROOT / name
            if path.exists() and path.read_text() == text:
                continue
            stale.append(name)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    for name in stale:
        print(f"generate: {name} {'differs from its source: run scripts/generate.py' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
