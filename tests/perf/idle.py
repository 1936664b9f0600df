"""A replica with many idle jobs: how fast it loads them, what each costs in memory, when the first trigger is on time, what the collector costs.

`scripts/measure-idle -n 1000000` prints one JSON object. The jobs are put straight into etcd, by the product's own encodings.
"""

import asyncio
import json
import random
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from scheduler.etcd.api import Operation, Outcome
from scheduler.etcd.client import Client as Etcd
from tests.perf.clients import Run, Target, Work, client_for
from tests.perf.held import Watched, lines
from tests.perf.records import idle_records
from tests.perf.site import cpu_s, most_resident_bytes, resident_bytes, samples
from tests.support.client import Client, Watcher, job_metadata
from tests.support.processes import EtcdServer, Replica, wait_until

_OPS = 128
# Of one transaction: etcd takes half as much again.
_BATCH_BYTES = 1 << 20
_FILLERS = 8
_LARGE = ("--quota-backend-bytes=8589934592", "--snapshot-count=1000000")


async def fill(endpoint: str, count: int, payload_bytes: int, *, begin: int = 0) -> None:
    """Put the jobs into etcd, numbered from `begin` on."""
    puts = idle_records(count, payload_bytes, time.time_ns(), random.Random(count), begin=begin)
    etcd = Etcd([endpoint], rng=random.Random(1))
    ops = max(1, min(_OPS, _BATCH_BYTES // (payload_bytes + 512)))

    async def filler() -> None:
        while batch := list(islice(puts, ops)):
            operations: list[Operation] = [*batch]
            assert (await etcd.txn((), operations, timeout_s=30)).outcome is Outcome.COMMITTED

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_FILLERS):
            tasks.create_task(filler())
    await etcd.close()


MEMORY = "memory per idle job, payload apart (bytes)"
RESIDENT, MOST = "replica memory (MiB)", "replica memory at most (MiB)"
FIRST = "start of the process to the first trigger on time (s)"
LOADED = "start of the process to all jobs loaded (s)"
LOAD_CPU = "CPU per loaded job (us)"
RATIO = "CPU per trigger, against 1,000 idle jobs (ratio)"
_FEW = 1_000


def started(replica: Replica, jobs: int, figures: dict[str, float]) -> Replica:
    """Start a replica on its jobs and the probe's: when is the first trigger on time, when is all loaded?"""
    begun, begun_ns = time.monotonic(), time.time_ns()
    replica.start()
    watcher = Watcher([replica.address], app_id="probe")
    wait_until(
        lambda: any(hit.late_s < 0.1 for hit in list(watcher.hits)), timeout_s=600, what="a trigger arrives on time"
    )
    figures[FIRST] = next(hit for hit in watcher.hits if hit.late_s < 0.1).at_ns / 1e9 - begun_ns / 1e9
    wait_until(
        lambda: samples(replica.metrics_port).get("scheduler_jobs", 0) > jobs, timeout_s=600, what=f"{jobs} jobs loaded"
    )
    figures[LOADED] = time.monotonic() - begun
    figures[LOAD_CPU] = cpu_s(replica.pid) / jobs * 1e6
    hits = len(watcher.hits)
    wait_until(lambda: len(watcher.hits) >= hits + 3, timeout_s=60, what="more triggers arrive")
    figures["later triggers late by at most (ms)"] = max(hit.late_s for hit in watcher.hits[hits:]) * 1e3
    watcher.close()
    return replica


def with_probe(directory: Path, etcd: EtcdServer) -> int:
    """Create the probe's job; the memory of a replica that has nothing else."""
    replica = Replica("empty", directory, etcd.endpoint).start().wait_healthy(120)
    with_api = Client(replica.address)
    with_api.schedule("probe", metadata=job_metadata(app_id="probe"), schedule="@every 1s")
    with_api.close()
    # The first triggers find no stream; by then everything that a replica does once is done.
    wait_until(
        lambda: samples(replica.metrics_port)["scheduler_triggers_waiting"] > 0, timeout_s=30, what="the probe is due"
    )
    held = resident_bytes(replica.pid)
    replica.terminate()
    return held


def restarts(
    rounds: int,
    count: int,
    payload_bytes: int,
    *,
    beside: Work | None = None,
    arguments: tuple[str, ...] = (),
    make: type[Replica] = Replica,
) -> Iterator[Run]:
    """Fill an etcd once, then start a replica on it, so many times; `beside`: what a client does to it then, and to one of a thousand jobs."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        large, small = EtcdServer(directory / "large", *_LARGE).start(), EtcdServer(directory / "small").start()
        few = Replica("few", directory, small.endpoint)
        try:
            base_bytes = with_probe(directory, large)
            asyncio.run(fill(large.endpoint, count, payload_bytes))
            if beside:
                with_probe(directory, small)
                asyncio.run(fill(small.endpoint, _FEW, payload_bytes))
                started(few, _FEW, {})
            for _ in range(rounds):
                figures: dict[str, float] = {}
                replica = started(make("many", directory, large.endpoint, *arguments), count, figures)
                resident, found = resident_bytes(replica.pid), samples(replica.metrics_port)
                kept_bytes = 0 if found["scheduler_payloads_resting"] else payload_bytes
                figures[MEMORY] = (resident - base_bytes) / count - kept_bytes
                figures[RESIDENT], figures[MOST] = resident / 2**20, most_resident_bytes(replica.pid) / 2**20
                figures |= {key: found[key] for key in found if key.startswith(("scheduler_garbage", "scheduler_loop"))}
                run = Run(figures, {}, f"restart with {count:,} jobs")
                if isinstance(replica, Watched):
                    print("\n".join(lines(replica.held())))
                yield _compared(run, beside, (small, few), (large, replica)) if beside else run
                replica.terminate()
        finally:
            for child in (few, small, large):
                child.close()


def _compared(run: Run, work: Work, small: tuple[EtcdServer, Replica], large: tuple[EtcdServer, Replica]) -> Run:
    client = client_for(work.mode)
    few, many = (
        client.run(work, Target((replica.address,), (etcd.pid, replica.pid))) for etcd, replica in (small, large)
    )
    cost = "server CPU per trigger (us)"
    figures = {RATIO: many.figures[cost] / few.figures[cost], cost: many.figures[cost]}
    faults = {name: many.faults[name] + few.faults[name] for name in many.faults}
    return Run(run.figures | figures, faults, f"{run.command}; {many.command}")


def main() -> None:
    """The command."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=1_000_000, help="idle jobs")
    parser.add_argument("--payload-bytes", type=int, default=100)
    parser.add_argument("--payload-in-memory-bytes", help="the replica's setting")
    parser.add_argument("--held", action="store_true", help="also what holds the loop; its clocks make loading slower")
    arguments = parser.parse_args()
    kept = arguments.payload_in_memory_bytes
    more = (f"--payload-in-memory-bytes={kept}",) if kept else ()
    make = Watched if arguments.held else Replica
    for run in restarts(1, arguments.n, arguments.payload_bytes, arguments=more, make=make):
        print(json.dumps({name: round(value, 3) for name, value in run.figures.items()}, indent=2))


if __name__ == "__main__":
    main()
