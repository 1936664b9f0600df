"""Fenced writes of progress (design: ledger; promise G5): journal, checkpoint and the deletion of finished jobs.

Each transaction of the ledger compares the claims of all partitions it touches with the owner's epochs, so a deposed owner
can commit nothing. The same batch may be sent again under the same key after a lost answer: it changes nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple

from scheduler.etcd.api import (
    Compare,
    CompareTarget,
    Delete,
    Etcd,
    Operation,
    Outcome,
    Put,
    Range,
    RangeResult,
    Txn,
    nested_max,
)
from scheduler.store.keys import Keys

COMMIT_TIMEOUT_S = 2.0
# A checkpoint is written in parts of this many bytes, 4,096 entries: each is merged in one piece when it is read.
CHECKPOINT_PART_BYTES = 128 * 1024


class Append(NamedTuple):
    """One journal batch of one partition."""

    partition: int
    epoch: int
    sequence: int
    value: bytes


class Fold(NamedTuple):
    """A checkpoint of one partition that folds every journal batch below `sequence`."""

    partition: int
    epoch: int
    sequence: int
    parts: Sequence[bytes]


class Finished(NamedTuple):
    """A finished job's record: its key, and the revision of the generation that is finished."""

    key: bytes
    revision: int


class ProgressLog:
    """Writes progress for the engine. Every coroutine raises EtcdError where etcd surely did nothing."""

    def __init__(self, *, etcd: Etcd, keys: Keys, max_txn_ops: int = 128) -> None:
        """`max_txn_ops` must not exceed what etcd is configured to take."""
        self._etcd = etcd
        self._keys = keys
        self.max_txn_ops = max_txn_ops

    async def append(self, batches: Sequence[Append]) -> tuple[Outcome, set[int]]:
        """Commit journal batches, at most `max_txn_ops` of them, all or none.

        REJECTED comes with the partitions whose claim is not ours (any more); UNKNOWN means: send the same batches again.
        """
        claims = {batch.partition: batch.epoch for batch in batches}
        compares = [self._owned(partition, epoch) for partition, epoch in claims.items()]
        puts: list[Operation] = [Put(self._keys.journal(b.partition, b.sequence), b.value) for b in batches]
        reads: list[Operation] = [Range(self._keys.claim(partition)) for partition in claims]
        result = await self._etcd.txn(compares, puts, reads, timeout_s=COMMIT_TIMEOUT_S)
        if result.outcome is not Outcome.REJECTED:
            return result.outcome, set()
        lost = set()
        for (partition, epoch), found in zip(claims.items(), result.responses, strict=True):
            if not isinstance(found, RangeResult) or not found.kvs or found.kvs[0].create_revision != epoch:
                lost.add(partition)
        return Outcome.REJECTED, lost

    async def fold(self, fold: Fold) -> Outcome:
        """Write a checkpoint, then delete what it folds: journal batches below its sequence and older checkpoints."""
        keys, partition, sequence = self._keys, fold.partition, fold.sequence
        fence = (self._owned(partition, fold.epoch),)
        for number, part in enumerate(fold.parts):
            put = Put(keys.checkpoint(partition, sequence, number), part)
            result = await self._etcd.txn(fence, (put,), timeout_s=COMMIT_TIMEOUT_S)
            if result.outcome is not Outcome.COMMITTED:
                return result.outcome
        folded: tuple[Operation, ...] = (
            Delete(keys.journal(partition, 0), keys.journal(partition, sequence)),
            Delete(keys.checkpoint(partition, 0, 0), keys.checkpoint(partition, sequence, 0)),
        )
        return (await self._etcd.txn(fence, folded, timeout_s=COMMIT_TIMEOUT_S)).outcome

    async def delete_finished(self, jobs: Sequence[Finished]) -> Outcome:
        """Delete finished jobs, each only while it is the generation that finished: an overwrite survives.

        At most `max_txn_ops` jobs. COMMITTED: each is deleted or was no longer that generation.
        """
        compares = [Compare(job.key, CompareTarget.MOD_REVISION, job.revision) for job in jobs]
        deletes: list[Operation] = [Delete(job.key) for job in jobs]
        result = await self._etcd.txn(compares, deletes, timeout_s=COMMIT_TIMEOUT_S)
        if result.outcome is Outcome.REJECTED:
            # One of them was overwritten or deleted meanwhile: ask for each by itself.
            singly: list[Operation] = [
                Txn((compare,), (delete,)) for compare, delete in zip(compares, deletes, strict=True)
            ]
            step = nested_max(self.max_txn_ops)
            for start in range(0, len(singly), step):
                result = await self._etcd.txn((), singly[start : start + step], timeout_s=COMMIT_TIMEOUT_S)
                if result.outcome is not Outcome.COMMITTED:
                    break
        return result.outcome

    def _owned(self, partition: int, epoch: int) -> Compare:
        return Compare(self._keys.claim(partition), CompareTarget.CREATE_REVISION, epoch)
