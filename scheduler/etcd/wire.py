"""Records of api.py to etcd's messages and back.

Requests are written by hand: a message object per operation was two thirds of what a finished job's deletion cost. Within a message the part that
may be large comes last, and what is around it goes before it, so that a value is copied once, when the request is put together.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

from scheduler._pb.etcd_api.v1 import etcd_pb2 as pb
from scheduler.etcd.api import (
    Compare,
    Delete,
    DeleteResult,
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
from scheduler.protobuf import delimited, varint

# The fields `target` (an enum) and `key`, and the field of the target's value, by CompareTarget; result 0 is EQUAL.
_TARGETS = (
    (b"\x10\x00\x1a", b"\x20"),
    (b"\x10\x01\x1a", b"\x28"),
    (b"\x10\x02\x1a", b"\x30"),
    (b"\x10\x03\x1a", b"\x3a"),
)
_PUT_RESULT = PutResult()


def range_request(request: Range) -> bytes:
    """A range read."""
    key, range_end, limit, revision, keys_only, count_only = request
    encoded = delimited(b"\x0a", key)
    if range_end:
        encoded += delimited(b"\x12", range_end)
    if limit:
        encoded += b"\x18" + varint(limit)
    if revision:
        encoded += b"\x20" + varint(revision)
    if keys_only:
        encoded += b"\x40\x01"
    if count_only:
        encoded += b"\x48\x01"
    return encoded


def _compare(compare: Compare) -> bytes:
    key, target, value = compare
    head, tag = _TARGETS[target]
    encoded = varint(value) if isinstance(value, int) else varint(len(value)) + value
    return head + varint(len(key)) + key + tag + encoded


def _operation(operation: Operation, tag: bytes) -> tuple[bytes, ...]:
    """A RequestOp as a field, in parts."""
    if isinstance(operation, Put):
        key, value, lease = operation
        head = b"\x0a" + varint(len(key)) + key + b"\x12" + varint(len(value))
        if lease:
            head = b"\x18" + varint(lease) + head
        size = len(head) + len(value)
        put = b"\x12" + varint(size)
        return (tag + varint(len(put) + size) + put + head, value)
    if isinstance(operation, Txn):
        parts = _txn(*operation)
        size = sum(map(len, parts))
        txn = b"\x22" + varint(size)
        return (tag + varint(len(txn) + size) + txn, *parts)
    if isinstance(operation, Delete):
        key, range_end = operation
        request = b"\x0a" + varint(len(key)) + key
        if range_end:
            request += delimited(b"\x12", range_end)
        return (delimited(tag, delimited(b"\x1a", request)),)
    return (delimited(tag, delimited(b"\x0a", range_request(operation))),)


def _txn(compares: Iterable[Compare], success: Iterable[Operation], failure: Iterable[Operation]) -> list[bytes]:
    """The parts of a TxnRequest."""
    parts = [delimited(b"\x0a", _compare(compare)) for compare in compares]
    for operation in failure:
        parts += _operation(operation, b"\x1a")
    for operation in success:
        parts += _operation(operation, b"\x12")
    return parts


def txn_request(compares: Iterable[Compare], success: Iterable[Operation], failure: Iterable[Operation]) -> bytes:
    """A transaction."""
    return b"".join(_txn(compares, success, failure))


def key_value(kv: pb.KeyValue) -> KeyValue:
    """One key."""
    return KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def range_result(response: pb.RangeResponse) -> RangeResult:
    """A range's answer."""
    return RangeResult(response.header.revision, [key_value(kv) for kv in response.kvs], response.more, response.count)


class _Results(Sequence[OperationResult]):
    """A transaction's answers, each made when somebody looks: few do."""

    __slots__ = ("_responses",)

    def __init__(self, responses: Sequence[pb.ResponseOp]) -> None:
        self._responses = responses

    def __len__(self) -> int:
        return len(self._responses)

    @overload
    def __getitem__(self, index: int) -> OperationResult: ...
    @overload
    def __getitem__(self, index: slice) -> list[OperationResult]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [_operation_result(one) for one in self._responses[index]]
        return _operation_result(self._responses[index])

    def __iter__(self) -> Iterator[OperationResult]:
        return map(_operation_result, self._responses)


def _operation_result(response: pb.ResponseOp) -> OperationResult:
    match response.WhichOneof("response"):
        case "response_range":
            return range_result(response.response_range)
        case "response_delete_range":
            return DeleteResult(response.response_delete_range.deleted)
        case "response_txn":
            return txn_result(response.response_txn)
        case _:
            return _PUT_RESULT


def txn_result(response: pb.TxnResponse) -> TxnResult:
    """A transaction's answer."""
    outcome = Outcome.COMMITTED if response.succeeded else Outcome.REJECTED
    return TxnResult(outcome, response.header.revision, _Results(response.responses))
