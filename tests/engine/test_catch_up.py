"""After a lapse of trust: what was deleted meanwhile is known before anything is fired, on a real etcd."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from scheduler._pb.scheduler_storage.v1.storage_pb2 import JobRecord
from scheduler.engine import catch_up as module
from scheduler.engine.catch_up import catch_up
from scheduler.engine.partition import OwnedPartition, Phase
from scheduler.etcd.api import Delete, Event, Operation, Put
from scheduler.etcd.client import Client
from scheduler.store.jobs import JobStore
from scheduler.store.keys import Keys
from scheduler.store.partition import PartitionReader

pytestmark = pytest.mark.etcd
PARTITIONS = 150  # more than a transaction takes


class Bench:
    """Partitions that are fired, and what their watches have told."""

    def __init__(self, client: Client, root: str) -> None:
        self.client = client
        self.keys = Keys(root)
        self.reader = PartitionReader(etcd=client, keys=self.keys)
        self.owned = [OwnedPartition(number, epoch=1) for number in range(PARTITIONS)]
        self.told: list[tuple[int, Event]] = []
        self.silent: list[int] = []

    async def watch(self, *, deaf: int | None = None) -> None:
        revision = (await self.reader.read(0)).revision
        for owned in self.owned:
            owned.phase = Phase.FIRING
            if owned.number != deaf:
                self.reader.watch(owned.number, revision + 1, self._hears(owned), self.told.append)

    def _hears(self, owned: OwnedPartition):
        def hear(revision: int, events: list[Event]) -> None:
            self.told += [(owned.number, event) for event in events if len(event.kv.key) >= self.reader.key_start]
            owned.saw(revision)

        return hear

    def on_silent(self, owned: OwnedPartition) -> None:
        self.silent.append(owned.number)
        owned.saw(1 << 60)  # as one who reads it again


@pytest.fixture
async def bench(etcd, tmp_path) -> AsyncIterator[Bench]:
    client = Client([etcd.endpoint], rng=random.Random(1))
    yield Bench(client, f"/{tmp_path.name}")
    await client.close()


async def test_everything_that_came_before_is_told_by_the_time_it_returns(bench) -> None:
    await bench.watch()
    for count in range(1, 11):
        writes: list[Operation] = [Put(bench.keys.job(number, f"app||ns||a||{count}"), b"x") for number in (3, 140)]
        await bench.client.txn((), writes)
        await bench.client.txn((), [Delete(bench.keys.job(3, f"app||ns||a||{count}"))])
        await catch_up(bench.owned, bench.reader, bench.on_silent)
        assert [number for number, _ in bench.told].count(3) == 2 * count
        assert [number for number, _ in bench.told].count(140) == count
    assert not bench.silent


async def test_a_watch_that_stays_silent_is_told_of_and_the_others_are_not(bench, monkeypatch) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.5)
    await bench.watch(deaf=7)
    await catch_up(bench.owned, bench.reader, bench.on_silent)
    assert bench.silent == [7]


async def test_one_that_is_given_up_meanwhile_is_not_waited_for(bench) -> None:
    await bench.watch(deaf=7)
    waiting = asyncio.create_task(catch_up(bench.owned, bench.reader, bench.on_silent))
    await asyncio.sleep(0.1)
    bench.owned[7].phase = Phase.ENDED
    bench.owned[7].look_again()
    await waiting
    assert not bench.silent


async def test_marks_are_no_jobs(bench) -> None:
    store = JobStore(etcd=bench.client, keys=bench.keys, partition_count=PARTITIONS, rng=random.Random(1))
    running = asyncio.create_task(store.run())
    await bench.reader.mark(range(PARTITIONS))
    done = asyncio.get_running_loop().create_future()
    store.put("app||ns||a||b", JobRecord(trigger=b"x"), overwrite=False, done=done.set_result)
    assert await done is None
    assert await store.namespaces(timeout_s=30) == {"ns"}
    assert len(await store.list("app||ns||", timeout_s=30)) == 1
    pages = [kv async for page in (await bench.reader.read(5)).jobs() for kv in page]
    assert all(kv.key.startswith(bench.keys.partition_jobs(5)) for kv in pages)
    running.cancel()
