"""What watching and loading cost each of three replicas: its own share of 90,000 jobs, in bytes that etcd sends it, in CPU, and in jobs.

`pytest -s` prints the table of docs/scale.md.
"""

import asyncio
import os
import random
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core.names import app_target, storage_key
from scheduler.etcd.api import Operation, Put
from scheduler.etcd.client import Client
from scheduler.rpc.jobs import record_of
from scheduler.store.keys import Keys, partition_of
from tests.support.processes import EtcdServer, Replica, free_port

JOBS = 90_000
PARTITIONS = 128
CREATES_S, RATE = 6.0, 500
_TICKS = os.sysconf("SC_CLK_TCK")

pytestmark = [pytest.mark.etcd, pytest.mark.e2e, pytest.mark.alone]


class Wire:
    """A way to etcd that counts what comes back."""

    def __init__(self, etcd_port: int) -> None:
        self.etcd_port = etcd_port
        self.port = free_port()
        self.received = 0

    async def open(self) -> "Wire":
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, there = await asyncio.open_connection("127.0.0.1", self.etcd_port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._copy(reader, there, counts=False))
            tasks.create_task(self._copy(back, writer, counts=True))

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, counts: bool) -> None:
        try:
            while data := await source.read(1 << 18):
                self.received += len(data) * counts
                target.write(data)
                await target.drain()
        except OSError:
            pass
        finally:
            target.close()


class Member:
    """One replica on a wire of its own."""

    def __init__(self, name: str, directory: Path, wire: Wire) -> None:
        self.wire = wire
        arguments = (f"--partitions={PARTITIONS}", "--log-level=error")
        self.replica = Replica(name, directory, f"http://127.0.0.1:{wire.port}", *arguments)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.replica.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    async def metric(self, name: str) -> float:
        def read() -> str:
            with urlopen(f"http://127.0.0.1:{self.replica.metrics_port}/metrics", timeout=10) as answer:
                return answer.read().decode()

        found = re.search(rf"^{name} (\S+)$", await asyncio.to_thread(read), re.MULTILINE)
        return float(found[1]) if found else 0.0


class Bench:
    """Etcd, three members, and what each phase costs them."""

    def __init__(self, etcd: EtcdServer, members: list[Member]) -> None:
        self.etcd = etcd
        self.members = members
        self.client = Client([etcd.endpoint], rng=random.Random(1))
        self.keys = Keys()
        self.created = 0

    def puts(self, count: int) -> list[Operation]:
        puts: list[Operation] = []
        for _ in range(count):
            name, self.created = f"job-{self.created}", self.created + 1
            metadata = pb.JobMetadata(app_id="a", namespace="ns", target=pb.JobTargetMetadata(job=pb.TargetJob()))
            request = pb.ScheduleJobRequest(name=name, job=pb.Job(due_time="24h"), metadata=metadata)
            record = record_of(request, time.time_ns())
            record.generation = self.created
            key = storage_key(app_target("ns", "a"), name)
            puts.append(Put(self.keys.job(partition_of(key, PARTITIONS), key), record.SerializeToString()))
        return puts

    async def create(self, count: int, *, at_once: int, pause_s: float = 0.0) -> None:
        for _ in range(0, count, at_once):
            await self.client.txn((), self.puts(at_once))
            await asyncio.sleep(pause_s)

    async def settle(self, jobs: int, members: list[Member]) -> None:
        """Until these own everything, evenly, and know all jobs."""
        async with asyncio.timeout(60):
            while True:
                owned = [await one.metric("scheduler_owned_partitions") for one in members]
                known = [await one.metric("scheduler_jobs") for one in members]
                if sum(owned) == PARTITIONS and max(owned) - min(owned) <= 1 and sum(known) == jobs:
                    return
                await asyncio.sleep(0.2)

    def costs(self) -> list[tuple[int, float]]:
        return [(one.wire.received, one.cpu_s() if one.replica.process else 0.0) for one in self.members]


@pytest.fixture
async def bench(tmp_path) -> AsyncIterator[Bench]:
    etcd = EtcdServer(tmp_path / "etcd", "--unsafe-no-fsync").start()
    members = [Member(f"r{n}", tmp_path / f"r{n}", await Wire(etcd.port).open()) for n in range(3)]
    one = Bench(etcd, members)
    try:
        for member in members:
            member.replica.start()
        for member in members:
            await asyncio.to_thread(member.replica.wait_healthy)
        yield one
    finally:
        for member in members:
            member.replica.close()
            member.wire.server.close()
        await one.client.close()
        etcd.close()


async def test_each_of_three_replicas_pays_for_its_own_share(bench) -> None:
    first, second, third = members = bench.members
    await bench.settle(0, members)

    before = bench.costs()
    await bench.create(JOBS, at_once=100)
    await bench.settle(JOBS, members)
    watched = _since(before, bench.costs())
    _shares("90,000 jobs come in by the watches", watched)
    all_bytes = sum(received for received, _ in watched)

    await asyncio.to_thread(third.replica.terminate)
    third.replica.process = None
    await bench.settle(JOBS, [first, second])
    before = bench.costs()
    third.replica.start()
    await asyncio.to_thread(third.replica.wait_healthy)
    await bench.settle(JOBS, members)
    joined = _since(before, bench.costs())
    _print("a replica joins and loads its third", joined)
    assert 0.2 < joined[2][0] / all_bytes < 0.45, (joined, all_bytes)
    assert joined[0][0] + joined[1][0] < 0.1 * all_bytes, (joined, all_bytes)

    before = bench.costs()
    await bench.create(int(CREATES_S * RATE), at_once=10, pause_s=10 / RATE)
    await bench.settle(bench.created, members)
    _shares("500 creates/s", _since(before, bench.costs()))


def _since(before: list[tuple[int, float]], after: list[tuple[int, float]]) -> list[tuple[int, float]]:
    return [(b[0] - a[0], b[1] - a[1]) for a, b in zip(before, after, strict=True)]


def _shares(what: str, costs: list[tuple[int, float]]) -> None:
    _print(what, costs)
    total = sum(received for received, _ in costs)
    assert all(0.25 < received / total < 0.42 for received, _ in costs), (what, costs)


def _print(what: str, costs: list[tuple[int, float]]) -> None:
    cells = " | ".join(f"{received / 1e6:.2f} MB, {cpu_s:.2f} s" for received, cpu_s in costs)
    print(f"\n| {what} | {cells} |", end="")
