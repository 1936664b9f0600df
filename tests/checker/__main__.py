"""Judge saved runs again: `python -m tests.checker DIRECTORY...`, each with history.jsonl, etcd.jsonl and perhaps bounds.json."""

import json
import sys
from pathlib import Path

from tests.checker.history import read
from tests.checker.judge import Bounds, judge


def main(directories: list[str]) -> int:
    failed = False
    for name in directories:
        directory = Path(name)
        bounds_file = directory / "bounds.json"
        bounds = Bounds(**json.loads(bounds_file.read_text())) if bounds_file.exists() else Bounds()
        report = judge(list(read(sorted(directory.glob("*.jsonl")))), bounds)
        print(json.dumps({"run": name, **report.as_json()}, indent=1))
        failed = failed or bool(report.problems)
    return int(failed)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
