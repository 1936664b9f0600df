"""The model agrees with a real etcd: the same random operations give the same answers, events and errors."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.etcd.api import Compare, CompareTarget, Delete, Event, Operation, Put, Range, RangeResult, Txn, TxnResult
from scheduler.etcd.client import Client
from scheduler.etcd.errors import EtcdError
from scheduler.protobuf import varint
from tests.sim.model import Model
from tests.support.processes import EtcdServer

SEQUENCES = 300
OPERATIONS = 8

pytestmark = pytest.mark.etcd


class Sequence:
    """One random sequence under a root of its own. Revisions are compared as distances, since all sequences share one etcd."""

    def __init__(self, rng: random.Random, root: bytes, client: Client, model: Model) -> None:
        self.rng = rng
        self.root = root
        self.client = client
        self.model = model
        self.leases: list[int] = []

    def key(self) -> bytes:
        return self.root + b"k%d" % self.rng.randrange(6)

    def operation(self, depth: int) -> Operation:
        rng = self.rng
        kind = rng.random()
        if kind < 0.4:
            lease = rng.choice([*self.leases, 0, 0, 0, 999_999]) if rng.random() < 0.3 else 0
            return Put(self.key(), b"v%d" % rng.randrange(4), lease)
        if kind < 0.55:
            return (
                Delete(self.key())
                if rng.random() < 0.7
                else Delete(self.root + b"k0", self.root + b"k%d" % rng.randrange(1, 7))
            )
        if kind < 0.8 or depth > 1:
            revision = max(0, self.model.revision - rng.randrange(12)) if rng.random() < 0.4 else 0
            end = b"" if rng.random() < 0.4 else self.root + b"k9"
            mode = rng.randrange(4)
            key = self.key() if not end else self.root + b"k%d" % rng.randrange(3)
            return Range(
                key, end, limit=rng.choice([0, 0, 1, 2]), revision=revision, keys_only=mode == 1, count_only=mode == 2
            )
        return self.txn(depth + 1)

    def txn(self, depth: int = 0) -> Txn:
        rng = self.rng
        compares = []
        for _ in range(rng.choice([0, 1, 1, 2])):
            key = self.key()
            kv = self.model.kvs.get(key)
            target = rng.choice(list(CompareTarget))
            if target is CompareTarget.VALUE:
                compares.append(Compare(key, target, kv.value if kv and rng.random() < 0.6 else b"v1"))
            else:
                right = 0 if kv is None else (kv.version, kv.create_revision, kv.mod_revision)[target.value]
                compares.append(Compare(key, target, right if rng.random() < 0.7 else max(0, right - 1)))
        branches = [tuple(self.operation(depth) for _ in range(rng.randrange(4))) for _ in range(2)]
        return Txn(tuple(compares), *branches)


def plain(result: object) -> object:
    """An answer without the revisions of nested answers, which etcd leaves out."""
    if isinstance(result, TxnResult):
        return (result.outcome, [plain(one) for one in result.responses])
    if isinstance(result, RangeResult):
        return (result.kvs, result.more, result.total)
    return result


async def outcome(awaitable) -> object:
    try:
        return plain(await awaitable)
    except EtcdError as error:
        return type(error)


async def immediately(call, *arguments):
    return call(*arguments)


async def run_sequence(seed: int, client: Client, model: Model, compact) -> None:
    rng = random.Random(seed)
    one = Sequence(rng, b"/%d/" % seed, client, model)
    heard: list[Event] = []
    watch = client.watch(
        one.root, one.root + b"~", start_revision=model.revision + 1, on_events=lambda _, events: heard.extend(events),
        on_lost=heard.append,
    )  # fmt: skip
    began = model.revision
    lost: list[str] = []

    async def all_heard() -> list[Event]:
        """What the watch was told, once that is all; etcd may be slower than the model."""
        events = [
            event for _revision, events in model.events_from(0) for event in events if event.kv.key.startswith(one.root)
        ]
        last = events[-1].kv.mod_revision if events else 0
        await until(lambda: not last or (heard and heard[-1].kv.mod_revision == last), f"{seed}: all events are heard")
        return events

    for _ in range(OPERATIONS):
        kind = rng.random()
        if kind < 0.78:
            whole = one.txn()
            real = await outcome(client.txn(whole.compares, whole.success, whole.failure))
            modelled = await outcome(immediately(model.txn, *whole))
            assert real == modelled, (seed, whole)
        elif kind < 0.86:
            lease_id = seed * 100 + len(one.leases) + 1
            real = await outcome(client.lease_grant(60, lease_id=lease_id))
            assert real == await outcome(immediately(model.lease_grant, 60, lease_id)), seed
            one.leases.append(lease_id)
        elif kind < 0.92 and one.leases:
            lease_id = rng.choice(one.leases)
            left, keys = await client.lease_keys(lease_id)
            known = model.leases.get(lease_id)
            assert (left > 0) == (known is not None), seed
            assert sorted(keys) == sorted(known.keys if known else ()), seed
            assert await client.lease_keep_alive(lease_id, timeout_s=5) == (known.ttl_s if known else 0), seed
            await client.lease_revoke(lease_id)
            if known is not None:
                model.lease_revoke(lease_id)
        elif kind < 0.96 and model.revision > model.compacted + 1:
            at = rng.randrange(model.compacted + 1, model.revision + 1)
            await all_heard()  # or etcd ends a watch that it has not begun yet
            await compact(at)
            model.compact(at)
            behind = client.watch(
                one.root, one.root + b"~", start_revision=max(1, at - 1), on_events=lambda *_: None, on_lost=lost.append
            )
            if at > 2:
                await until(lambda: lost, f"{seed}: the watch is told of the compaction")
                assert "compacted" in lost.pop(), seed
            behind.cancel()
        real = await client.range(Range(one.root, one.root + b"~"))
        modelled = model.range(Range(one.root, one.root + b"~"))
        assert real == modelled, seed
    expected = await all_heard()
    # What was compacted meanwhile is in the watcher's ears only.
    assert heard[len(heard) - len(expected) :] == expected, seed
    assert began <= model.revision
    watch.cancel()


async def until(condition, what: str) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)
    assert condition(), what


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    one = EtcdServer(tmp_path / "etcd", "--unsafe-no-fsync").start()
    yield one
    one.close()


async def test_random_operations_have_the_same_results_on_the_model_and_on_etcd(server) -> None:
    client = Client([server.endpoint], rng=random.Random(1))
    model = Model()

    async def compact(revision: int) -> None:
        request = b"\x08" + varint(revision)  # CompactionRequest.revision
        await client._channels[0].unary("/etcdserverpb.KV/Compact", request, timeout_s=5)

    try:
        for seed in range(1, SEQUENCES + 1):
            await run_sequence(seed, client, model, compact)
    finally:
        await client.close()


async def test_the_limits_are_the_same(server) -> None:
    client = Client([server.endpoint], rng=random.Random(1))
    model = Model()
    for count in (127, 128, 129):
        flat = tuple(Put(b"k%d" % number, b"") for number in range(count))
        nested = tuple(Txn((), (put,)) for put in flat)
        split = (*nested[:64], *flat[64:])
        for operations in (flat, nested, split):
            real = await outcome(client.txn((), operations))
            assert real == await outcome(immediately(model.txn, (), operations)), count
    for size in (1_500_000, 1_600_000):
        put = (Put(b"large", bytes(size)),)
        assert await outcome(client.txn((), put)) == await outcome(immediately(model.txn, (), put))
    await client.close()
