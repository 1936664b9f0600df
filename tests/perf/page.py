"""The figures of docs/performance.md: `scripts/measure` runs our own bench on real processes, writes docs/performance.json and renders the page from it.

Each row starts an etcd and its replicas anew. Rates and CPU are as measured; the factor beside them says how fast the machine was just then.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from scheduler.etcd.binary import find_etcd
from tests.support.processes import ROOT, EtcdServer, Replica

JSON, PAGE = ROOT / "docs" / "performance.json", ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
# The same tools as those of scripts/measure-go.
_CALIBRATE = Path(os.environ.get("LOAD_SOURCE", ROOT.parent / "shared" / "tools")) / "calibrate.py"


class Row(NamedTuple):
    """One row of the table: how it is measured, and which figures are shown."""

    label: str
    replicas: int
    arguments: str
    figures: tuple[str, ...]
    must: str


_LATE = ("lateness p50 (ms)", "lateness p99 (ms)")
_TRIGGER = (*_LATE, "server CPU per trigger (us)", "server CPU (cores)")
_CREATE = ("creates (per s)", "create p50 (ms)", "server CPU per create (us)")
ROWS = (
    Row("creates, 128 at once", 1, "create -n 10000", _CREATE, "4,500 /s, p50 28 ms, 230 us"),
    Row(
        "20,000 one-shots due at one instant", 1, "storm -n 20000", ("triggers first to last (per s)", "server CPU per trigger (us)"),
        "45,000 /s, 75 us, deletion included",
    ),
    Row("`@every 1s`, 1,000 jobs spread over the second", 1, "every -n 1000 --spread 1", _TRIGGER, "3 / 15 ms, 0.55 cores"),
    Row("the same, 6,000 jobs", 1, "every -n 6000 --spread 1", _TRIGGER, "4 / 20 ms, 0.8 cores"),
    Row("`@every 1s`, 10,000 jobs at one instant", 1, "every -n 10000 --spread 0", _TRIGGER, "p99 300 ms, 28 us"),
    Row(
        "mixed: 2,000 triggers/s, 500 creates/s, 200 deletes/s, 50 lists/s", 1, "mixed -n 2000 --spread 1",
        (*_TRIGGER, "create p99 (ms)", "list p99 (ms)"), "",
    ),
    Row("creates with 64 KiB of payload", 1, "create -n 1000 --payload-bytes 65536 --concurrency 16", _CREATE, ""),
    Row("one-shots with 64 KiB of payload at one instant", 1, "storm -n 1000 --payload-bytes 65536", _TRIGGER[:3], ""),
    Row("three replicas: creates", 3, "create -n 6000", _CREATE, "3,000 /s, 500 us"),
    Row("three replicas: `@every 1s`, 3,000 jobs at one instant", 3, "every -n 3000 --spread 0", _TRIGGER, "p99 60 ms, 80 us"),
)  # fmt: skip


def factor() -> float | None:
    """How fast this machine is just now, where the tool for that is there."""
    if not _CALIBRATE.exists():
        return None
    told = subprocess.run([sys.executable, str(_CALIBRATE)], check=True, capture_output=True, text=True).stdout
    return float(told.split()[1])


def measure_row(row: Row, rounds: int, seconds: float) -> dict[str, Any]:
    """Run the bench on fresh processes, once a round."""
    results, before = [], factor()
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            etcd = EtcdServer(directory / "etcd").start()
            replicas = [
                Replica(f"replica-{number}", directory / f"replica-{number}", etcd.endpoint).start()
                for number in range(row.replicas)
            ]
            try:
                for replica in replicas:
                    replica.wait_healthy(60)
                time.sleep(2 * row.replicas)
                pids = ",".join(str(child.pid) for child in (etcd, *replicas))
                command = [
                    sys.executable,
                    "-m",
                    "scheduler",
                    "bench",
                    *row.arguments.split(),
                    "--seconds",
                    str(seconds),
                ]
                command += ["--address", replicas[0].address, "--pids", pids, "-o", "json"]
                ran = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=300)
                if not ran.stdout:
                    raise AssertionError(ran.stderr)
                document = json.loads(ran.stdout)
                results.append(document["results"][0])
                machine = {name: document[name] for name in ("machine", "python", "version")}
                replicas[0].terminate()
            finally:
                for child in (*replicas, etcd):
                    child.close()
    return {**row._asdict(), "results": results, "factors": [before, factor()], "on": machine}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _spread(results: list[dict[str, Any]], figure: str) -> str:
    values = [one["figures"][figure] for one in results if figure in one["figures"]]
    if not values:
        return ""
    text = _number(statistics.median(values))
    if len(values) > 1:
        text += f" ({_number(min(values))} to {_number(max(values))})"
    name, _, unit = figure.rstrip(")").rpartition(" (")
    return f"{name} {text} {unit}"


def rendered(document: dict[str, Any]) -> Iterator[str]:
    """The lines between the page's marks."""
    on = document["rows"][0]["on"]
    yield f"Measured on {document['at']}, {on['machine']}, Python {on['python']}, {document['etcd']}; medians of"
    yield f"{document['rounds']} runs, the smallest and the largest in brackets. Server CPU counts etcd in.\n"
    yield "| | command | measured | must | factor | correct |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in document["rows"]:
        results = row["results"]
        measured = ", ".join(filter(None, (_spread(results, figure) for figure in row["figures"])))
        faults = [f"{name} {count}" for one in results for name, count in one["faults"].items() if count]
        factors = " / ".join(f"{one:.2f}" for one in row["factors"] if one is not None)
        yield f"| {row['label']} | `bench {row['arguments']}` | {measured} | {row['must']} | {factors} | {', '.join(faults) or 'yes'} |"


def render(page: str, document: dict[str, Any] | None) -> str:
    """The page with its measured part made anew; without figures it says what makes them."""
    lines = (
        rendered(document)
        if document
        else ("Not measured yet: run `scripts/measure` on a machine that has nothing else to do.",)
    )
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return before + BEGIN + "\n".join(lines) + "\n" + END + after


def kept() -> dict[str, Any] | None:
    """The figures in docs; None: nobody has measured yet."""
    return json.loads(JSON.read_text()) if JSON.exists() else None


def main() -> None:
    """The command."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--render-only", action="store_true", help="render the page from the JSON that is there")
    arguments = parser.parse_args()
    if not arguments.render_only:
        etcd = subprocess.run([str(find_etcd().path), "--version"], check=True, capture_output=True, text=True).stdout
        document: dict[str, Any] = {
            "at": datetime.now(UTC).strftime("%Y-%m-%d"),
            "etcd": etcd.splitlines()[0].replace("Version: ", ""),
            "rounds": arguments.rounds,
            "rows": [],
        }
        for row in ROWS:
            print(f"{row.label}: {row.replicas} replica(s), bench {row.arguments}", flush=True)
            document["rows"].append(measure_row(row, arguments.rounds, arguments.seconds))
            JSON.write_text(json.dumps(document, indent=1) + "\n")
    PAGE.write_text(render(PAGE.read_text(), kept()))


if __name__ == "__main__":
    main()
