"""Reading one partition: its ledger and its jobs at one pinned revision, in pages, and the watch that goes on from there."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from scheduler.core.lifecycle import Progress
from scheduler.etcd.api import Etcd, EventsCallback, KeyValue, LostCallback, Outcome, Put, Range, WatchHandle
from scheduler.etcd.errors import EtcdUnavailable
from scheduler.store.codec import CorruptRecord, decode_record
from scheduler.store.keys import Keys, range_end
from scheduler.store.ledger import merge_batch

# A page is parsed in one piece: a millisecond or two. It holds fewer jobs where their payloads are large, by what those before them took.
PAGE_SIZE = 500
PAGE_BYTES = 1 << 20
_FIRST_PAGE = 8
# Ledger entries merged before other work gets its turn: five milliseconds.
_MERGE_SLICE = 4_096


class PartitionSnapshot:
    """A partition's ledger as read at `revision`, and the way to its jobs at the same revision."""

    __slots__ = ("_etcd", "_prefix", "corrupt", "journal_batches", "next_sequence", "progress", "revision")

    def __init__(self, etcd: Etcd, prefix: bytes, revision: int) -> None:
        """Made by `PartitionReader.read`."""
        self._etcd = etcd
        self._prefix = prefix
        self.revision = revision
        self.progress: dict[int, Progress] = {}
        self.next_sequence = 0
        self.journal_batches = 0
        self.corrupt: list[bytes] = []

    def merge(self, kv: KeyValue, ledger_prefix: bytes) -> int:
        """Take one ledger key in and return the number of its entries; one that does not parse is set aside, the rest stands."""
        kind, _, rest = kv.key[len(ledger_prefix) :].partition(b"/")
        try:
            sequence = int(rest.partition(b"/")[0], 16)
            entries = merge_batch(kv.value, self.progress)
        except (ValueError, CorruptRecord):
            self.corrupt.append(kv.key)
            return 0
        if kind == b"journal":
            self.journal_batches += 1
            sequence += 1
        self.next_sequence = max(self.next_sequence, sequence)
        return entries

    async def jobs(self) -> AsyncIterator[list[KeyValue]]:
        """The partition's jobs, page by page. Raises EtcdError; EtcdCompacted means: read the whole partition again."""
        key, end, limit = self._prefix, range_end(self._prefix), min(_FIRST_PAGE, PAGE_SIZE)
        while True:
            page = await self._etcd.range(Range(key, end, limit=limit, revision=self.revision))
            yield page.kvs
            if not page.more:
                return
            key = page.kvs[-1].key + b"\0"
            size = sum(len(kv.value) for kv in page.kvs) or 1
            limit = max(1, min(PAGE_SIZE, PAGE_BYTES * len(page.kvs) // size))


class PartitionReader:
    """Reads and watches partitions for the engine."""

    def __init__(self, *, etcd: Etcd, keys: Keys, max_txn_ops: int = 128) -> None:
        """`keys` names the cluster's root; `max_txn_ops` must not exceed what etcd is configured to take."""
        self._max_txn_ops = max_txn_ops
        self._etcd = etcd
        self._keys = keys
        # Where a job's storage key begins in its etcd key.
        self.key_start = len(keys.partition_jobs(0))

    async def read(self, partition: int) -> PartitionSnapshot:
        """The ledger now, at one revision. Raises EtcdError."""
        prefix = self._keys.partition_ledger(partition)
        head = await self._etcd.range(Range(prefix, range_end(prefix), count_only=True))
        snapshot = PartitionSnapshot(self._etcd, self._keys.partition_jobs(partition), head.revision)
        if head.total:
            pages = self._etcd.pages(prefix, range_end(prefix), page_size=PAGE_SIZE, revision=head.revision)
            merged = 0
            async for page in pages:
                for kv in page.kvs:
                    merged += snapshot.merge(kv, prefix)
                    if merged >= _MERGE_SLICE:
                        merged = 0
                        await asyncio.sleep(0)
        return snapshot

    async def trigger(self, key: bytes, generation: int) -> bytes | None:
        """The trigger of one job as etcd holds it now; None: this generation is gone, or not to be read. Raises EtcdError."""
        found = await self._etcd.range(Range(key))
        try:
            record = decode_record(found.kvs[0].value) if found.kvs else None
        except CorruptRecord:
            return None
        return record.trigger if record is not None and record.generation == generation else None

    def watch(
        self, partition: int, start_revision: int, on_events: EventsCallback, on_lost: LostCallback
    ) -> WatchHandle:
        """Changes of the partition's jobs from `start_revision` on, and its marks: keys that are shorter than `key_start`."""
        end = range_end(self._keys.partition_jobs(partition))
        mark = self._keys.mark(partition)
        return self._etcd.watch(mark, end, start_revision=start_revision, on_events=on_events, on_lost=on_lost)

    async def mark(self, partitions: Sequence[int]) -> dict[int, int]:
        """Write something that each partition's watch must tell of, behind all that it must have told before: partition to revision.

        (A watch that is asked for its progress may claim what it has not told yet: etcd before 3.4.31 and 3.5.13.) Raises EtcdError.
        """
        marked: dict[int, int] = {}
        for start in range(0, len(partitions), self._max_txn_ops):
            chunk = partitions[start : start + self._max_txn_ops]
            result = await self._etcd.txn((), [Put(self._keys.mark(partition), b"") for partition in chunk])
            if result.outcome is Outcome.UNKNOWN:
                raise EtcdUnavailable("the answer to a mark was lost")
            marked.update(dict.fromkeys(chunk, result.revision))
        return marked
