"""What an operator does to etcd: compact, defragment, disarm. Plain grpcio; the few messages are spelled by hand."""

import grpc


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _call(target: str, method: str, request: bytes, timeout_s: float = 10.0) -> bytes:
    with grpc.insecure_channel(target) as channel:
        answer: bytes = channel.unary_unary(f"/etcdserverpb.{method}")(request, timeout=timeout_s)
        return answer


def compact(target: str, revision: int) -> None:
    """Forget history below a revision; one that is compacted already is no error."""
    try:
        _call(target, "KV/Compact", b"\x08" + _varint(revision))
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.OUT_OF_RANGE:
            raise


def defragment(target: str) -> None:
    _call(target, "Maintenance/Defragment", b"", timeout_s=30)


def disarm_no_space(target: str, member_ids: list[int]) -> None:
    """Take the NOSPACE alarm of these members away."""
    for member_id in member_ids:
        _call(target, "Maintenance/Alarm", b"\x08\x02\x10" + _varint(member_id) + b"\x18\x01")
