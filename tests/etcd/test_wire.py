"""Requests that are written by hand say what protobuf's own messages say."""

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler._pb.etcd_api.v1 import etcd_pb2 as pb
from scheduler.etcd.api import Compare, CompareTarget, Delete, Operation, Outcome, Put, Range, Txn
from scheduler.etcd.wire import range_request, txn_request, txn_result
from scheduler.protobuf import varint

_KEYS = st.binary(max_size=300)
_VALUES = st.one_of(st.binary(max_size=40), st.integers(0, 20_000).map(bytes))
_NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, (1 << 63) - 1))
_COMPARES = st.one_of(
    st.builds(Compare, _KEYS, st.sampled_from([*CompareTarget][:3]), _NUMBERS),
    st.builds(Compare, _KEYS, st.just(CompareTarget.VALUE), _VALUES),
)
_RANGES = st.builds(Range, _KEYS, _KEYS, _NUMBERS, _NUMBERS, st.booleans(), st.booleans())
_SIMPLE = st.one_of(st.builds(Put, _KEYS, _VALUES, _NUMBERS), st.builds(Delete, _KEYS, _KEYS), _RANGES)


def _tuples(of):
    return st.lists(of, max_size=4).map(tuple)


_OPERATIONS = st.recursive(
    _SIMPLE, lambda inner: st.builds(Txn, _tuples(_COMPARES), _tuples(inner), _tuples(inner)), max_leaves=8
)


def as_range(one: Range) -> pb.RangeRequest:
    return pb.RangeRequest(**one._asdict())


def as_compare(one: Compare) -> pb.Compare:
    target, field = {
        CompareTarget.VERSION: (pb.Compare.VERSION, "version"),
        CompareTarget.CREATE_REVISION: (pb.Compare.CREATE, "create_revision"),
        CompareTarget.MOD_REVISION: (pb.Compare.MOD, "mod_revision"),
        CompareTarget.VALUE: (pb.Compare.VALUE, "value"),
    }[one.target]
    return pb.Compare(result=pb.Compare.EQUAL, target=target, key=one.key, **{field: one.value})


def as_operation(one: Operation) -> pb.RequestOp:
    match one:
        case Put():
            return pb.RequestOp(request_put=pb.PutRequest(**one._asdict()))
        case Delete():
            return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(**one._asdict()))
        case Range():
            return pb.RequestOp(request_range=as_range(one))
        case Txn(compares, success, failure):
            return pb.RequestOp(request_txn=as_txn(compares, success, failure))


def as_txn(compares, success, failure) -> pb.TxnRequest:
    return pb.TxnRequest(
        compare=map(as_compare, compares), success=map(as_operation, success), failure=map(as_operation, failure)
    )


@settings(max_examples=40, deadline=None)
@given(_tuples(_COMPARES), _tuples(_OPERATIONS), _tuples(_OPERATIONS))
def test_a_transaction_is_what_protobuf_makes_of_it(compares, success, failure) -> None:
    written = txn_request(compares, success, failure)
    assert pb.TxnRequest.FromString(written) == as_txn(compares, success, failure)


@given(_RANGES)
def test_a_range_is_what_protobuf_makes_of_it(request) -> None:
    assert pb.RangeRequest.FromString(range_request(request)) == as_range(request)


@given(st.integers(0, (1 << 64) - 1))
def test_a_varint_is_protobufs(number) -> None:
    response = pb.ResponseHeader.FromString(b"\x08" + varint(number))
    assert response.cluster_id == number


def test_answers_are_read_when_they_are_asked_for() -> None:
    response = pb.TxnResponse(succeeded=True, header=pb.ResponseHeader(revision=7))
    response.responses.add().response_delete_range.deleted = 3
    response.responses.add().response_txn.succeeded = False
    result = txn_result(response)
    assert result.revision == 7 and len(result.responses) == 2
    assert result.responses[0].deleted == 3 and result.responses[-1].outcome is Outcome.REJECTED
    assert [*result.responses[:1]] == [*result.responses][:1]
