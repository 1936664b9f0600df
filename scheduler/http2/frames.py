"""HTTP/2 frames as bytes (RFC 9113, sections 4 and 6): numbers and builders. Parsing happens in place, in connection.py."""

import enum
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x01
END_HEADERS = 0x04
PADDED = 0x08
PRIORITY_FLAG = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

WINDOW_MAX = (1 << 31) - 1
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384

_HEAD = struct.Struct(">BHBBI").pack
_U32 = struct.Struct(">I").pack


class ErrorCode(enum.IntEnum):
    """RFC 9113, section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """A frame's nine bytes."""
    return _HEAD(length >> 16, length & 0xFFFF, kind, flags, stream_id)


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    body = b"".join(struct.pack(">HI", key, value) for key, value in values.items())
    return head(len(body), SETTINGS, 0, 0) + body


SETTINGS_ACK = head(0, SETTINGS, ACK, 0)


def rst_stream(stream_id: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return head(4, RST_STREAM, 0, stream_id) + _U32(code)


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return head(4, WINDOW_UPDATE, 0, stream_id) + _U32(increment)


def ping(data: bytes, *, ack: bool = False) -> bytes:
    """A PING frame of eight bytes."""
    return head(8, PING, ACK if ack else 0, 0) + data


def goaway(last_stream_id: int, code: int, text: str = "") -> bytes:
    """A GOAWAY frame with a reason that a person can read."""
    body = _U32(last_stream_id) + _U32(code) + text.encode()
    return head(len(body), GOAWAY, 0, 0) + body
