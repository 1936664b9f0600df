"""A partition whose watch is lost and that cannot be read: what it may still fire, and what it does not (promise G8), on virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.engine.partition import OwnedPartition, Phase
from scheduler.etcd.errors import EtcdUnavailable
from scheduler.http2.server import Server
from scheduler.replica import Replica
from scheduler.store.partition import PartitionReader
from tests.perf.budget import Sidecar, World
from tests.support.client import job_metadata


class Bench:
    """A replica with one job of the app "shop", whose partition can be made blind."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.sidecar = Sidecar(Server(methods=replica.methods()))

    def schedule(self, **job: str) -> None:
        request = pb.ScheduleJobRequest(
            name="job", job=pb.Job(**job), overwrite=True, metadata=job_metadata(app_id="shop")
        )
        self.sidecar.send(self.sidecar.call("ScheduleJob", request))

    def delete(self) -> None:
        self.sidecar.send(
            self.sidecar.call("DeleteJob", pb.DeleteJobRequest(name="job", metadata=job_metadata(app_id="shop")))
        )

    @property
    def owned(self) -> OwnedPartition:
        return next(owned for owned in self.replica.engine.partitions.values() if owned.jobs)

    def lose_watch(self) -> None:
        owned = self.owned
        owned.unwatch()
        self.replica.engine._watch_lost(owned, "test")

    async def answer(self, seconds: float) -> int:
        """Take and answer triggers for so long; how many there were."""
        count = 0
        for _ in range(round(seconds * 10)):
            await asyncio.sleep(0.1)
            if ids := self.sidecar.triggers():
                self.sidecar.send(self.sidecar.answers(ids))
                count += len(ids)
        return count


def run(work: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def with_bench(_world: World, replica: Replica) -> None:
        await work(Bench(replica))

    World().run(with_bench)


class Unreadable:
    """Reads of partitions fail until they are `mended`."""

    def __init__(self, monkeypatch) -> None:
        self.read = PartitionReader.read
        self.monkeypatch = monkeypatch

        async def refuse(*_: object) -> None:
            raise EtcdUnavailable("test")

        monkeypatch.setattr(PartitionReader, "read", refuse)

    def mend(self) -> None:
        self.monkeypatch.setattr(PartitionReader, "read", self.read)


def test_it_is_fired_for_two_seconds_and_goes_on_where_it_was_once_it_is_read(monkeypatch) -> None:
    async def work(bench: Bench) -> None:
        bench.sidecar.watch("shop")
        bench.schedule(schedule="@every 1s")
        assert await bench.answer(5.5) == 5
        etcd = Unreadable(monkeypatch)
        bench.lose_watch()
        assert await bench.answer(10) == 2
        assert bench.owned.phase is Phase.LOADING
        etcd.mend()
        assert await bench.answer(4) == 8 + 4  # what it has missed, and what comes
        assert bench.owned.phase is Phase.FIRING
        assert not bench.owned.suspended
        assert bench.replica.engine_statistics.resyncs == 1

    run(work)


def test_what_was_deleted_meanwhile_is_not_fired(monkeypatch) -> None:
    async def work(bench: Bench) -> None:
        bench.schedule(due_time="4s")
        await asyncio.sleep(1)
        Unreadable(monkeypatch)
        bench.lose_watch()
        bench.delete()
        bench.sidecar.watch("shop")
        assert await bench.answer(10) == 0

    run(work)


def test_what_waits_for_a_stream_waits_for_the_reading_first(monkeypatch) -> None:
    async def work(bench: Bench) -> None:
        bench.schedule(due_time="1s")
        await asyncio.sleep(2)
        etcd = Unreadable(monkeypatch)
        bench.lose_watch()
        await asyncio.sleep(3)
        bench.sidecar.watch("shop")
        assert await bench.answer(3) == 0
        etcd.mend()
        assert await bench.answer(3) == 1
        assert bench.replica.engine.job_count() == 0

    run(work)


def test_what_is_in_flight_is_answered_and_committed_and_goes_on_after_the_reading(monkeypatch) -> None:
    async def work(bench: Bench) -> None:
        bench.sidecar.watch("shop")
        bench.schedule(schedule="@every 1s")
        await asyncio.sleep(1.5)
        (first,) = bench.sidecar.triggers()
        etcd = Unreadable(monkeypatch)
        bench.lose_watch()
        await asyncio.sleep(3)
        owned = bench.owned
        assert (owned.suspended, owned.in_flight) == (True, 1)
        bench.sidecar.send(bench.sidecar.answers([first]))
        await asyncio.sleep(1)
        assert not bench.sidecar.triggers()
        assert (owned.in_flight, owned.settled, owned.sequence > 0) == (0, [], True)
        etcd.mend()
        assert await bench.answer(1) == 5  # the second to the sixth

    run(work)


def test_a_hand_over_waits_for_what_is_in_flight(monkeypatch) -> None:
    async def work(bench: Bench) -> None:
        bench.sidecar.watch("shop")
        bench.schedule(schedule="@every 10s")
        await asyncio.sleep(10.5)
        ids = bench.sidecar.triggers()
        etcd = Unreadable(monkeypatch)
        bench.lose_watch()
        await asyncio.sleep(3)
        owned = bench.owned
        releasing = asyncio.create_task(bench.replica.engine.release(owned.number))
        await asyncio.sleep(0.1)
        assert owned.phase is Phase.RELEASING
        bench.sidecar.send(bench.sidecar.answers(ids))
        await releasing
        etcd.mend()
        bench.replica.engine.acquire(owned.number, owned.epoch)
        assert await bench.answer(5) == 0  # the first is known to be answered

    run(work)


def test_it_is_never_read_twice_at_once(monkeypatch) -> None:
    async def work(bench: Bench) -> None:
        bench.schedule(due_time="1h")
        await asyncio.sleep(1)
        read, reads, most = PartitionReader.read, [0], 0

        async def slowly(self: PartitionReader, partition: int) -> Any:
            nonlocal most
            reads[0] += 1
            most = max(most, reads[0])
            try:
                await asyncio.sleep(1)
                return await read(self, partition)
            finally:
                reads[0] -= 1

        monkeypatch.setattr(PartitionReader, "read", slowly)
        for _ in range(3):
            bench.lose_watch()
            await asyncio.sleep(0.1)
        await asyncio.sleep(3)
        assert most == 1
        assert bench.owned.watch is not None
        assert not bench.owned.reading

    run(work)
