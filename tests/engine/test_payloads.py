"""Payloads that rest in etcd until their jobs are due soon: loaded in time and to the byte, whatever becomes of the jobs meanwhile; on virtual time."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from scheduler._pb.dapr.proto.scheduler.v1 import scheduler_pb2 as pb
from scheduler.core.lifecycle import Job
from scheduler.etcd.errors import EtcdUnavailable
from scheduler.http2.server import Server
from scheduler.replica import Replica
from scheduler.store.partition import PartitionReader
from tests.perf.budget import Sidecar, World
from tests.support.client import job_metadata

_LARGE = bytes(range(256)) * 20  # above the default of --payload-in-memory-bytes
_DUE_S = 200


class Bench:
    """A replica, an app's sidecar, and what has come to it."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.sidecar = Sidecar(Server(methods=replica.methods()))
        self.sidecar.watch("shop")
        self.counted = replica.engine_statistics

    def call(self, method: str, message: Any) -> None:
        self.sidecar.send(self.sidecar.call(method, message))

    def schedule(self, name: str, data: bytes = _LARGE, **job: Any) -> None:
        request = pb.ScheduleJobRequest(
            name=name, job=pb.Job(**(job or {"due_time": f"{_DUE_S}s"})), overwrite=True, metadata=job_metadata("shop")
        )
        request.job.data.value = data
        self.call("ScheduleJob", request)

    def delete(self, name: str) -> None:
        self.call("DeleteJob", pb.DeleteJobRequest(name=name, metadata=job_metadata("shop")))

    def jobs(self) -> list[Job]:
        return [job for owned in self.replica.engine.partitions.values() for job in owned.jobs.values()]

    def received(self) -> list[tuple[str, bytes]]:
        """What has come since the last question; it is answered."""
        triggers = self.sidecar.received()
        self.sidecar.send(self.sidecar.answers([trigger.id for trigger in triggers]))
        return [(trigger.name, trigger.data.value) for trigger in triggers]

    def counts(self) -> tuple[int, int, int]:
        """Resting, loaded, awaited."""
        return self.replica.payloads.resting, self.counted.payload_loads, self.counted.payloads_awaited


def on_bench(story: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def work(_world: World, replica: Replica) -> None:
        bench = Bench(replica)
        await asyncio.sleep(1)
        await story(bench)
        # All that is known of any payload went with its job.
        for job in bench.jobs():
            bench.delete(job.key.decode().rpartition("||")[2])
        await asyncio.sleep(1)
        payloads = replica.payloads
        assert not (payloads.resting or payloads.resting_bytes or payloads._wanted or payloads._held or bench.jobs())

    World().run(work)


def test_a_large_payload_of_a_job_that_is_due_later_leaves_memory_and_comes_back_in_time() -> None:
    async def story(bench: Bench) -> None:
        bench.schedule("large")
        bench.schedule("small", b"s")
        bench.schedule("soon", due_time="20s")
        await asyncio.sleep(1)
        gc.collect()
        assert {job.key.decode().rpartition("||")[2]: job.trigger is None for job in bench.jobs()} == {
            "large": True, "small": False, "soon": False,
        }  # fmt: skip
        assert bench.counts() == (1, 0, 0) and bench.replica.payloads.resting_bytes > len(_LARGE)
        await asyncio.sleep(20)
        assert bench.received() == [("soon", _LARGE)]
        await asyncio.sleep(_DUE_S - 40)
        assert bench.counts() == (0, 1, 0) and bench.received() == []
        await asyncio.sleep(20)
        assert sorted(bench.received()) == [("large", _LARGE), ("small", b"s")]
        assert not any(bench.replica.delivery_statistics.late.values())

    on_bench(story)


def test_it_rests_again_between_occurrences_and_after_a_hand_over() -> None:
    async def story(bench: Bench) -> None:
        bench.schedule("large", schedule=f"@every {_DUE_S}s")
        await asyncio.sleep(2)
        for round_ in (1, 2):
            await asyncio.sleep(_DUE_S - 3)
            assert bench.received() == []
            await asyncio.sleep(2)
            assert bench.received() == [("large", _LARGE)]
            await asyncio.sleep(1)
            assert bench.counts() == (1, round_, 0)
        engine = bench.replica.engine
        epochs = {number: owned.epoch for number, owned in engine.partitions.items()}
        for number in epochs:
            await engine.release(number)
        assert bench.replica.payloads.resting == bench.replica.payloads.resting_bytes == 0
        for number, epoch in epochs.items():
            engine.acquire(number, epoch)
        await asyncio.sleep(1)
        assert bench.counts() == (1, 2, 0)

    on_bench(story)


def test_what_is_deleted_or_overwritten_meanwhile_is_not_fired() -> None:
    async def story(bench: Bench) -> None:
        for name in ("deleted", "overwritten"):
            bench.schedule(name)
        await asyncio.sleep(1)
        assert bench.replica.payloads.resting == 2
        bench.delete("deleted")
        bench.schedule("overwritten", _LARGE[::-1])
        await asyncio.sleep(1)
        assert bench.replica.payloads.resting == 1
        await asyncio.sleep(_DUE_S)
        assert bench.received() == [("overwritten", _LARGE[::-1])]
        assert bench.counts() == (0, 1, 0)

    on_bench(story)


@pytest.mark.parametrize("then", ["it answers", "deleted", "overwritten", "handed over"])
def test_a_job_whose_payload_etcd_does_not_give_is_held_until_it_does(monkeypatch, then: str) -> None:
    trigger = PartitionReader.trigger
    answers = False

    async def moody(self: PartitionReader, key: bytes, generation: int) -> bytes | None:
        if not answers:
            raise EtcdUnavailable("no answer")
        return await trigger(self, key, generation)

    monkeypatch.setattr(PartitionReader, "trigger", moody)

    async def story(bench: Bench) -> None:
        nonlocal answers
        bench.schedule("large")
        await asyncio.sleep(_DUE_S + 5)
        assert bench.received() == [] and bench.counts() == (1, 0, 1)
        assert bench.counted.payload_load_failures > 10
        assert bench.replica.engine.oldest_due_s() > 3
        assert bench.replica.engine.movable_s == 0
        if then == "deleted":
            bench.delete("large")
        elif then == "overwritten":
            bench.schedule("large", b"anew", due_time="1s")
        elif then == "handed over":
            (number,) = {job.partition.number for job in bench.jobs()}
            epoch = bench.replica.engine.partitions[number].epoch
            await bench.replica.engine.release(number)
            bench.replica.engine.acquire(number, epoch)
        await asyncio.sleep(1)
        answers = True
        await asyncio.sleep(5)
        came = {"deleted": [], "overwritten": [("large", b"anew")]}.get(then, [("large", _LARGE)])
        assert bench.received() == came
        await asyncio.sleep(1)
        assert bench.received() == [] and bench.jobs() == []

    on_bench(story)


def test_a_payload_that_comes_while_its_partition_is_suspended_waits_for_the_reading(monkeypatch) -> None:
    read, trigger = PartitionReader.read, PartitionReader.trigger

    async def refuse(*_: object) -> None:
        raise EtcdUnavailable("no answer")

    monkeypatch.setattr(PartitionReader, "trigger", refuse)

    async def story(bench: Bench) -> None:
        bench.schedule("large")
        await asyncio.sleep(_DUE_S + 5)
        (job,) = bench.jobs()
        monkeypatch.setattr(PartitionReader, "read", refuse)
        job.partition.unwatch()
        bench.replica.engine._watch_lost(job.partition, "test")
        await asyncio.sleep(3)
        assert job.partition.suspended and job.trigger is None
        monkeypatch.setattr(PartitionReader, "trigger", trigger)
        await asyncio.sleep(5)
        assert job.trigger is not None and bench.received() == []
        monkeypatch.setattr(PartitionReader, "read", read)
        await asyncio.sleep(2)
        assert bench.received() == [("large", _LARGE)]

    on_bench(story)


def test_a_trigger_is_read_of_the_generation_that_was_asked_for_and_no_other() -> None:
    async def story(bench: Bench) -> None:
        bench.schedule("large")
        await asyncio.sleep(1)
        (job,) = bench.jobs()
        reader = bench.replica.engine._reader
        found = await reader.trigger(job.key, job.generation)
        assert found is not None and _LARGE in found
        assert await reader.trigger(job.key, job.generation + 1) is None
        assert await reader.trigger(job.key + b"-", job.generation) is None

    on_bench(story)
