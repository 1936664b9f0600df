"""One replica's cluster room against the model of etcd under virtual time: what it does when etcd will not, or answers late."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from scheduler.cluster.cluster import Cluster
from scheduler.core.shares import Shares
from scheduler.etcd.api import Delete, Event, KeyValue
from scheduler.metrics import ClusterStatistics
from scheduler.store.keys import Keys
from tests.sim.loop import Machine, SimLoop
from tests.sim.model import Model
from tests.sim.replicas import Clock
from tests.sim.server import Client, Server

KEYS = Keys()


class Owner:
    """The engine's place."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.caught_up = asyncio.Event()
        self.caught_up.set()

    def acquire(self, partition: int, epoch: int) -> None:
        self.calls.append(("acquire", partition))

    async def release(self, partition: int) -> None:
        self.calls.append(("release", partition))

    def lose(self, partition: int) -> None:
        self.calls.append(("lose", partition))

    async def catch_up(self) -> None:
        self.calls.append(("catch up", len(self.calls)))
        await self.caught_up.wait()


class Gates:
    def apply_shares(self) -> None:
        pass

    def excess(self) -> dict[str, int]:
        return {}


class House:
    """One cluster member and its etcd."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.server = Server(loop, random.Random(1), Model())
        self.owner = Owner()
        self.client = Client(self.server, Machine(loop, "one"))
        self.cluster = self.member("one", self.client, self.owner)

    def member(self, name: str, client: Client, owner: Owner) -> Cluster:
        return Cluster(
            etcd=client,
            keys=KEYS,
            replica=name,
            address=name,
            version="1",
            partition_count=4,
            lease_ttl_s=5,
            clock=Clock(self.loop),
            rng=random.Random(name),
            owner=lambda: owner,
            shares=Shares(),
            gates=Gates,
            statistics=ClusterStatistics(),
        )

    def start(self) -> "asyncio.Task[None]":
        self.running = asyncio.ensure_future(self.cluster.run())
        return self.running

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        for _ in range(3_000):
            if condition():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(what)


def simulate(test: Callable[[House], Awaitable[None]]) -> None:
    loop = SimLoop(max_steps=200_000)
    try:
        loop.run_until_complete(test(House(loop)))
        assert not loop.errors
    finally:
        loop.finish()


@pytest.mark.parametrize("trouble", ["nospace", "away"])
def test_a_step_that_etcd_refuses_is_tried_again_and_ends_nothing(trouble: str) -> None:
    async def test(house: House) -> None:
        house.server.model.nospace = trouble == "nospace"
        house.client.link.cut_up = trouble == "away"
        running = house.start()
        await asyncio.sleep(3)
        house.server.model.nospace = False
        house.server.heal(house.client)
        await house.until(lambda: len(house.cluster.owned()) == 4, "all is owned")
        # A claim is refused while there is no space, then taken.
        house.server.model.nospace = True
        house.server.model.txn((), [_drop_claim(2)])
        await asyncio.sleep(2)
        assert not running.done()
        assert sorted(house.cluster.owned()) == [0, 1, 3]
        house.server.model.nospace = False
        await house.until(lambda: len(house.cluster.owned()) == 4, "all is owned again")

    simulate(test)


def test_a_replica_that_could_not_say_that_it_serves_says_so_later() -> None:
    async def test(house: House) -> None:
        house.start()
        await house.until(lambda: KEYS.member("one") in house.server.model.kvs, "registered")
        house.server.model.nospace = True
        await asyncio.sleep(3)
        house.server.model.nospace = False
        await house.until(lambda: len(house.cluster.owned()) == 4, "it serves")

    simulate(test)


def test_our_own_key_goes_with_the_lease_while_what_was_begun_under_it_still_ends() -> None:
    """There is nothing to keep alive then: a task begun in a group that ends would break the watch's connection."""

    async def reluctant() -> None:
        try:
            await asyncio.sleep(1_000)
        except asyncio.CancelledError:
            await asyncio.sleep(1)

    async def test(house: House) -> None:
        running = house.start()
        await house.until(lambda: len(house.cluster.owned()) == 4, "all is owned")
        assert house.cluster._tasks is not None
        house.cluster._tasks.create_task(reluctant())
        await asyncio.sleep(0.01)
        await house.cluster.drain(1)
        await running
        assert not house.cluster.owned()

    simulate(test)


def test_a_partition_is_not_taken_again_while_its_release_has_no_answer() -> None:
    async def test(house: House) -> None:
        house.start()
        await house.until(lambda: len(house.cluster.owned()) == 4, "all is owned")
        other = house.member("two", Client(house.server, Machine(house.loop, "two")), Owner())
        joined = asyncio.ensure_future(other.run())
        house.client.link.loss = 0.0
        await house.until(lambda: bool(house.cluster._moving), "a hand-over has begun")
        house.client.link.cut_down = True  # the claim goes, and the answer with it
        await asyncio.sleep(0.02)
        moved = set(house.cluster._moving)
        joined.cancel()
        for lease in [lease for lease in house.server.expires if lease != house.cluster.lease]:
            house.server.end_lease(lease, "revoked")
        house.client.link.cut_down = False
        house.server.heal(house.client)
        await house.until(lambda: len(house.cluster.owned()) == 4, "all is owned again")
        for partition in moved:
            calls = [call for call, number in house.owner.calls if number == partition]
            assert calls == ["acquire", "release", "acquire"], partition

    simulate(test)


def test_an_event_older_than_our_own_claim_takes_nothing_away() -> None:
    async def test(house: House) -> None:
        house.start()
        await house.until(lambda: len(house.cluster.owned()) == 4, "all is owned")
        house.cluster._changed(1, [_deletion(KEYS.claim(1), revision=1)])
        assert ("lose", 1) not in house.owner.calls

    simulate(test)


def test_trust_that_had_lapsed_comes_back_only_once_all_is_known_that_came_before() -> None:
    async def test(house: House) -> None:
        house.start()
        await house.until(lambda: len(house.cluster.owned()) == 4, "all is owned")
        tenure, owner = house.cluster.tenure, house.owner
        owner.caught_up.clear()
        house.client.link.cut_down = True  # keepalives reach etcd, and their answers do not come back
        await house.until(lambda: not tenure.may_act(house.loop.now), "trust lapses")
        await asyncio.sleep(4)
        assert ("lose", 0) not in owner.calls
        house.server.heal(house.client)
        await house.until(lambda: owner.calls[-1][0] == "catch up", "the lease is answered for again")
        await asyncio.sleep(3)
        assert not tenure.may_act(house.loop.now)
        owner.caught_up.set()
        await house.until(lambda: tenure.may_act(house.loop.now), "all is known")
        assert [call for call, _ in owner.calls].count("catch up") == 1

    simulate(test)


def test_a_second_lapse_is_caught_up_with_by_itself() -> None:
    async def test(house: House) -> None:
        house.start()
        await house.until(lambda: len(house.cluster.owned()) == 4, "all is owned")
        tenure, owner = house.cluster.tenure, house.owner
        owner.caught_up.clear()
        for _ in range(2):
            house.client.link.cut_down = True
            await house.until(lambda: house.loop.now > tenure.trusted_until_s, "trust lapses")
            house.server.heal(house.client)
            await house.until(lambda: house.loop.now < tenure.trusted_until_s, "the lease is answered for again")
        owner.caught_up.set()
        await house.until(lambda: tenure.may_act(house.loop.now), "all is known")
        assert [call for call, _ in owner.calls].count("catch up") == 2

    simulate(test)


def test_draining_gives_up_acting_before_the_lease() -> None:
    async def test(house: House) -> None:
        house.start()
        await house.until(lambda: len(house.cluster.owned()) == 4, "all is owned")
        trusted: list[bool] = []
        house.server.lease_ended = lambda *_: trusted.append(house.cluster.tenure.may_act(house.loop.now))
        house.server.model.nospace = True  # it cannot even say that it drains
        await house.cluster.drain(1.0)
        assert trusted[0] is False
        assert not house.server.model.leases

    simulate(test)


def test_a_member_that_is_set_aside_stays_so_through_a_lost_lease_until_it_is_let_back() -> None:
    async def test(house: House) -> None:
        running = house.start()
        await house.until(lambda: len(house.cluster.owned()) == 4, "all is owned")
        house.cluster.set_aside(aside=True)
        await house.until(lambda: not house.cluster.owned(), "all is handed over")
        assert [call for call, _ in house.owner.calls] == ["acquire"] * 4 + ["release"] * 4
        house.server.end_lease(house.cluster.lease, "revoked")
        await house.until(lambda: house.cluster.tenure.may_act(house.loop.now), "a new lease")
        await asyncio.sleep(5)
        assert house.cluster.state == "draining" and KEYS.member("one") in house.server.model.kvs
        assert not house.cluster.owned() and not running.done()
        house.cluster.set_aside(aside=False)
        await house.until(lambda: len(house.cluster.owned()) == 4, "it serves again")
        assert house.cluster.state == "serving"

    simulate(test)


def _drop_claim(partition: int):
    return Delete(KEYS.claim(partition))


def _deletion(key: bytes, *, revision: int):
    return Event(True, KeyValue(key, b"", 0, revision, 0, 0))
