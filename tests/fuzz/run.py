"""The fuzzer: a real etcd, a real replica, processes that send it nonsense, and a bystander whose job must not notice. See `scripts/fuzz --help`."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import Cluster
from tests.support.client import Client, Watcher, job_metadata
from tests.support.processes import ROOT, EtcdServer, Replica, wait_until

RSS_MAX_BYTES = 600 << 20
LATE_MAX_S = 1.0
_GRACE_S = 30.0


@dataclass
class Report:
    """What came of it."""

    seed: int
    calls: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    bystander_triggers: int = 0
    bystander_late_max_s: float = 0.0
    rss_max_bytes: int = 0

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {sum(self.calls.values()):,} calls {dict(self.calls.most_common())}",
            f"answers {dict(self.codes.most_common())}",
            f"bystander: {self.bystander_triggers} triggers, latest {self.bystander_late_max_s * 1e3:.0f} ms; replica: {self.rss_max_bytes >> 20} MiB at most",
            *(f"PROBLEM {problem}" for problem in self.problems),
        ]
        return "\n".join(lines)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def fuzz(seed: int, seconds: float, directory: Path, processes: int = 1) -> Report:
    """Run it. Problems are in the report; nothing raises for them."""
    report = Report(seed)
    etcd = EtcdServer(directory / "etcd").start()
    cluster = Cluster(etcd, directory)
    try:
        replica = cluster.start(1).replicas[0]
        bystander = Watcher(cluster.addresses, app_id="bystander", namespace="bystander")
        wait_until(lambda: bool(bystander.connected), timeout_s=30, what="the bystander's stream")
        client = Client(replica.address)
        client.schedule("tick", metadata=job_metadata("bystander", "bystander"), schedule="@every 1s")
        client.close()
        drivers = [
            subprocess.Popen(
                ["nice", sys.executable, "-m", "tests.fuzz.driver", replica.address, str(seed + number), str(seconds)], cwd=ROOT, stdout=subprocess.PIPE
            )
            for number in range(processes)
        ]  # fmt: skip
        _wait(drivers, replica, report, seconds)
        for driver in drivers:
            _collect(driver, report)
        _judge(bystander, replica, report)
        bystander.close()
    finally:
        cluster.close()
        etcd.close()
    return report


def _wait(drivers: list[subprocess.Popen[bytes]], replica: Replica, report: Report, seconds: float) -> None:
    end = time.monotonic() + seconds + _GRACE_S
    while any(driver.poll() is None for driver in drivers) and time.monotonic() < end:
        time.sleep(0.2)
        if replica.process is None or replica.process.poll() is not None:
            report.problems.append(f"the replica ended: {replica.tail()}")
            break
        report.rss_max_bytes = max(report.rss_max_bytes, rss_bytes(replica.pid))
    for driver in drivers:
        if driver.poll() is None:
            driver.kill()
            report.problems.append("a driver did not end")


def _collect(driver: subprocess.Popen[bytes], report: Report) -> None:
    output = driver.communicate()[0]
    if driver.returncode == 0:
        summary = json.loads(output)
        report.calls.update(summary["calls"])
        report.codes.update(summary["codes"])
        report.problems.extend(summary["findings"])
    else:
        report.problems.append(f"a driver ended with {driver.returncode}")


def _judge(bystander: Watcher, replica: Replica, report: Report) -> None:
    hits = list(bystander.hits)
    report.bystander_triggers = len(hits)
    report.bystander_late_max_s = max((hit.late_s for hit in hits), default=0.0)
    indexes = [hit.index for hit in hits]
    if indexes != list(range(len(indexes))) or not indexes:
        report.problems.append(f"the bystander missed or repeated triggers: {indexes[:100]}")
    if report.bystander_late_max_s > LATE_MAX_S:
        report.problems.append(f"the bystander's job was late by {report.bystander_late_max_s:.2f} s")
    if report.rss_max_bytes > RSS_MAX_BYTES:
        report.problems.append(f"the replica took {report.rss_max_bytes >> 20} MiB")
    log = replica.log.read_text(errors="replace")
    report.problems.extend(line for line in log.splitlines() if "handler_failed" in line or "Traceback" in line)
    if bystander.errors:
        report.problems.append(f"the bystander's stream broke: {bystander.errors}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description="Send nonsense to a replica, and see whether anybody notices.")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument(
        "--seed",
        type=int,
        default=None,
        help="printed; the same seed sends the same requests (not at the same moments)",
    )
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else time.time_ns() % 1_000_000
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as directory:
        report = fuzz(seed, arguments.minutes * 60, Path(directory), arguments.processes)
    print(report)
    sys.exit(1 if report.problems else 0)


if __name__ == "__main__":
    main()
