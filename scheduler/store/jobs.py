"""The store of jobs as the API uses it: writes in groups, linearizable reads; lists and bulk deletes by `prefixes`.

Concurrent writes share one etcd transaction, each as an operation with its own condition and its own answer. While one transaction is on its way the next group
gathers, so the group grows with the load. A transaction whose answer was lost is read back by each write's own generation; what stays unknown is said to be so.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from scheduler._pb.scheduler_storage.v1.storage_pb2 import JobRecord
from scheduler.core.names import job_key, run_now_end
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
    TxnResult,
    nested_max,
)
from scheduler.etcd.errors import EtcdError, EtcdNoSpace, EtcdRequestError
from scheduler.store.codec import CorruptRecord, decode_record
from scheduler.store.errors import JobExists, RecordTooLarge, StoreBusy, StoreError, StoreFull, StoreUnavailable
from scheduler.store.keys import Keys, partition_of
from scheduler.store.prefixes import REQUEST_MAX_S, Prefixes

Done = Callable[[StoreError | None], None]
WRITE_TIMEOUT_S = 4.0
READ_BACK_TIMEOUT_S = 1.0
# By the age of a group's oldest write (promise G11): until when it is still sent, etcd may carry it out, and tell what has become of it. A group is older than
# those behind it, so whoever waits is answered in time, too.
QUEUED_MAX_S = 4.5
SENT_MAX_S = 5.0
ANSWER_MAX_S = 5.5
UNKNOWN_CREATES_MAX = 10_000
# Writes that wait for etcd: what comes faster than etcd takes it must not become our memory.
QUEUE_MAX_BYTES = 128 << 20
# Jobs of a list that are parsed before other work of the loop gets its turn: a few milliseconds.
LIST_SLICE = 512
# What a write adds to its key and value, in a transaction and in memory.
_WRITE_BYTES = 64


class _Write(NamedTuple):
    """One write waiting for its group. `value` None: a delete; `create`: only where the key is not there."""

    key: bytes
    value: bytes | None
    create: bool
    done: Done
    size_bytes: int
    queued_s: float


class JobStore:
    """Jobs in etcd. `put` and `delete` take a callback and return at once; `run` must be running for them to be carried out."""

    def __init__(
        self,
        *,
        etcd: Etcd,
        keys: Keys,
        partition_count: int,
        rng: random.Random,
        max_txn_ops: int = 128,
        max_request_bytes: int = 1_572_864,
    ) -> None:
        """`max_txn_ops` and `max_request_bytes` must not exceed what etcd is configured to take."""
        self._etcd = etcd
        self._keys = keys
        self._partition_count = partition_count
        self._rng = rng
        self._max_txn_ops = max_txn_ops
        self._prefixes = Prefixes(etcd, keys, partition_count=partition_count, max_txn_ops=max_txn_ops)
        # One operation less: `_commit` adds one.
        self._group_max = max(1, nested_max(max_txn_ops) - 1)
        # Room for what the transaction adds to its records.
        self._max_request_bytes = max_request_bytes - 16_384
        self._queue: deque[_Write] = deque()
        self._queued_bytes = 0
        self._wakeup = asyncio.Event()
        # Digests of creates whose fate this replica had to call unknown: repeating one with the same content is no conflict.
        self._unknown_creates: dict[bytes, bytes] = {}
        self.corrupt_records = 0

    # Writes

    def put(self, key: str, record: JobRecord, *, overwrite: bool, done: Done) -> None:
        """Store a job under its storage key and call `done` once etcd has committed it, or with what kept it from that.

        Sets `record.generation`. Without `overwrite` an existing job is JobExists. `done` runs on the loop, exactly once.
        """
        record.generation = self._rng.getrandbits(64) or 1
        value = record.SerializeToString()
        at = self._etcd_key(key)
        size = len(at) + len(value)
        if size > self._max_request_bytes:
            done(
                RecordTooLarge(
                    f"job of {len(value)} bytes is larger than the {self._max_request_bytes} bytes that etcd takes"
                )
            )
            return
        queued_s = asyncio.get_running_loop().time()
        self._enqueue(_Write(at, value, not overwrite, done, size + _WRITE_BYTES, queued_s))

    def delete(self, key: str, *, done: Done) -> None:
        """Delete a job, and its occurrences beside the schedule that wait; one that is not there is no error."""
        at = self._etcd_key(key)
        size = len(at) + _WRITE_BYTES
        self._enqueue(_Write(at, None, create=False, done=done, size_bytes=size, queued_s=_now_s()))

    def _etcd_key(self, key: str) -> bytes:
        return self._keys.job(partition_of(job_key(key), self._partition_count), key)

    def _enqueue(self, write: _Write) -> None:
        if self._queued_bytes + write.size_bytes > QUEUE_MAX_BYTES:
            write.done(
                StoreBusy(
                    f"{self._queued_bytes} bytes of writes wait for etcd, at most {QUEUE_MAX_BYTES} may: try again later"
                )
            )
            return
        self._queued_bytes += write.size_bytes
        self._queue.append(write)
        self._wakeup.set()

    async def run(self) -> None:
        """Carry out writes until cancelled; then what is still queued is answered StoreUnavailable."""
        try:
            while True:
                await self._wakeup.wait()
                self._wakeup.clear()
                while self._queue:
                    await self._commit(self._next_group())
        finally:
            self._fail_queued(StoreUnavailable("the scheduler is shutting down"))

    def _next_group(self) -> list[_Write]:
        """The oldest writes that fit one transaction; a key stands in it once, so a second write of it opens the next group."""
        queue, group = self._queue, [self._queue.popleft()]
        size = taken_bytes = group[0].size_bytes
        taken = {group[0].key}
        while queue and len(group) < self._group_max:
            write = queue[0]
            size += write.size_bytes
            if write.key in taken or size > self._max_request_bytes:
                break
            taken.add(write.key)
            taken_bytes = size
            group.append(queue.popleft())
        self._queued_bytes -= taken_bytes
        return group

    async def _commit(self, group: list[_Write]) -> None:
        age_s = _now_s() - group[0].queued_s
        if age_s > QUEUED_MAX_S:
            text = "etcd has not answered earlier writes in time: this one was not sent, nothing was done"
            _answer(group, StoreUnavailable(text))
            return
        operations = [_operation(write) for write in group]
        if any(write.create for write in group) and len(group) + 1 < self._max_txn_ops:
            # etcd's quota sees no puts in nested transactions: without one beside them, creates would grow it until its disk is full.
            operations.append(Put(self._keys.quota, b""))
        try:
            result = await self._etcd.txn((), operations, timeout_s=min(WRITE_TIMEOUT_S, SENT_MAX_S - age_s))
        except EtcdNoSpace:
            deletes = [write for write in group if write.value is None]
            refused = [write for write in group if write.value is not None] or group
            _answer(refused, StoreFull("etcd is out of space: writes are refused until an operator frees some"))
            if deletes and len(deletes) < len(group):
                await self._commit(deletes)
            return
        except EtcdRequestError as error:
            if len(group) == 1:
                group[0].done(RecordTooLarge(f"etcd refuses the record: {error}"))
                return
            middle = len(group) // 2
            await self._commit(group[:middle])
            await self._commit(group[middle:])
            return
        except EtcdError as error:
            self._unavailable(group, error)
            return
        if result.outcome is Outcome.UNKNOWN:
            await self._resolve(group)
            return
        for write, response in zip(group, result.responses, strict=False):
            write.done(self._verdict(write, response) if write.create else None)

    def _verdict(self, write: _Write, response: object) -> StoreError | None:
        """Whether a create found its place free; a repetition of one whose fate was unknown is the same create."""
        if not isinstance(response, TxnResult) or response.outcome is Outcome.COMMITTED:
            self._unknown_creates.pop(write.key, None)
            return None
        content = self._unknown_creates.get(write.key)
        if content is not None and write.value is not None and content == _content(write.value):
            found = response.responses[0]
            if isinstance(found, RangeResult) and found.kvs and _content(found.kvs[0].value) == content:
                return None
        return JobExists(write.key.decode("utf-8", "replace"))

    async def _resolve(self, group: list[_Write]) -> None:
        """The answer was lost: a put that can be read back by its generation is committed. Nothing is sent again: the lost write may still land."""
        try:
            reads: list[Operation] = [Range(write.key) for write in group]
            left_s = max(0.001, min(READ_BACK_TIMEOUT_S, group[0].queued_s + ANSWER_MAX_S - _now_s()))
            result = await self._etcd.txn((), reads, timeout_s=left_s)
        except EtcdError as error:
            self._unavailable(group, error)
            return
        lost: list[_Write] = []
        for index, write in enumerate(group):
            found = result.responses[index] if index < len(result.responses) else None
            if (
                write.value is not None
                and isinstance(found, RangeResult)
                and found.kvs
                and found.kvs[0].value == write.value
            ):
                write.done(None)
            else:
                lost.append(write)
        self._unavailable(lost, None)

    def _unavailable(self, group: list[_Write], error: EtcdError | None) -> None:
        """Answer the group, and with it what queued up behind it: whoever waits must not wait for one time-out after the other."""
        if error is None:
            unknown = StoreUnavailable(
                "etcd's answer was lost: the write may or may not be in force; repeating it is safe"
            )
        else:
            unknown = StoreUnavailable(f"etcd is not available: {error}")
        for write in group:
            if write.create and write.value is not None:
                if len(self._unknown_creates) >= UNKNOWN_CREATES_MAX:
                    self._unknown_creates.pop(next(iter(self._unknown_creates)))
                self._unknown_creates[write.key] = _content(write.value)
        _answer(group, unknown)
        if error is not None:
            self._fail_queued(unknown)

    def _fail_queued(self, error: StoreError) -> None:
        queued, self._queue, self._queued_bytes = list(self._queue), deque(), 0
        _answer(queued, error)

    # Reads and bulk deletes

    async def get(self, key: str, *, timeout_s: float) -> JobRecord | None:
        """One job, linearizable; None where there is none. Raises StoreUnavailable or CorruptRecord."""
        try:
            result = await self._etcd.range(Range(self._etcd_key(key)), timeout_s=min(REQUEST_MAX_S, timeout_s))
        except EtcdError as error:
            raise StoreUnavailable(f"etcd is not available: {error}") from error
        return decode_record(result.kvs[0].value) if result.kvs else None

    async def list(self, prefix: str, *, timeout_s: float) -> list[tuple[str, JobRecord]]:
        """All jobs whose storage key starts with `prefix`, at one revision, in ascending byte order of their keys.

        A record that does not parse is left out and counted. Raises StoreUnavailable.
        """
        try:
            found = await self._prefixes.read(prefix, timeout_s=timeout_s)
        except EtcdError as error:
            raise StoreUnavailable(f"etcd is not available: {error}") from error
        skip = len(self._keys.partition_jobs(0))
        jobs: list[tuple[bytes, JobRecord]] = []
        for taken, (key, value) in enumerate(found, 1):
            try:
                jobs.append((key[skip:], decode_record(value)))
            except CorruptRecord:
                self.corrupt_records += 1
            if taken % LIST_SLICE == 0:
                await asyncio.sleep(0)
        jobs.sort(key=lambda job: job[0])
        return [(key.decode("utf-8", "surrogatepass"), record) for key, record in jobs]

    async def delete_prefix(self, prefix: str, *, timeout_s: float) -> int:
        """Delete all jobs whose storage key starts with `prefix` and return their number. Raises StoreUnavailable.

        Many jobs go in several transactions: an error leaves those that have gone deleted, and repeating it is safe.
        """
        try:
            return await self._prefixes.delete(prefix, timeout_s=timeout_s)
        except EtcdError as error:
            raise StoreUnavailable(f"etcd is not available: {error}") from error

    async def namespaces(self, *, timeout_s: float) -> set[str]:
        """All namespaces that have jobs. Raises StoreUnavailable."""
        try:
            return await self._prefixes.namespaces(timeout_s=timeout_s)
        except EtcdError as error:
            raise StoreUnavailable(f"etcd is not available: {error}") from error


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _answer(writes: Sequence[_Write], error: StoreError | None) -> None:
    for write in writes:
        write.done(error)


def _operation(write: _Write) -> Operation:
    if write.value is None:
        return Delete(write.key, run_now_end(write.key))
    put = Put(write.key, write.value)
    if not write.create:
        return put
    return Txn((Compare(write.key, CompareTarget.CREATE_REVISION, 0),), (put,), (Range(write.key),))


def _content(value: bytes) -> bytes:
    """A digest of what the client asked for, without what each accept resolves anew; empty for a record that does not parse."""
    try:
        record = decode_record(value)
    except CorruptRecord:
        return b""
    for field in ("generation", "created", "first", "expires"):
        record.ClearField(field)
    return blake2b(record.SerializeToString(deterministic=True), digest_size=16).digest()
