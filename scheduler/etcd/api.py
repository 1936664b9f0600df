"""What the rest of the house knows of etcd: plain records and one Protocol, bytes in and bytes out.

The real client (`client.py`) and the simulation's model both stand behind `Etcd`. Nothing here retries a write: an answer that was
lost is `Outcome.UNKNOWN`, and the caller, who alone knows what the write meant, reads back.
"""

import enum
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol

DEFAULT_TIMEOUT_S = 5.0


class KeyValue(NamedTuple):
    """One key as etcd holds it; `lease` is 0 where none is attached."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


class CompareTarget(enum.IntEnum):
    """What of a key a transaction compares; a missing key has the numbers 0."""

    VERSION = 0
    CREATE_REVISION = 1
    MOD_REVISION = 2
    VALUE = 3


class Compare(NamedTuple):
    """One condition: the target of `key` equals `value`."""

    key: bytes
    target: CompareTarget
    value: int | bytes


class Put(NamedTuple):
    """Write one key, attached to `lease` if that is not 0."""

    key: bytes
    value: bytes
    lease: int = 0


class Delete(NamedTuple):
    """Delete one key, or all keys in [key, range_end)."""

    key: bytes
    range_end: bytes = b""


class Range(NamedTuple):
    """Read one key, or all keys in [key, range_end), in key order."""

    key: bytes
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    keys_only: bool = False
    count_only: bool = False


class Txn(NamedTuple):
    """If all compares hold do `success`, else `failure`; nests as an operation."""

    compares: tuple[Compare, ...]
    success: tuple["Operation", ...]
    failure: tuple["Operation", ...] = ()


Operation = Put | Delete | Range | Txn


def nested_max(max_txn_ops: int) -> int:
    """How many transactions of one operation each fit into one: etcd counts a nested one together with all of the level around it."""
    return max(1, max_txn_ops - 1)


class Outcome(enum.Enum):
    """How a transaction ended. UNKNOWN: it may have been applied, may still be, or never will be."""

    COMMITTED = "committed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


class RangeResult(NamedTuple):
    """`total` is the number of keys in the range, `more` whether the limit cut the list; `revision` is the store's when it answered."""

    revision: int
    kvs: list[KeyValue]
    more: bool
    total: int


class DeleteResult(NamedTuple):
    """How many keys went."""

    deleted: int


class PutResult(NamedTuple):
    """A put has nothing to say."""


class TxnResult(NamedTuple):
    """`responses` answer the operations of the branch that ran, in order; empty and revision 0 where the outcome is unknown."""

    outcome: Outcome
    revision: int
    responses: Sequence["OperationResult"]


OperationResult = PutResult | DeleteResult | RangeResult | TxnResult


class Event(NamedTuple):
    """One change. For a delete `kv.value` is empty and `kv.mod_revision` the deletion's revision."""

    is_delete: bool
    kv: KeyValue

    @property
    def is_create(self) -> bool:
        """Whether the put made a key that was not there."""
        return not self.is_delete and self.kv.create_revision == self.kv.mod_revision


EventsCallback = Callable[[int, list[Event]], None]
"""Called with the revision up to which the watch has now seen everything in its range, and the events since the last call, in order."""

LostCallback = Callable[[str], None]
"""Called once, last, when the watch cannot go on without a gap (compacted, cluster restored, cancelled by the server): read again."""


class WatchHandle(Protocol):
    """A running watch."""

    def cancel(self) -> None:
        """End the watch: no callback after this returns."""


class Etcd(Protocol):
    """The etcd v3 operations that the product uses.

    Every coroutine raises `EtcdError` (see errors.py) and takes its own deadline in seconds. Reads are linearizable and are retried on other endpoints within
    the deadline; writes are sent once.
    """

    async def range(self, request: Range, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> RangeResult:
        """One range read."""

    def pages(
        self, key: bytes, range_end: bytes, *, page_size: int, revision: int = 0, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> AsyncIterator[RangeResult]:
        """All keys of a range in pages, every page at the revision of the first (or at `revision`)."""

    async def txn(
        self,
        compares: Sequence[Compare],
        success: Sequence[Operation],
        failure: Sequence[Operation] = (),
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> TxnResult:
        """One transaction. Raises only where it surely was not applied; a lost answer is UNKNOWN."""

    async def lease_grant(self, ttl_s: int, *, lease_id: int = 0, timeout_s: float = DEFAULT_TIMEOUT_S) -> int:
        """A new lease's id."""

    async def lease_keep_alive(self, lease_id: int, *, timeout_s: float) -> float:
        """One keepalive on a fresh stream to the next endpoint; the TTL in seconds that etcd gave, 0 where the lease is gone."""

    async def lease_revoke(self, lease_id: int, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """End a lease and delete its keys; a lease that is gone already is no error."""

    async def lease_keys(self, lease_id: int, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> tuple[float, list[bytes]]:
        """Remaining TTL in seconds (-1 or less: gone) and the attached keys."""

    def watch(
        self, key: bytes, range_end: bytes, *, start_revision: int, on_events: EventsCallback, on_lost: LostCallback
    ) -> WatchHandle:
        """Watch [key, range_end) (one key if range_end is empty) from `start_revision`, across reconnects, without gap or repeat.

        Callbacks run on the event loop and must not block.
        """
