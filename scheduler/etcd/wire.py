"""Records of api.py to etcd's messages and back."""

from collections.abc import Iterable

from scheduler._pb.etcd_api.v1 import etcd_pb2 as pb
from scheduler.etcd.api import (
    Compare,
    CompareTarget,
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

_TARGETS = {
    CompareTarget.VERSION: (pb.Compare.VERSION, "version"),
    CompareTarget.CREATE_REVISION: (pb.Compare.CREATE, "create_revision"),
    CompareTarget.MOD_REVISION: (pb.Compare.MOD, "mod_revision"),
    CompareTarget.VALUE: (pb.Compare.VALUE, "value"),
}
_PUT_RESULT = PutResult()


def range_request(request: Range) -> pb.RangeRequest:
    """A range read."""
    return pb.RangeRequest(
        key=request.key,
        range_end=request.range_end,
        limit=request.limit,
        revision=request.revision,
        keys_only=request.keys_only,
        count_only=request.count_only,
    )


def _compare(compare: Compare) -> pb.Compare:
    target, field = _TARGETS[compare.target]
    message = pb.Compare(result=pb.Compare.EQUAL, target=target, key=compare.key)
    setattr(message, field, compare.value)
    return message


def _operation(operation: Operation) -> pb.RequestOp:
    match operation:
        case Put(key, value, lease):
            return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))
        case Delete(key, range_end):
            return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, range_end=range_end))
        case Range():
            return pb.RequestOp(request_range=range_request(operation))
        case Txn(compares, success, failure):
            return pb.RequestOp(request_txn=txn_request(compares, success, failure))


def txn_request(
    compares: Iterable[Compare], success: Iterable[Operation], failure: Iterable[Operation]
) -> pb.TxnRequest:
    """A transaction."""
    return pb.TxnRequest(
        compare=[_compare(compare) for compare in compares],
        success=[_operation(operation) for operation in success],
        failure=[_operation(operation) for operation in failure],
    )


def key_value(kv: pb.KeyValue) -> KeyValue:
    """One key."""
    return KeyValue(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def range_result(response: pb.RangeResponse) -> RangeResult:
    """A range's answer."""
    return RangeResult(response.header.revision, [key_value(kv) for kv in response.kvs], response.more, response.count)


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
    return TxnResult(outcome, response.header.revision, [_operation_result(one) for one in response.responses])
