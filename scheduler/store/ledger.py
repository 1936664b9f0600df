"""The ledger's entries: the persisted progress of a partition's jobs (design: ledger).

A batch is a list of fixed-size entries. Journal and checkpoint hold the same kind of batch: a checkpoint is a journal batch that folds
all before it. Reading merges whatever lies there; merging is monotone per generation, so a batch that is repeated, lands late or outlives its
checkpoint changes nothing.
"""

import struct
from collections.abc import Iterable

from google.protobuf.message import DecodeError

from scheduler._pb.scheduler_storage.v1.storage_pb2 import LedgerBatch
from scheduler.core.lifecycle import Job, Progress, State
from scheduler.store.codec import CorruptRecord

FORMAT_VERSION = 1
# generation, count, attempts with the done flag in its top bit, last scheduled time and next retry in nanoseconds.
_ENTRY = struct.Struct("<QIIqq")
ENTRY_BYTES = _ENTRY.size
_DONE = 1 << 31
_JOB_DONE = State.DONE
_INT64_MAX = (1 << 63) - 1
_INT64_MIN = -(1 << 63)


def _clamped(ns: int) -> int:
    """Times outside the years 1677 to 2262 are kept at these ends: they only ever mean long ago or never."""
    return min(_INT64_MAX, max(_INT64_MIN, ns))


def pack(progress: Progress) -> bytes:
    """One entry."""
    generation, count, attempts, last_ns, retry_ns, done = progress
    flags = min(attempts, _DONE - 1) | (_DONE if done else 0)
    try:
        return _ENTRY.pack(generation, count, flags, last_ns, retry_ns)
    except struct.error:
        return _ENTRY.pack(generation, count, flags, _clamped(last_ns), _clamped(retry_ns))


def encode_batch(entries: Iterable[bytes]) -> bytes:
    """A journal or checkpoint value of packed entries."""
    return LedgerBatch(format_version=FORMAT_VERSION, entries=b"".join(entries)).SerializeToString()


def merge_batch(value: bytes, into: dict[int, Progress]) -> int:
    """Merge a stored batch and return the number of its entries. Raises CorruptRecord, having merged nothing of it."""
    try:
        batch = LedgerBatch.FromString(value)
    except DecodeError as error:
        raise CorruptRecord(f"ledger batch does not parse: {error}") from error
    if batch.format_version != FORMAT_VERSION:
        raise CorruptRecord(f"ledger batch has format {batch.format_version}, this version reads {FORMAT_VERSION}")
    if len(batch.entries) % ENTRY_BYTES:
        raise CorruptRecord(
            f"ledger batch of {len(batch.entries)} bytes is no whole number of entries of {ENTRY_BYTES}"
        )
    for generation, count, flags, last_ns, retry_ns in _ENTRY.iter_unpack(batch.entries):
        entry = Progress(generation, count, flags & (_DONE - 1), last_ns, retry_ns, bool(flags & _DONE))
        known = into.get(generation)
        if known is None or entry.supersedes(known):
            into[generation] = entry
    return len(batch.entries) // ENTRY_BYTES


def pack_job(job: Job) -> bytes:
    """The entry of a job as it stands; the hot path's form of `pack(job.progress())`."""
    attempts = job.attempts
    if job.state is _JOB_DONE:
        attempts |= _DONE
    try:
        return _ENTRY.pack(job.generation, job.count, attempts, job.last_ns, job.fire_ns if job.attempts else 0)
    except struct.error:
        return pack(job.progress())
