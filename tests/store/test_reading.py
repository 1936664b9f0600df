"""A partition's jobs are read in pages of a bounded size, all of them, whatever their payloads are."""

import pytest

from scheduler.etcd.api import KeyValue, Range, RangeResult
from scheduler.store import partition as module
from scheduler.store.partition import PartitionSnapshot

_PREFIX, _REVISION = b"/s/jobs/00001/", 7


class Etcd:
    """Jobs by key, and the sizes of the pages that were asked for."""

    def __init__(self, sizes: list[int]) -> None:
        self.kvs = [KeyValue(_PREFIX + b"%06d" % at, bytes(size), 1, 1, 1, 0) for at, size in enumerate(sizes)]
        self.pages: list[int] = []

    async def range(self, request: Range) -> RangeResult:
        assert request.revision == _REVISION and request.range_end == b"/s/jobs/000010"
        found = [kv for kv in self.kvs if kv.key >= request.key]
        page = found[: request.limit]
        self.pages.append(sum(len(kv.value) for kv in page))
        return RangeResult(_REVISION, page, len(found) > len(page), len(found))


@pytest.mark.parametrize(
    ("sizes", "requests", "largest"),
    [
        ([], 1, 0),
        ([100] * 8, 1, 800),
        ([0] * 1_008, 3, 0),
        ([100] * 2_008, 5, 50_000),
        ([65_536] * 40, 3, 16 * 65_536),
        ([1 << 20] * 16, 9, 8 << 20),
        ([100] * 508 + [1 << 20] * 2, 3, 2 << 20),
    ],
)
async def test_pages(sizes: list[int], requests: int, largest: int) -> None:
    etcd = Etcd(sizes)
    snapshot = PartitionSnapshot(etcd, _PREFIX, _REVISION)
    assert [kv async for page in snapshot.jobs() for kv in page] == etcd.kvs
    assert len(etcd.pages) == requests and max(etcd.pages) == largest
    assert max(etcd.pages[1:], default=0) <= 2 * module.PAGE_BYTES
