"""Lists that etcd cannot give at once and bulk deletes that would hold it up, on a real etcd."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from scheduler._pb.scheduler_storage.v1.storage_pb2 import JobRecord
from scheduler.etcd.api import Delete, DeleteResult
from scheduler.etcd.client import Client
from scheduler.etcd.errors import EtcdUnavailable
from scheduler.store import prefixes
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


@pytest.fixture
def deletions(client: Client, monkeypatch) -> list[int]:
    """How many jobs each transaction that deletes has taken away."""
    seen: list[int] = []
    txn = client.txn

    async def counted(compares: Any, success: Any, *, timeout_s: float) -> Any:
        result = await txn(compares, success, timeout_s=timeout_s)
        if any(isinstance(operation, Delete) for operation in success):
            seen.append(sum(answer.deleted for answer in result.responses if isinstance(answer, DeleteResult)))
        return result

    monkeypatch.setattr(client, "txn", counted)
    return seen


async def test_a_bulk_delete_of_few_is_one_transaction_for_those_partitions_that_fit(
    store: JobStore, deletions: list[int]
) -> None:
    assert await store.delete_prefix("app||ns||a||0", timeout_s=30) == 10
    assert len(deletions) == 2
    assert await store.delete_prefix("app||ns||a||0", timeout_s=30) == 0
    assert [key for key, _ in await store.list("app||ns||", timeout_s=30)] == _KEYS[10:]


@pytest.mark.parametrize("at_once", [1, 5, 20, 30])
async def test_a_bulk_delete_of_many_gives_others_their_turn(
    store: JobStore, deletions: list[int], monkeypatch, at_once: int
) -> None:
    monkeypatch.setattr(prefixes, "_DELETE_MAX", at_once)
    assert await store.delete_prefix("app||ns||a||", timeout_s=30) == 100
    assert sum(deletions) == 100
    assert max(deletions) <= at_once
    assert await store.list("app||ns||", timeout_s=30) == []
