"""`scripts/measure`: every row of docs/performance.md on real processes, into docs/performance.json, and the page and its plots from that.

scripts/measure                                  all rows, five rounds each
scripts/measure --rows 'spread*,mixed' --rounds 3   these; the others stay as they are in the JSON
scripts/measure --plots                          the series behind the plots, one run a point, and the plots: seven minutes
scripts/measure --render-only                    the page and the plots from the JSON that is there
"""

import json
import os
import platform
import subprocess
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from datetime import UTC, datetime
from fnmatch import fnmatch
from typing import Any

from scheduler.etcd.binary import find_etcd
from tests.perf.page import JSON, PAGE, drawn, kept, render
from tests.perf.rows import ROWS, Row
from tests.perf.series import SERIES, Series
from tests.perf.site import factor, stop_when_told


def measured(row: Row, rounds: int) -> dict[str, Any]:
    """The row's entry in the JSON."""
    etcd = subprocess.run([str(find_etcd().path), "--version"], check=True, capture_output=True, text=True).stdout
    result = row.measure(row, min(rounds, row.rounds_max))
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "etcd": etcd.splitlines()[0].removeprefix("etcd Version: "),
        "client": result.client,
        "command": result.command,
        "factors": result.factors,
        "rounds": [
            {"figures": {name: float(f"{value:.5g}") for name, value in run.figures.items()}, "faults": run.faults}
            for run in result.rounds
        ],
    }


def followed(series: Series) -> dict[str, Any]:
    """A series' entry in the JSON."""
    before, points = factor(), []
    for x, run in series.measure():
        figures = {name: float(f"{run.figures[name]:.5g}") for name in series.figures}
        points.append({"x": x, "figures": figures, "faults": run.faults})
        print(f"{series.key}: {points[-1]}", flush=True)
    return {"at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"), "factors": [before, factor()], "points": points}


def main() -> int:
    """The command; 1 where a row could not be measured."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--rows", default="*", help=f"patterns, comma separated, of {' '.join(row.key for row in ROWS)}"
    )
    parser.add_argument("--plots", action="store_true", help="measure what is plotted, and no rows")
    parser.add_argument("--render-only", action="store_true")
    arguments = parser.parse_args()
    stop_when_told()
    document, failed = kept(), []
    if arguments.plots:
        for series in SERIES:
            document.setdefault("series", {})[series.key] = followed(series)
            JSON.write_text(json.dumps(document, indent=1) + "\n")
    elif not arguments.render_only:
        rows = [row for row in ROWS if any(fnmatch(row.key, one) for one in arguments.rows.split(","))]
        if not rows:
            parser.error(f"no row is like {arguments.rows}; there are {' '.join(row.key for row in ROWS)}")
        for row in rows:
            began = time.monotonic()
            try:
                document[row.key] = measured(row, arguments.rounds)
            except Exception as error:
                failed.append(row.key)
                print(f"{row.key}: NOT MEASURED: {error!r}", file=sys.stderr, flush=True)
                continue
            JSON.write_text(json.dumps(document, indent=1) + "\n")
            print(f"{row.key}: {time.monotonic() - began:.0f} s, factors {document[row.key]['factors']}", flush=True)
            for one in document[row.key]["rounds"]:
                shown = {bar.figure: one["figures"].get(bar.figure) for bar in row.bars}
                print(f"  {shown} {one['faults']}", flush=True)
    PAGE.write_text(render(PAGE.read_text(), document))
    for path, text in drawn(document).items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
