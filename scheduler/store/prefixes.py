"""Jobs by a prefix of their storage key, over all partitions: read, deleted, and asked for their namespaces.

One request reaches up to `max_txn_ops` partitions where there is little to read or to delete. Where there is much, the work is cut into pieces that etcd does
quickly, each with its own time, so that other requests get their turn between them.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from scheduler.core.names import SEPARATOR, unescape
from scheduler.etcd.api import Delete, DeleteResult, Etcd, Operation, Outcome, Range
from scheduler.etcd.errors import EtcdUnavailable
from scheduler.store.errors import StoreUnavailable
from scheduler.store.keys import Keys, range_end

# No single request takes longer.
REQUEST_MAX_S = 5.0
_PAGE = 64
# What etcd has not given at once by then is much: it is read partition by partition, in small pages.
_AT_ONCE_S = 2.0
_PAGE_LARGE = 4
# Jobs that one transaction takes away: etcd does nothing else meanwhile, some 40 ms.
_DELETE_MAX = 4096


class Prefixes:
    """All partitions of one etcd. A prefix is of a storage key, without the partition's part. Methods raise EtcdError."""

    def __init__(self, etcd: Etcd, keys: Keys, *, partition_count: int, max_txn_ops: int) -> None:
        self._etcd = etcd
        self._keys = keys
        starts = range(0, partition_count, max_txn_ops)
        self._chunks = [range(start, min(start + max_txn_ops, partition_count)) for start in starts]

    async def read(self, prefix: str, *, timeout_s: float) -> Sequence[tuple[bytes, bytes]]:
        """All jobs' keys in etcd and records, at one revision, partition by partition."""
        deadline = _now_s() + timeout_s
        found: list[tuple[bytes, bytes]] = []
        revision, limit, page_s = 0, _PAGE, REQUEST_MAX_S
        for chunk in self._chunks:
            ranges = [self._range(partition, prefix) for partition in chunk]
            pages: Sequence[Any] = [None] * len(ranges)
            if limit == _PAGE:
                reads: list[Operation] = [Range(start, end, limit=limit, revision=revision) for start, end in ranges]
                try:
                    result = await self._etcd.txn((), reads, timeout_s=min(_AT_ONCE_S, _left(deadline)))
                except EtcdUnavailable:
                    # (Together no longer than a call may wait for an etcd that says nothing.)
                    limit, page_s = _PAGE_LARGE, REQUEST_MAX_S - _AT_ONCE_S
                else:
                    revision, pages = revision or result.revision, result.responses
            for (start, end), first in zip(ranges, pages, strict=True):
                page, after = first, start
                while page is None or page.more:
                    if page is not None:
                        found.extend((kv.key, kv.value) for kv in page.kvs)
                        after = page.kvs[-1].key + b"\0"
                    request = Range(after, end, limit=limit, revision=revision)
                    page = await self._etcd.range(request, timeout_s=min(page_s, _left(deadline)))
                    revision = revision or page.revision
                found.extend((kv.key, kv.value) for kv in page.kvs)
        return found

    async def delete(self, prefix: str, *, timeout_s: float) -> int:
        """Delete all jobs and return their number. An error leaves those that have gone deleted. Raises StoreUnavailable, too, where an answer was lost."""
        deadline = _now_s() + timeout_s
        deleted = 0
        for chunk in self._chunks:
            group: list[Operation] = []
            jobs = 0
            async for piece, count in self._pieces(chunk, prefix, deadline):
                if group and jobs + count > _DELETE_MAX:
                    deleted += await self._delete(group, deadline)
                    group, jobs = [], 0
                group.append(piece)
                jobs += count
            deleted += await self._delete(group, deadline)
        return deleted

    async def _pieces(self, chunk: range, prefix: str, deadline: float) -> AsyncIterator[tuple[Delete, int]]:
        """What together deletes a prefix from some partitions, each with how many jobs it takes away: at most `_DELETE_MAX`."""
        ranges = [self._range(partition, prefix) for partition in chunk]
        reads: list[Operation] = [Range(start, end, count_only=True) for start, end in ranges]
        counts: Sequence[Any] = (await self._etcd.txn((), reads, timeout_s=_left(deadline))).responses
        for (start, end), counted in zip(ranges, counts, strict=True):
            begin, count = start, counted.total
            while count > _DELETE_MAX:
                first = Range(begin, end, limit=_DELETE_MAX, keys_only=True)
                page = await self._etcd.range(first, timeout_s=_left(deadline))
                if not page.more:
                    break
                after = page.kvs[-1].key + b"\0"
                yield Delete(begin, after), _DELETE_MAX
                begin, count = after, page.total - _DELETE_MAX
            yield Delete(begin, end), count

    async def _delete(self, deletes: Sequence[Operation], deadline: float) -> int:
        result = await self._etcd.txn((), deletes, timeout_s=_left(deadline))
        if result.outcome is Outcome.UNKNOWN:
            raise StoreUnavailable("etcd's answer was lost: the jobs may or may not be deleted; repeating it is safe")
        return sum(response.deleted for response in result.responses if isinstance(response, DeleteResult))

    async def namespaces(self, *, timeout_s: float) -> set[str]:
        """All namespaces that have jobs, found by leaping from one to the next."""
        deadline = _now_s() + timeout_s
        found: set[str] = set()
        for chunk in self._chunks:
            places = {partition: self._range(partition, "") for partition in chunk}
            while places:
                reads: list[Operation] = [Range(start, end, limit=1) for start, end in places.values()]
                pages: Sequence[Any] = (await self._etcd.txn((), reads, timeout_s=_left(deadline))).responses
                for (partition, (_, end)), page in zip(list(places.items()), pages, strict=True):
                    if not page.kvs:
                        del places[partition]
                        continue
                    key = page.kvs[0].key[len(self._keys.partition_jobs(partition)) :].decode("utf-8", "surrogatepass")
                    kind, namespace = key.split(SEPARATOR, 2)[:2]
                    found.add(unescape(namespace))
                    last = self._keys.job(partition, f"{kind}{SEPARATOR}{namespace}{SEPARATOR}")
                    places[partition] = (range_end(last), end)
        return found

    def _range(self, partition: int, prefix: str) -> tuple[bytes, bytes]:
        start = self._keys.job(partition, prefix)
        return start, range_end(start)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _left(deadline: float) -> float:
    return max(0.001, min(REQUEST_MAX_S, deadline - _now_s()))
