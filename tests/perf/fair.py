"""`scripts/measure-fair -n 100000`: `scheduler bench fair` on a fresh replica, and what held the replica's loop meanwhile."""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

from tests.perf.held import Watched, lines
from tests.perf.site import factor, samples, stop_when_told
from tests.support.processes import ROOT, EtcdServer

_WINDOWS = ("before", "meanwhile", "after")
_WHAT = ("lateness", "get", "create")


def measured(*arguments: str) -> Iterator[str]:
    """Lines of what was found, in the storm's order: its creates, then itself and what comes after it."""
    with tempfile.TemporaryDirectory() as name:
        etcd = EtcdServer(Path(name) / "etcd").start()
        replica = Watched("replica", Path(name), etcd.endpoint)
        try:
            replica.start().wait_healthy(60)
            replica.held()
            command = [sys.executable, "-m", "scheduler", "bench", "fair", *arguments, "--address", replica.address]
            bench = subprocess.Popen([*command, "-o", "json"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
            created = 0.0
            while bench.poll() is None and not samples(replica.metrics_port)["scheduler_triggers_sent_total"] > 300:
                created = max(created, samples(replica.metrics_port)["scheduler_jobs"])
                time.sleep(1)  # each look costs the replica some milliseconds
            yield f"while {created:,.0f} jobs are created:"
            yield from lines(replica.held())
            output, _ = bench.communicate(timeout=600)
            yield "in the storm and after it:"
            yield from lines(replica.held())
            result = json.loads(output)["results"][0]
        finally:
            replica.close()
            etcd.close()
    figures, faults = result["figures"], result["faults"]
    yield f"{'the quiet app, p50 / p99 (ms)':<32}" + "".join(f"{window:>18}" for window in _WINDOWS)
    for what in _WHAT:
        shown = (
            tuple(figures.get(f"{what} {window} {point} (ms)", 0.0) for point in ("p50", "p99")) for window in _WINDOWS
        )
        yield f"{what:<32}" + "".join(f"{p50:>9.1f} / {p99:6.1f}" for p50, p99 in shown)
    yield f"the storm took {figures['storm first to last (s)']:.1f} s; faults: {sum(faults.values())}"


def main() -> None:
    """The command; what it does not know goes to the bench."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=100_000, help="jobs of the storm")
    arguments, more = parser.parse_known_args()
    stop_when_told()

    def machine() -> str:
        return f"factor {factor()}, load average {os.getloadavg()[0]:.1f}"

    print(machine(), flush=True)
    for line in measured("-n", str(arguments.n), *more):
        print(line, flush=True)
    print(machine())


if __name__ == "__main__":
    main()
