"""What etcd does with a request, as a pure state machine: revisions, transactions, ranges in the past, leases, compaction, alarms, limits.

Its fidelity is tested against a real etcd (test_fidelity.py). Time, networks and faults are in server.py.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence

from scheduler.etcd.api import (
    Compare,
    CompareTarget,
    Delete,
    DeleteResult,
    Event,
    KeyValue,
    Operation,
    OperationResult,
    Outcome,
    Put,
    PutResult,
    Range,
    RangeResult,
    Txn,
    TxnResult,
)
from scheduler.etcd.errors import (
    EtcdCompacted,
    EtcdError,
    EtcdNoSpace,
    EtcdRequestError,
    EtcdUnavailable,
    LeaseNotFound,
)

LEASE_TTL_MIN_S = 2
_TARGET = {CompareTarget.VERSION: 4, CompareTarget.CREATE_REVISION: 2, CompareTarget.MOD_REVISION: 3}
_PUT_RESULT = PutResult()


class Lease:
    def __init__(self, number: int, ttl_s: int) -> None:
        self.number = number
        self.ttl_s = ttl_s
        self.keys: dict[bytes, None] = {}


class Model:
    """One etcd's data. Every request is atomic; `changed(revision, events)` hears of each revision."""

    def __init__(self, *, max_txn_ops: int = 128, max_request_bytes: int = 1_572_864) -> None:
        self.max_txn_ops = max_txn_ops
        self.max_request_bytes = max_request_bytes
        self.revision = 1
        self.compacted = 0
        self.nospace = False
        self.kvs: dict[bytes, KeyValue] = {}
        self.leases: dict[int, Lease] = {}
        self.log: list[tuple[int, list[Event]]] = []
        self.changed: Callable[[int, list[Event]], None] = lambda _revision, _events: None
        self._keys: list[bytes] = []  # live, sorted
        self._past: dict[
            bytes, list[KeyValue]
        ] = {}  # every version since the last compaction; a deletion has version 0
        self._events: list[Event] = []
        self._next_lease = 1

    # Reads

    def range(self, request: Range) -> RangeResult:
        if request.revision > self.revision:
            raise EtcdUnavailable("future revision")
        if 0 < request.revision < self.compacted:
            raise EtcdCompacted("revision has been compacted")
        if request.revision == 0 or (request.revision == self.revision and not self._events):
            found = self._live(request.key, request.range_end)
        else:
            found = self._at(request.key, request.range_end, request.revision)
        total = len(found)
        if request.count_only:
            return RangeResult(self.revision, [], False, total)
        more = 0 < request.limit < total
        if more:
            found = found[: request.limit]
        if request.keys_only:
            found = [kv._replace(value=b"") for kv in found]
        return RangeResult(self.revision, found, more, total)

    def _live(self, key: bytes, range_end: bytes) -> list[KeyValue]:
        kvs = self.kvs
        if not range_end:
            return [kvs[key]] if key in kvs else []
        keys = self._keys
        return [kvs[one] for one in keys[bisect_left(keys, key) : bisect_left(keys, range_end)]]

    def _at(self, key: bytes, range_end: bytes, revision: int) -> list[KeyValue]:
        wanted = [key] if not range_end else sorted(one for one in self._past if key <= one < range_end)
        found = []
        for one in wanted:
            last = None
            for kv in self._past.get(one, ()):
                if kv.mod_revision <= revision:
                    last = kv
            if last is not None and last.version:
                found.append(last)
        return found

    def events_from(self, revision: int) -> Iterable[tuple[int, list[Event]]]:
        """The log from a revision on."""
        return self.log[bisect_left(self.log, revision, key=lambda entry: entry[0]) :]

    # Transactions

    def txn(
        self, compares: Sequence[Compare], success: Sequence[Operation], failure: Sequence[Operation] = ()
    ) -> TxnResult:
        """Raises EtcdError where etcd refuses it: nothing has happened then."""
        whole = Txn(tuple(compares), tuple(success), tuple(failure))
        _check_size(whole, self.max_txn_ops)
        _check_intervals(whole.success)
        _check_intervals(whole.failure)
        if _size(whole) > self.max_request_bytes:
            raise EtcdRequestError("request is too large")
        if self.nospace and (_has_put(whole.success) or _has_put(whole.failure)):
            raise EtcdNoSpace("database space exceeded")
        path: list[bool] = []
        self._choose(whole, path)
        self._check(whole, path)
        result = self._run(whole, iter(path))
        self._commit()
        return result._replace(revision=self.revision)

    def _choose(self, txn: Txn, path: list[bool]) -> None:
        """All conditions, nested ones too, look at the state before anything is done."""
        holds = all(self._holds(compare) for compare in txn.compares)
        path.append(holds)
        for operation in txn.success if holds else txn.failure:
            if type(operation) is Txn:
                self._choose(operation, path)

    def _holds(self, compare: Compare) -> bool:
        kv = self.kvs.get(compare.key)
        if compare.target is CompareTarget.VALUE:
            return kv is not None and kv.value == compare.value
        return (kv[_TARGET[compare.target]] if kv is not None else 0) == compare.value

    def _check(self, txn: Txn, path: list[bool]) -> None:
        operations = list(_chosen(txn, iter(path)))
        for operation in operations:
            if type(operation) is Put and operation.lease and operation.lease not in self.leases:
                raise LeaseNotFound("requested lease not found")
        for operation in operations:
            if type(operation) is Range:
                if operation.revision > self.revision:
                    raise EtcdUnavailable("future revision")
                if 0 < operation.revision < self.compacted:
                    raise EtcdCompacted("revision has been compacted")

    def _run(self, txn: Txn, path: Iterator[bool]) -> TxnResult:
        holds = next(path)
        responses: list[OperationResult] = []
        for operation in txn.success if holds else txn.failure:
            kind = type(operation)
            if kind is Put:
                self._put(operation.key, operation.value, operation.lease)
                responses.append(_PUT_RESULT)
            elif kind is Range:
                responses.append(self.range(operation))
            elif kind is Delete:
                found = self._live(operation.key, operation.range_end)
                for kv in found:
                    self._delete(kv)
                responses.append(DeleteResult(len(found)))
            else:
                responses.append(self._run(operation, path))
        return TxnResult(Outcome.COMMITTED if holds else Outcome.REJECTED, 0, responses)

    def _put(self, key: bytes, value: bytes, lease: int) -> None:
        old, revision = self.kvs.get(key), self.revision + 1
        if old is None:
            insort(self._keys, key)
            kv = KeyValue(key, value, revision, revision, 1, lease)
        else:
            if old.lease in self.leases:
                self.leases[old.lease].keys.pop(key, None)
            kv = KeyValue(key, value, old.create_revision, revision, old.version + 1, lease)
        if lease:
            self.leases[lease].keys[key] = None
        self.kvs[key] = kv
        self._past.setdefault(key, []).append(kv)
        self._events.append(Event(False, kv))

    def _delete(self, kv: KeyValue) -> None:
        del self.kvs[kv.key]
        del self._keys[bisect_left(self._keys, kv.key)]
        if kv.lease in self.leases:
            self.leases[kv.lease].keys.pop(kv.key, None)
        gone = KeyValue(kv.key, b"", 0, self.revision + 1, 0, 0)
        self._past.setdefault(kv.key, []).append(gone)
        self._events.append(Event(True, gone))

    def _commit(self) -> None:
        if self._events:
            events, self._events = self._events, []
            self.revision += 1
            self.log.append((self.revision, events))
            self.changed(self.revision, events)

    # Leases

    def lease_grant(self, ttl_s: int, lease_id: int = 0) -> int:
        if self.nospace:
            raise EtcdNoSpace("database space exceeded")
        if lease_id in self.leases:
            raise EtcdRequestError("lease already exists")
        if not lease_id:
            lease_id = self._next_lease
            self._next_lease += 1
        self.leases[lease_id] = Lease(lease_id, max(LEASE_TTL_MIN_S, ttl_s))
        return lease_id

    def lease_revoke(self, lease_id: int) -> None:
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            raise LeaseNotFound("requested lease not found")
        for key in sorted(lease.keys):
            self._delete(self.kvs[key])
        self._commit()

    # Upkeep

    def compact(self, revision: int) -> None:
        """Forget what was overwritten or deleted before a revision."""
        if revision > self.revision:
            raise EtcdError("future revision")
        if revision <= self.compacted:
            raise EtcdCompacted("revision has been compacted")
        self.compacted = revision
        for key, versions in list(self._past.items()):
            keep = next((at for at in range(len(versions), 0, -1) if versions[at - 1].mod_revision <= revision), 1) - 1
            if versions[keep].version == 0 and versions[keep].mod_revision <= revision:
                keep += 1
            del versions[:keep]
            if not versions:
                del self._past[key]
        del self.log[: bisect_left(self.log, revision, key=lambda entry: entry[0])]


def _chosen(txn: Txn, path: Iterator[bool]) -> Iterator[Operation]:
    """The operations of the branches that will run."""
    for operation in txn.success if next(path) else txn.failure:
        if type(operation) is Txn:
            yield from _chosen(operation, path)
        else:
            yield operation


def _check_size(txn: Txn, room: int) -> None:
    """etcd counts each level by its longest list, and nested ones together with those around them."""
    longest = max(len(txn.compares), len(txn.success), len(txn.failure))
    if longest > room:
        raise EtcdRequestError("too many operations in txn request")
    for operation in (*txn.success, *txn.failure):
        if type(operation) is Txn:
            _check_size(operation, room - longest)


def _check_intervals(operations: Sequence[Operation]) -> tuple[set[bytes], list[tuple[bytes, bytes]]]:
    """No key twice in one transaction, unless in branches that exclude each other."""
    deletes = [(one.key, one.range_end or one.key + b"\0") for one in operations if type(one) is Delete]
    puts: set[bytes] = set()
    for operation in operations:
        if type(operation) is not Txn:
            continue
        then, then_deletes = _check_intervals(operation.success)
        other, other_deletes = _check_intervals(operation.failure)
        for key in sorted(then | other):
            _check_key(key, puts, deletes)
        puts |= then | other
        deletes += then_deletes + other_deletes
    for operation in operations:
        if type(operation) is Put:
            _check_key(operation.key, puts, deletes)
            puts.add(operation.key)
    return puts, deletes


def _check_key(key: bytes, puts: set[bytes], deletes: list[tuple[bytes, bytes]]) -> None:
    if key in puts or any(start <= key < end for start, end in deletes):
        raise EtcdRequestError("duplicate key given in txn request")


def _has_put(operations: Sequence[Operation]) -> bool:
    return any(
        type(one) is Put or (type(one) is Txn and (_has_put(one.success) or _has_put(one.failure)))
        for one in operations
    )


def _size(txn: Txn) -> int:
    """About what the request weighs on the wire."""
    size = sum(len(compare.key) + 16 for compare in txn.compares)
    for operation in (*txn.success, *txn.failure):
        kind = type(operation)
        if kind is Put:
            size += len(operation.key) + len(operation.value) + 16
        elif kind is Txn:
            size += _size(operation)
        else:
            size += len(operation.key) + 16
    return size
