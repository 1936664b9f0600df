"""A partition that takes long to read: what was deleted meanwhile is not fired, what was created is (promise G8), on virtual time."""

import asyncio
from collections.abc import AsyncIterator

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.etcd.api import KeyValue
from scheduler.http2.server import Server
from scheduler.replica import Replica
from scheduler.store.partition import PartitionSnapshot
from tests.perf.budget import Sidecar, World
from tests.support.client import job_metadata

_READ_S = 20


def test_a_job_that_was_deleted_while_its_partition_was_read_is_not_fired(monkeypatch) -> None:
    pages = PartitionSnapshot.jobs

    async def slowly(self: PartitionSnapshot) -> AsyncIterator[list[KeyValue]]:
        async for page in pages(self):
            yield page
        await asyncio.sleep(_READ_S)

    async def work(_world: World, replica: Replica) -> None:
        sidecar = Sidecar(Server(methods=replica.methods()))
        sidecar.watch("shop")

        def schedule(name: str, due: str) -> None:
            request = pb.ScheduleJobRequest(
                name=name, job=pb.Job(due_time=due), overwrite=True, metadata=job_metadata(app_id="shop")
            )
            sidecar.send(sidecar.call("ScheduleJob", request))

        for name in ("deleted", "kept"):
            schedule(name, "10s")
        await asyncio.sleep(1)
        # The partitions of these jobs alone, so that all are read at once.
        epochs = {number: owned.epoch for number, owned in replica.engine.partitions.items() if owned.jobs}
        for number in epochs:
            await replica.engine.release(number)
        monkeypatch.setattr(PartitionSnapshot, "jobs", slowly)
        for number, epoch in epochs.items():
            replica.engine.acquire(number, epoch)
        await asyncio.sleep(5)
        sidecar.send(
            sidecar.call("DeleteJob", pb.DeleteJobRequest(name="deleted", metadata=job_metadata(app_id="shop")))
        )
        schedule("kept", "25s")  # overwritten: fired once, at its new time
        await asyncio.sleep(_READ_S - 4)
        assert replica.engine.hub.sent == 0
        await asyncio.sleep(15)
        ids = sidecar.triggers()
        assert len(ids) == 1
        sidecar.send(sidecar.answers(ids))
        await asyncio.sleep(5)
        assert not any(owned.jobs for owned in replica.engine.partitions.values())

    World().run(work)
