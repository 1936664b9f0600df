"""What lies in etcd outlives the version that wrote it: bytes of format 1, as the first version wrote them, are read for ever."""

import random
import time

import pytest

from scheduler.core.lifecycle import DEFAULT_POLICY, Progress
from scheduler.core.schedule import Every
from scheduler.engine import commits
from scheduler.etcd.api import KeyValue
from scheduler.store.codec import CorruptRecord, job_of_record
from scheduler.store.keys import Keys
from scheduler.store.ledger import encode_batch, merge_batch, pack
from scheduler.store.partition import PartitionSnapshot

S = 1_000_000_000
LEDGER_BATCH_1 = bytes.fromhex(
    "080112400807060504030201030000000100000015cd853dfe9c97170058712e0c9d9717"
    "0900000000000000ffffffff00000080ffffffffffffffff0000000000000000"
)
JOB_RECORD_1 = bytes.fromhex(
    "090807060504030201121d0a016e1a0912077061796c6f6164220d0a0361707012026e731a020a001a0940657665727920316d20052a03333073"
    "320231683a0812060a020801100342090900f15365000000004a09091ef15365000000005209092eff536500000000"
)


def test_a_ledger_batch_of_format_1_is_read() -> None:
    into: dict[int, Progress] = {}
    assert merge_batch(LEDGER_BATCH_1, into) == 2
    assert into == {
        0x0102030405060708: Progress(
            0x0102030405060708, 3, 1, 1_700_000_000_123_456_789, 1_700_000_060_000_000_000, False
        ),
        9: Progress(9, 0xFFFFFFFF, 0, -1, 0, True),
    }


def test_a_job_record_of_format_1_is_read() -> None:
    job = job_of_record(b"/scheduler/jobs/00001/app||ns||app||n", JOB_RECORD_1, 5, {})
    assert (job.generation, job.revision, job.repeats, job.policy) == (0x0102030405060708, 5, 5, DEFAULT_POLICY)
    assert job.schedule == Every(60 * S)
    assert (job.fire_ns, job.expires_ns) == (1_700_000_030 * S, 1_700_003_630 * S)
    assert b"payload" in job.trigger


def test_a_ledger_batch_of_a_later_format_is_refused_whole() -> None:
    into: dict[int, Progress] = {}
    with pytest.raises(CorruptRecord, match="format 2"):
        merge_batch(b"\x08\x02" + LEDGER_BATCH_1[2:], into)
    assert into == {}


def test_the_longest_journal_that_is_not_folded_yet_is_replayed_within_a_second() -> None:
    """Of a partition with 100,000 jobs, twelve million in a cluster of 128; by CPU time, which company does not move."""
    jobs = 100_000
    rng = random.Random(1)
    generations = [rng.getrandbits(64) for _ in range(jobs)]
    keys = Keys()
    longest = max(commits._FOLD_ENTRIES, 2 * jobs)
    batches = [
        encode_batch([pack(Progress(one, count, 0, S, 0, False)) for one in generations[start : start + 800]])
        for count in (1, 2, 3)  # the checkpoint, and twice as many entries in the journal
        for start in range(0, jobs, 800)
    ]
    assert longest == 2 * jobs
    snapshot = PartitionSnapshot(None, b"", 1)  # type: ignore[arg-type]
    began = time.process_time()
    for sequence, value in enumerate(batches):
        kv = KeyValue(keys.journal(1, sequence), value, 1, 1, 1, 0)
        snapshot.merge(kv, keys.partition_ledger(1))
    assert time.process_time() - began < 1.0
    assert len(snapshot.progress) == jobs and snapshot.progress[generations[0]].finished == 3
