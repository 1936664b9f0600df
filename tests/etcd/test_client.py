"""The etcd client against a real etcd: paging, unknown writes, leases, and watches that survive what etcd goes through."""

import asyncio
import os
import random
import signal
from collections.abc import Callable

import grpc
import pytest

from scheduler.etcd import watch
from scheduler.etcd.api import Compare, CompareTarget, Event, Outcome, Put, Range, RangeResult, Txn
from scheduler.etcd.client import Client
from scheduler.etcd.errors import EtcdCompacted, EtcdError, EtcdRequestError, EtcdUnavailable


@pytest.fixture
async def client(etcd):
    one = Client([etcd.endpoint], rng=random.Random(1))
    yield one
    await one.close()


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_pages_are_of_one_revision(client) -> None:
    for start in range(0, 250, 50):
        await client.txn((), [Put(f"p/{number:03d}".encode(), b"old") for number in range(start, start + 50)])
    seen = []
    async for page in client.pages(b"p/", b"p0", page_size=100):
        seen += [(kv.key, kv.value) for kv in page.kvs]
        await client.txn((), (Put(b"p/249", b"new"), Put(b"p/999", b"later")))
    assert [key for key, _ in seen] == [f"p/{number:03d}".encode() for number in range(250)]
    assert all(value == b"old" for _, value in seen)


async def test_nested_transactions_answer_each_for_itself(client) -> None:
    result = await client.txn((), (Txn((), (Put(b"n", b"1"),), ()), Txn((), (Range(b"n"),), ())))
    assert result.outcome is Outcome.COMMITTED
    inner = result.responses[1]
    assert isinstance(inner.responses[0], RangeResult) and inner.responses[0].kvs[0].value == b"1"


async def test_what_etcd_refuses_is_an_error_and_not_unknown(client) -> None:
    with pytest.raises(EtcdRequestError):
        await client.txn((), (Put(b"d", b"1"), Put(b"d", b"2")))
    with pytest.raises(EtcdRequestError):
        await client.txn((), [Put(str(number).encode(), b"") for number in range(200)])


async def test_a_write_to_a_paused_etcd_is_unknown_and_a_read_unavailable(client, etcd) -> None:
    await client.txn((), (Put(b"a", b"1"),))
    os.kill(etcd.pid, signal.SIGSTOP)
    try:
        assert (await client.txn((), (Put(b"a", b"2"),), timeout_s=0.5)).outcome is Outcome.UNKNOWN
        with pytest.raises(EtcdUnavailable):
            await client.range(Range(b"a"), timeout_s=0.5)
    finally:
        os.kill(etcd.pid, signal.SIGCONT)
    assert (await client.range(Range(b"a"), timeout_s=10)).kvs[0].value in {b"1", b"2"}


async def test_a_write_to_no_etcd_surely_did_nothing(etcd) -> None:
    etcd.kill()
    client = Client([etcd.endpoint, "127.0.0.1:1"], rng=random.Random(1))
    with pytest.raises(EtcdUnavailable):
        await client.txn((), (Put(b"a", b"1"),), timeout_s=2)
    await client.close()


async def test_a_second_endpoint_takes_over(etcd) -> None:
    client = Client(["127.0.0.1:1", etcd.endpoint], rng=random.Random(3))
    for number in range(5):
        assert (await client.txn((), (Put(b"a", str(number).encode()),))).outcome is Outcome.COMMITTED
    await client.close()


async def test_leases(client) -> None:
    lease = await client.lease_grant(5)
    await client.txn((), (Put(b"leased", b"", lease),))
    assert await client.lease_keep_alive(lease, timeout_s=10) == 5
    assert (await client.lease_keys(lease))[1] == [b"leased"]
    await client.lease_revoke(lease)
    await client.lease_revoke(lease)
    assert await client.lease_keep_alive(lease, timeout_s=10) == 0
    assert not (await client.range(Range(b"leased"))).kvs


async def test_a_watch_tells_everything_once_and_in_order_across_a_restart(client, etcd) -> None:
    start = (await client.range(Range(b"w"))).revision + 1
    events: list[Event] = []
    lost: list[str] = []
    watch = client.watch(
        b"w/", b"w0", start_revision=start, on_events=lambda _revision, new: events.extend(new), on_lost=lost.append
    )
    other: list[Event] = []
    client.watch(
        b"x/", b"x0", start_revision=start, on_events=lambda _revision, new: other.extend(new), on_lost=lost.append
    )
    for number in range(20):
        await client.txn((), (Put(f"w/{number}".encode(), b""),))
    etcd.kill()
    etcd.start()
    for number in range(20, 40):
        outcome = Outcome.UNKNOWN
        while outcome is not Outcome.COMMITTED:
            try:
                outcome = (await client.txn((), (Put(f"w/{number}".encode(), b""),))).outcome
            except EtcdError:
                await asyncio.sleep(0.05)
    await until(lambda: bool(events) and events[-1].kv.key == b"w/39")
    assert [event.kv.key for event in events if event.is_create] == [f"w/{number}".encode() for number in range(40)]
    assert not lost and not other
    watch.cancel()
    await client.txn((), (Put(b"w/after", b""), Put(b"x/1", b"")))
    await until(lambda: bool(other))
    assert events[-1].kv.key == b"w/39"


async def test_a_compacted_watch_says_so_and_a_compacted_read_too(client, etcd) -> None:
    for number in range(10):
        revision = (await client.txn((), (Put(b"c", str(number).encode()),))).revision
    with grpc.insecure_channel(f"127.0.0.1:{etcd.port}") as channel:
        compact = channel.unary_unary("/etcdserverpb.KV/Compact")
        await asyncio.to_thread(compact, b"\x08" + bytes([revision]), timeout=30)
    lost: list[str] = []
    client.watch(b"c", b"", start_revision=2, on_events=lambda _revision, _new: None, on_lost=lost.append)
    await until(lambda: bool(lost))
    assert "compacted" in lost[0]
    with pytest.raises(EtcdCompacted):
        await client.range(Range(b"c", revision=2))


async def test_how_far_the_watches_are_is_asked_and_an_etcd_that_does_not_say_is_seen(
    client, etcd, monkeypatch
) -> None:
    monkeypatch.setattr(watch, "_ASK_S", 0.1)
    assert client.watch_lag_s == 0, "nothing is watched"
    one = client.watch(
        b"q", b"", start_revision=1, on_events=lambda _revision, _new: None, on_lost=lambda _reason: None
    )
    fallen, before_s = 0, 0.0

    def has_fallen(times: int) -> bool:
        nonlocal fallen, before_s
        fallen, before_s = fallen + (client.watch_lag_s < before_s), client.watch_lag_s
        return fallen >= times

    # Nothing changes, and still the lag falls again and again: etcd answers what it is asked.
    await until(lambda: has_fallen(5))
    os.kill(etcd.pid, signal.SIGSTOP)
    try:
        await until(lambda: client.watch_lag_s > 1)
    finally:
        os.kill(etcd.pid, signal.SIGCONT)
    fallen = 0
    await until(lambda: has_fallen(5))
    one.cancel()
    assert client.watch_lag_s == 0


async def test_a_condition_that_does_not_hold_is_counted(client) -> None:
    absent = (Compare(b"conflict", CompareTarget.CREATE_REVISION, 0),)
    for expected in (0, 1):
        await client.txn(absent, (Put(b"conflict", b""),))
        assert client.conflicts == expected
