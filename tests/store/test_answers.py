"""Every call is answered in time, whatever becomes of those before it (promise G11): under virtual time, with the model of etcd."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from scheduler._pb.scheduler_storage.v1.storage_pb2 import JobRecord
from scheduler.store.errors import StoreError, StoreFull, StoreUnavailable
from scheduler.store.jobs import ANSWER_MAX_S, JobStore
from scheduler.store.keys import Keys
from tests.sim.loop import Machine, SimLoop
from tests.sim.model import Model
from tests.sim.server import Client, Server

# Latencies come on top.
SLACK_S = 0.05


class Bench:
    """A store, its etcd, and how long each call took."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.server = Server(loop, random.Random(1), Model())
        self.client = Client(self.server, Machine(loop, "one"))
        self.store = JobStore(etcd=self.client, keys=Keys(), partition_count=4, rng=random.Random(1))
        self.answers: dict[str, tuple[float, StoreError | None]] = {}
        self.calls = 0

    def put(self, name: str) -> None:
        begun_s, self.calls = self.loop.now, self.calls + 1

        def done(error: StoreError | None) -> None:
            assert name not in self.answers
            self.answers[name] = (self.loop.now - begun_s, error)

        self.store.put(f"app||ns||a||{name}", JobRecord(trigger=name.encode()), overwrite=True, done=done)

    def slowest_s(self) -> float:
        assert len(self.answers) == self.calls, "a call has no answer"
        return max(took_s for took_s, _ in self.answers.values())


def simulate(test: Callable[[Bench], Awaitable[None]]) -> None:
    async def run() -> None:
        bench = Bench(loop)
        running = asyncio.ensure_future(bench.store.run())
        await test(bench)
        running.cancel()

    loop = SimLoop(max_steps=200_000)
    try:
        loop.run_until_complete(run())
        assert not loop.errors
    finally:
        loop.finish()


async def calls_for(bench: Bench, seconds: float, every_s: float) -> None:
    for number in range(int(seconds / every_s)):
        bench.put(f"job-{number}")
        await asyncio.sleep(every_s)


@pytest.mark.parametrize("trouble", ["no answer", "nothing arrives", "answers of writes are lost"])
def test_calls_behind_a_group_without_answer_are_answered_within_the_promise(trouble: str) -> None:
    async def test(bench: Bench) -> None:
        link = bench.client.link
        link.cut_down, link.cut_up = trouble == "no answer", trouble == "nothing arrives"
        if trouble == "answers of writes are lost":
            bench.server.losing = {"job put": 1.0}
        await calls_for(bench, 20, 0.3)
        await asyncio.sleep(ANSWER_MAX_S + SLACK_S)
        assert bench.slowest_s() <= ANSWER_MAX_S + SLACK_S
        failed = [error for _, error in bench.answers.values() if error is not None]
        # What etcd has carried out is read back.
        assert bool(failed) == (trouble != "answers of writes are lost")
        assert all(isinstance(error, StoreUnavailable) for error in failed)
        bench.server.losing = {}
        bench.server.heal(bench.client)
        bench.put("afterwards")
        await asyncio.sleep(1)
        assert bench.answers["afterwards"][1] is None

    simulate(test)


def test_what_waited_too_long_was_not_sent_and_what_was_sent_may_be_there() -> None:
    async def test(bench: Bench) -> None:
        bench.client.link.cut_down = True
        bench.put("sent")
        await asyncio.sleep(0.01)
        bench.put("queued behind it")
        await asyncio.sleep(ANSWER_MAX_S)
        bench.server.heal(bench.client)
        await asyncio.sleep(5)
        assert all(isinstance(error, StoreUnavailable) for _, error in bench.answers.values())
        stored = [key for key in bench.server.model.kvs if b"/jobs/" in key]
        assert len(stored) == 1 and stored[0].endswith(b"||sent")

    simulate(test)


def test_what_is_refused_for_space_does_not_wait_for_the_deletes_beside_it() -> None:
    async def test(bench: Bench) -> None:
        bench.server.model.nospace = True
        bench.server.losing = {"job delete": 1.0}
        bench.put("refused")
        bench.store.delete("app||ns||a||other", done=lambda _error: None)
        await asyncio.sleep(1)
        took_s, error = bench.answers["refused"]
        assert isinstance(error, StoreFull) and took_s < SLACK_S

    simulate(test)


def test_a_short_stall_of_etcd_fails_nobody() -> None:
    async def test(bench: Bench) -> None:
        bench.server.stall()
        bench.loop.later(3.0, lambda: bench.server.resume(elected=False))
        await calls_for(bench, 4, 0.2)
        await asyncio.sleep(1)
        assert bench.slowest_s() <= 3.2
        assert not [error for _, error in bench.answers.values() if error is not None]

    simulate(test)
