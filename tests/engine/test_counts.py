"""What the engine counts while partitions come and go, on virtual time."""

import asyncio

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.http2.server import Server
from scheduler.replica import Replica
from tests.perf.budget import Sidecar, World
from tests.support.client import job_metadata


def test_what_is_due_at_a_take_over_and_how_long_a_release_takes() -> None:
    async def work(_world: World, replica: Replica) -> None:
        sidecar, counted = Sidecar(Server(methods=replica.methods())), replica.engine_statistics
        for name, due in (("due", "1s"), ("later", "1h")):
            job = pb.Job(due_time=due)
            request = pb.ScheduleJobRequest(name=name, job=job, metadata=job_metadata("app", "shop"))
            sidecar.send(sidecar.call("ScheduleJob", request))
        await asyncio.sleep(5)
        shop = replica.delivery_statistics.namespaces["shop"]
        assert (shop.jobs, counted.taken_over_due, sum(counted.release_seconds.counts)) == (2, 0, 0)
        epochs = {number: owned.epoch for number, owned in replica.engine.partitions.items()}
        for number in epochs:
            await replica.engine.release(number)
        assert (shop.jobs, sum(counted.release_seconds.counts)) == (0, len(epochs))
        for number, epoch in epochs.items():
            replica.engine.acquire(number, epoch)
        await asyncio.sleep(5)
        assert (shop.jobs, counted.taken_over_due) == (2, 1)
        sidecar.send(sidecar.call("DeleteJob", pb.DeleteJobRequest(name="later", metadata=job_metadata("app", "shop"))))
        await asyncio.sleep(1)
        assert shop.jobs == 1

    World().run(work)
