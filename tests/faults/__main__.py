"""Real faults on real processes.

    python -m tests.faults F1 F13          these, each on a cluster of its own
    python -m tests.faults --all           all of them
    python -m tests.faults --soak 20m      random faults for so long, and no growth of memory, leases or keys

Each prints its seed, its timeline and its verdict. The files of a run (history*.jsonl, etcd.jsonl, logs) stay when it fails, and are judged again
with `python -m tests.checker DIRECTORY`. --results FILE adds the figures to a JSON file, from which `python -m tests.faults.table` makes the table.
"""

import argparse
import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from tests.checker.judge import Report
from tests.faults.etcd_scenarios import ETCD_SCENARIOS
from tests.faults.machine import etcd_version
from tests.faults.other_scenarios import OTHER_SCENARIOS
from tests.faults.run import Run, revision, running
from tests.faults.scenarios import REPLICA_SCENARIOS, Scenario
from tests.faults.soak import soak
from tests.support.processes import ROOT

SCENARIOS: dict[str, Scenario] = {**REPLICA_SCENARIOS, **ETCD_SCENARIOS, **OTHER_SCENARIOS}


def results_of(run: Run, report: Report) -> list[dict[str, Any]]:
    """One row for each phase of the run."""
    rows = []
    for phase in run.phases:
        figures = report.figures(phase.begin_wall, phase.end_wall)
        broken = phase.broken(figures)
        rows.append(
            {
                "fault": phase.name,
                "verdict": "fail" if report.problems or broken else "pass",
                "problems": broken + [f"{kind}: {detail}" for kind, detail in report.problems[:10]],
                **figures,
                "notes": phase.notes,
                "seed": run.seed,
                "etcd": etcd_version(),
                "revision": revision(),
            }
        )
    return rows


def play(names: list[str], directory: Path, *, seed: int, short: bool = False, **site: Any) -> list[dict[str, Any]]:
    """These scenarios, one after the other, on one cluster; one row of results for each phase."""
    for name in names:
        site = {**SCENARIOS[name].site(), **site}
    with running(directory, seed=seed, seconds=30 * len(names), **site) as run:
        for name in names:
            SCENARIOS[name].play(run, short)
        report = run.finish()
        print(json.dumps(report.as_json(), indent=1), flush=True)
        return results_of(run, report)


def save(path: Path | None, rows: list[dict[str, Any]]) -> None:
    """Put the rows into the file of results, in place of older ones of the same faults."""
    if path is None:
        return
    known = {row["fault"]: row for row in json.loads(path.read_text())} if path.exists() else {}
    known.update({row["fault"]: row for row in rows})
    path.write_text(json.dumps(list(known.values()), indent=1) + "\n")


def soak_for(seconds: float, output: Path, seed: int, results: Path | None) -> int:
    directory = output / f"soak-{time.strftime('%H%M%S')}"
    row = soak(directory, seconds=seconds, seed=seed)
    print(json.dumps(row, indent=1), flush=True)
    save(results, [row])
    if row["verdict"] == "fail":
        print(f"FAILED; judge again: python -m tests.checker {directory}", flush=True)
        return 1
    shutil.rmtree(directory)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("faults", nargs="*", metavar="F", help=f"of {' '.join(SCENARIOS)}")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--soak", metavar="MINUTES", help="random faults for so long, such as 20m")
    parser.add_argument("--short", action="store_true", help="the shorter form that CI plays")
    parser.add_argument("--shared", action="store_true", help="all on one cluster")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--results", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / ".cache/faults")
    options = parser.parse_args()
    if options.soak:
        return soak_for(float(options.soak.removesuffix("m")) * 60, options.output, options.seed, options.results)
    names = list(SCENARIOS) if options.all else options.faults
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown or not names:
        parser.error(
            f"there is no {' '.join(unknown)}; there are {' '.join(SCENARIOS)}" if unknown else "name a fault, or --all"
        )
    failed = False
    for group in [names] if options.shared else [[name] for name in names]:
        directory = options.output / f"{'-'.join(group)}-{time.strftime('%H%M%S')}"
        print(f"\n{' '.join(group)}: {'; '.join(SCENARIOS[name].text for name in group)}", flush=True)
        rows = play(group, directory, seed=options.seed, short=options.short)
        for row in rows:
            print({key: value for key, value in row.items() if key not in {"seed", "etcd", "revision"}}, flush=True)
        save(options.results, rows)
        if any(row["verdict"] == "fail" for row in rows):
            failed = True
            print(f"FAILED; judge again: python -m tests.checker {directory}", flush=True)
        else:
            shutil.rmtree(directory)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
