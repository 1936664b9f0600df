"""Lists that etcd cannot give at once, on a real etcd."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scheduler._pb.scheduler_storage.v1.storage_pb2 import JobRecord
from scheduler.etcd.client import Client
from scheduler.etcd.errors import EtcdUnavailable
from scheduler.store.errors import StoreUnavailable
from scheduler.store.jobs import JobStore
from scheduler.store.keys import Keys

pytestmark = pytest.mark.etcd
_KEYS = [f"app||ns||a||{number:02}" for number in range(100)]


@pytest.fixture
async def client(etcd) -> AsyncIterator[Client]:
    one = Client([etcd.endpoint], rng=random.Random(1))
    yield one
    await one.close()


@pytest.fixture
async def store(client: Client, tmp_path) -> AsyncIterator[JobStore]:
    """Of a hundred jobs in eight partitions, which take two transactions."""
    one = JobStore(etcd=client, keys=Keys(f"/{tmp_path.name}"), partition_count=8, rng=random.Random(1), max_txn_ops=4)
    running = asyncio.create_task(one.run())
    written = []
    for key in _KEYS:
        done = asyncio.get_running_loop().create_future()
        one.put(key, JobRecord(trigger=b"x"), overwrite=False, done=done.set_result)
        written.append(done)
    assert await asyncio.gather(*written) == [None] * 100
    yield one
    running.cancel()


async def _late(*_: object, timeout_s: float) -> Any:
    assert timeout_s <= 2
    raise EtcdUnavailable("deadline exceeded")


async def test_at_once(store: JobStore) -> None:
    assert [key for key, _ in await store.list("app||ns||", timeout_s=30)] == _KEYS


async def test_what_takes_too_long_at_once_is_read_in_pages(store: JobStore, client: Client, monkeypatch) -> None:
    monkeypatch.setattr(client, "txn", _late)
    before = client.requests["range", "ok"]
    assert [key for key, _ in await store.list("app||ns||", timeout_s=30)] == _KEYS
    assert client.requests["range", "ok"] - before >= 100 / 4


async def test_an_etcd_that_says_nothing_is_given_up_in_time(store: JobStore, client: Client, monkeypatch) -> None:
    asked = []

    async def silent(_request: object, *, timeout_s: float) -> Any:
        asked.append(timeout_s)
        raise EtcdUnavailable("deadline exceeded")

    monkeypatch.setattr(client, "txn", _late)
    monkeypatch.setattr(client, "range", silent)
    with pytest.raises(StoreUnavailable):
        await store.list("app||ns||", timeout_s=30)
    assert len(asked) == 1
    assert asked[0] + 2 <= 5
