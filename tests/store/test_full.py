"""A full etcd: new jobs are refused with a word of their own, and whoever frees space may."""

import asyncio
import random

import pytest

from scheduler._pb.scheduler_storage.v1.storage_pb2 import JobRecord
from scheduler.etcd.client import Client
from scheduler.store.errors import StoreFull
from scheduler.store.jobs import JobStore
from scheduler.store.keys import Keys
from tests.support.processes import EtcdServer

pytestmark = pytest.mark.etcd
QUOTA_BYTES = 4 << 20
RECORD_BYTES = 32_000


class Bench:
    """A store on an etcd with a small quota."""

    def __init__(self, client: Client) -> None:
        self.store = JobStore(etcd=client, keys=Keys(), partition_count=8, rng=random.Random(1))

    def put(self, name: str, *, overwrite: bool = False) -> "asyncio.Future[Exception | None]":
        done = asyncio.get_running_loop().create_future()
        record = JobRecord(trigger=b"x" * RECORD_BYTES)
        self.store.put(f"app||ns||app||{name}", record, overwrite=overwrite, done=done.set_result)
        return done

    def delete(self, name: str) -> "asyncio.Future[Exception | None]":
        done = asyncio.get_running_loop().create_future()
        self.store.delete(f"app||ns||app||{name}", done=done.set_result)
        return done


@pytest.mark.parametrize("together", [1, 20])
async def test_creates_stop_at_the_quota_and_deletes_go_on(tmp_path, together) -> None:
    server = EtcdServer(tmp_path, f"--quota-backend-bytes={QUOTA_BYTES}").start()
    client = Client([server.endpoint], rng=random.Random(1))
    bench = Bench(client)
    running = asyncio.create_task(bench.store.run())
    try:
        error: Exception | None = None
        count = 0
        while error is None:
            # etcd looks at its size ten times a second.
            assert count * RECORD_BYTES < 12 * QUOTA_BYTES, "etcd's quota does not see what we store"
            writes = [bench.put(f"job-{count + number}") for number in range(together)]
            count += together
            for write in writes:
                error = await write or error
        assert isinstance(error, StoreFull)
        # A delete that shares its transaction with a refused write is not refused with it.
        fates = [bench.put("job-0", overwrite=True), bench.delete("job-1"), bench.put("new"), bench.delete("job-2")]
        errors = [await fate for fate in fates]
        assert [type(one) for one in errors] == [StoreFull, type(None), StoreFull, type(None)]
    finally:
        running.cancel()
        await client.close()
        server.close()
