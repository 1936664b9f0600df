"""gRPC over HTTP/2 as values: status codes, the message frame, time-outs, percent-encoded texts. Pure."""

import base64
import enum
import zlib
from urllib.parse import quote, unquote

Metadata = tuple[tuple[str, str], ...]
FRAME_HEADER_BYTES = 5
_TIMEOUT_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


class Status(enum.IntEnum):
    """gRPC status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16

    @property
    def camel_name(self) -> str:
        """The name as Go prints it, e.g. NotFound; OK stays OK, and Canceled has one l."""
        if self in {Status.OK, Status.CANCELLED}:
            return "OK" if self is Status.OK else "Canceled"
        return "".join(word.capitalize() for word in self.name.split("_"))


class RpcError(Exception):
    """A call that ended with a status other than OK. Handlers raise it, the client role raises it."""

    def __init__(self, status: Status, message: str = "", *, details: bytes = b"", metadata: Metadata = ()) -> None:
        """`details` is a serialised google.rpc.Status (the grpc-status-details-bin trailer)."""
        super().__init__(f"{status.name}: {message}")
        self.status = status
        self.message = message
        self.details = details
        self.metadata = metadata


def frame_message(message: bytes) -> bytes:
    """The message behind its five-byte prefix, uncompressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def encode_text(message: str, max_bytes: int = 4_096) -> str:
    """A status message as the grpc-message trailer carries it; one that is too long is cut between characters."""
    text = quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    while len(text) > max_bytes:
        message = message[: len(message) * max_bytes // len(text)]
        text = quote(message, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~")
    return text


def decode_text(text: str) -> str:
    """The other way; broken escapes stay as they are."""
    return unquote(text, errors="replace")


def encode_binary(value: bytes) -> str:
    """A -bin header's value."""
    return base64.b64encode(value).rstrip(b"=").decode()


def decode_binary(text: str) -> bytes:
    """The other way, padded or not. Raises ValueError."""
    return base64.b64decode(text + "=" * (-len(text) % 4))


def parse_timeout(text: str) -> float:
    """The grpc-timeout header in seconds. Raises ValueError."""
    if (
        not 2 <= len(text) <= 9
        or not text[:-1].isascii()
        or not text[:-1].isdigit()
        or text[-1] not in _TIMEOUT_UNITS_S
    ):
        raise ValueError(f"grpc-timeout {text!r} is not up to eight digits and one of H M S m u n")
    return int(text[:-1]) * _TIMEOUT_UNITS_S[text[-1]]


def format_timeout(timeout_s: float) -> str:
    """The grpc-timeout header for a positive number of seconds, rounded up."""
    micros = max(1, int(timeout_s * 1e6) + 1)
    if micros < 100_000_000:
        return f"{micros}u"
    millis = micros // 1000 + 1
    return f"{millis}m" if millis < 100_000_000 else f"{min(99_999_999, millis // 1000 + 1)}S"


def decompress(data: bytes, max_bytes: int) -> bytes | None:
    """Gunzip; None where more than `max_bytes` would come out, of which no more is made. Raises RpcError."""
    inflate = zlib.decompressobj(wbits=31)
    try:
        message = inflate.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise RpcError(Status.INTERNAL, f"compressed message does not decompress: {error}") from error
    if len(message) > max_bytes:
        return None
    if not inflate.eof:
        raise RpcError(Status.INTERNAL, "compressed message is cut short")
    return message
