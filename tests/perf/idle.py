"""A replica with many idle jobs: how fast it loads them, what each costs in memory, when the first trigger is on time, what the collector costs.

`scripts/measure-idle -n 1000000` prints one JSON object. The jobs are put straight into etcd, by the product's own encodings.
"""

import asyncio
import json
import random
import tempfile
import time
from argparse import ArgumentParser
from itertools import islice
from pathlib import Path
from urllib.request import urlopen

from scheduler.etcd.api import Operation, Outcome
from scheduler.etcd.client import Client as Etcd
from tests.perf.records import idle_records
from tests.support.client import Client, Watcher, job_metadata
from tests.support.processes import EtcdServer, Replica, wait_until

_OPS = 128
_FILLERS = 8


async def fill(endpoint: str, count: int, payload_bytes: int) -> None:
    """Put the jobs into etcd."""
    puts = idle_records(count, payload_bytes, time.time_ns(), random.Random(count))
    etcd = Etcd([endpoint], rng=random.Random(1))

    async def filler() -> None:
        while batch := list(islice(puts, _OPS)):
            operations: list[Operation] = [*batch]
            assert (await etcd.txn((), operations, timeout_s=30)).outcome is Outcome.COMMITTED

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_FILLERS):
            tasks.create_task(filler())
    await etcd.close()


def metrics(replica: Replica) -> dict[str, float]:
    """Samples without labels, and those with, by their whole name."""
    with urlopen(f"http://127.0.0.1:{replica.metrics_port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] not in {"#", ""})}


def resident_bytes(pid: int) -> int:
    """What the process holds in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def cpu_s(pid: int) -> float:
    """What the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def start(name: str, directory: Path, etcd: EtcdServer, jobs: int) -> tuple[Replica, float]:
    """A replica that has loaded everything, and how long that took from its first partition on."""
    replica = Replica(name, directory, etcd.endpoint).start().wait_healthy(120)
    started = time.monotonic()
    wait_until(lambda: metrics(replica).get("scheduler_jobs", 0) >= jobs, timeout_s=600, what=f"{jobs} jobs loaded")
    return replica, time.monotonic() - started


def measure(count: int, payload_bytes: int, directory: Path) -> dict[str, float]:
    """All figures of one run."""
    etcd = EtcdServer(directory / "etcd", "--quota-backend-bytes=8589934592", "--snapshot-count=1000000").start()
    empty, _ = start("empty", directory, etcd, 0)
    with_api = Client(empty.address)
    with_api.schedule("probe", metadata=job_metadata(app_id="probe"), schedule="@every 1s")
    time.sleep(2)
    base_bytes = resident_bytes(empty.pid)
    with_api.close()
    empty.terminate()
    filled = time.monotonic()
    asyncio.run(fill(etcd.endpoint, count, payload_bytes))
    fill_s = time.monotonic() - filled

    begun, begun_ns = time.monotonic(), time.time_ns()
    replica = Replica("measured", directory, etcd.endpoint).start()
    watcher = Watcher([replica.address], app_id="probe")
    wait_until(
        lambda: any(hit.late_s < 0.1 for hit in list(watcher.hits)), timeout_s=600, what="a trigger arrives on time"
    )
    first_s = next(hit for hit in watcher.hits if hit.late_s < 0.1).at_ns / 1e9 - begun_ns / 1e9
    wait_until(lambda: metrics(replica).get("scheduler_jobs", 0) > count, timeout_s=600, what=f"{count} jobs loaded")
    loaded_s, loaded_cpu_s = time.monotonic() - begun, cpu_s(replica.pid)
    hits = len(watcher.hits)
    wait_until(lambda: len(watcher.hits) >= hits + 10, timeout_s=60, what="ten more triggers arrive")
    late = sorted(hit.late_s for hit in watcher.hits[hits:])
    figures = {
        "jobs": count,
        "payload_bytes": payload_bytes,
        "fill_per_s": count / fill_s,
        "loaded_s_from_process_start": loaded_s,
        "loaded_cpu_us_per_job": loaded_cpu_s / count * 1e6,
        "first_trigger_on_time_s_from_process_start": first_s,
        "bytes_per_job_without_payload": (resident_bytes(replica.pid) - base_bytes) / count - payload_bytes,
        "later_triggers_late_ms_max": late[-1] * 1e3,
    }
    found = metrics(replica)
    for name, value in found.items():
        if name.startswith(("scheduler_garbage", "scheduler_loop")):
            figures[name] = value
    watcher.close()
    replica.terminate()
    etcd.close()
    return figures


def main() -> None:
    """The command."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=1_000_000, help="idle jobs")
    parser.add_argument("--payload-bytes", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(arguments.n, arguments.payload_bytes, Path(directory))
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=2))


if __name__ == "__main__":
    main()
