"""The ledger: entries that merge in any order, and fenced writes on a real etcd."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.lifecycle import Progress
from scheduler.etcd.api import Compare, CompareTarget, Outcome, Put, Range
from scheduler.etcd.client import Client
from scheduler.store.codec import CorruptRecord
from scheduler.store.keys import Keys
from scheduler.store.ledger import encode_batch, merge_batch, pack
from scheduler.store.partition import PartitionReader
from scheduler.store.progress import Append, Finished, Fold, ProgressLog

PROGRESS = st.builds(
    Progress,
    st.integers(0, 3),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(-(1 << 62), 1 << 62),
    st.integers(0, 1 << 62),
    st.booleans(),
)


@given(st.lists(PROGRESS, max_size=12), st.randoms())
def test_merging_does_not_depend_on_order_or_repetition(entries: list[Progress], shuffle: random.Random) -> None:
    def merged(batches: list[Progress]) -> dict:
        into: dict[int, Progress] = {}
        for entry in batches:
            assert merge_batch(encode_batch([pack(entry)]), into) == 1
        return {key: (one.done, one.finished, one.attempts) for key, one in into.items()}

    again = entries * 2
    shuffle.shuffle(again)
    assert merged(entries) == merged(again)


@given(st.binary(min_size=1, max_size=80))
def test_garbage_is_refused_and_merges_nothing(data: bytes) -> None:
    into: dict[int, Progress] = {}
    try:
        merge_batch(data, into)
    except CorruptRecord:
        assert not into


def test_times_beyond_the_format_are_clamped_not_refused() -> None:
    into: dict[int, Progress] = {}
    merge_batch(encode_batch([pack(Progress(1, 2, 0, -(10**20), 0, False))]), into)
    assert into[1].finished == 2


@pytest.fixture
async def client(etcd):
    one = Client([etcd.endpoint], rng=random.Random(1))
    yield one
    await one.close()


async def claim(client: Client, keys: Keys, partition: int) -> int:
    result = await client.txn((), (Put(keys.claim(partition), b"x"),))
    return result.revision


async def test_a_deposed_owner_can_commit_nothing(client) -> None:
    keys = Keys()
    log = ProgressLog(etcd=client, keys=keys)
    epochs = [await claim(client, keys, number) for number in (1, 2)]
    batch = encode_batch([pack(Progress(7, 1, 0, 5, 0, False))])
    mine, stale = Append(1, epochs[0], 0, batch), Append(2, epochs[1] - 1, 0, batch)
    assert await log.append([mine, stale]) == (Outcome.REJECTED, {2})
    assert not (await client.range(Range(keys.journal(1, 0)))).kvs
    assert await log.append([mine]) == (Outcome.COMMITTED, set())
    assert await log.append([mine]) == (Outcome.COMMITTED, set())
    assert await log.fold(Fold(2, epochs[1] - 1, 5, [batch])) is Outcome.REJECTED


async def test_a_folded_journal_reads_the_same(client) -> None:
    keys = Keys()
    log, reader = ProgressLog(etcd=client, keys=keys), PartitionReader(etcd=client, keys=keys)
    epoch = await claim(client, keys, 1)
    for sequence in range(5):
        entries = [pack(Progress(job, sequence + 1, 0, sequence, 0, False)) for job in range(1, 4)]
        assert (await log.append([Append(1, epoch, sequence, encode_batch(entries))]))[0] is Outcome.COMMITTED
    before = await reader.read(1)
    assert (before.next_sequence, before.journal_batches) == (5, 5)
    folded = encode_batch(pack(progress) for progress in before.progress.values())
    assert await log.fold(Fold(1, epoch, 5, [folded])) is Outcome.COMMITTED
    after = await reader.read(1)
    assert after.progress == before.progress
    assert (after.next_sequence, after.journal_batches, after.corrupt) == (5, 0, [])
    await client.txn((), (Put(keys.journal(1, 9), b"\xffnonsense"),))
    assert (await reader.read(1)).corrupt == [keys.journal(1, 9)]


async def test_only_the_finished_generation_is_deleted(client) -> None:
    keys = Keys()
    log = ProgressLog(etcd=client, keys=keys)
    first = await client.txn((), (Put(keys.job(1, "a"), b"1"), Put(keys.job(1, "b"), b"1")))
    await client.txn((), (Put(keys.job(1, "b"), b"2"),))
    done = [Finished(keys.job(1, name), first.revision) for name in ("a", "b", "never")]
    assert await log.delete_finished(done) is Outcome.COMMITTED
    left = await client.range(Range(keys.partition_jobs(1), keys.partition_jobs(2)))
    assert [kv.value for kv in left.kvs] == [b"2"]


@pytest.mark.parametrize("count", [127, 128])
async def test_a_full_batch_of_finished_jobs_is_deleted_though_one_was_overwritten(client, count: int) -> None:
    # etcd counts nested transactions together with those around them: as many as are allowed flat are too many nested.
    keys = Keys()
    jobs = [keys.job(1, f"{number:03}") for number in range(count)]
    first = await client.txn((), [Put(key, b"1") for key in jobs])
    await client.txn((), (Put(jobs[5], b"2"),))
    finished = [Finished(key, first.revision) for key in jobs]
    log = ProgressLog(etcd=client, keys=keys)
    assert await log.delete_finished(finished) is Outcome.COMMITTED
    left = await client.range(Range(keys.partition_jobs(1), keys.partition_jobs(2)))
    assert [kv.key for kv in left.kvs] == [jobs[5]]


async def test_compare_and_put(client) -> None:
    absent = (Compare(b"k", CompareTarget.CREATE_REVISION, 0),)
    assert (await client.txn(absent, (Put(b"k", b"1"),))).outcome is Outcome.COMMITTED
    assert (await client.txn(absent, (Put(b"k", b"2"),))).outcome is Outcome.REJECTED
