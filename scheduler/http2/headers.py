"""Header blocks: a bounded decoder in front of the hpack package, and an encoder that needs no state.

What we send never touches the peer's dynamic table, so constant blocks are made once and sent by reference. What we
receive is decoded by hpack; a block whose decoding left the table alone means the same until the table changes, and is remembered.
"""

from hpack import Decoder, HPACKError

Headers = list[tuple[str, str]]
# What is remembered is bounded: 256 lists of at most 2 KiB a connection.
_REMEMBERED_MAX, _REMEMBERED_BLOCK_BYTES, _REMEMBERED_LIST_BYTES = 256, 512, 2_048


def _integer(number: int, prefix_bits: int, first: int) -> bytes:
    """An HPACK integer (RFC 7541, 5.1) with the given bits above the prefix."""
    limit = (1 << prefix_bits) - 1
    if number < limit:
        return bytes((first | number,))
    encoded = bytearray((first | limit,))
    number -= limit
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


# Names with a static index (RFC 7541, appendix A) that we use.
_STATIC_NAMES = {":authority": 1, ":path": 4, ":status": 8, "content-type": 31, "user-agent": 58}
_STATIC_FIELDS = {
    (":method", "GET"): 2,
    (":method", "POST"): 3,
    (":scheme", "http"): 6,
    (":scheme", "https"): 7,
    (":status", "200"): 8,
    (":status", "400"): 12,
    (":status", "404"): 13,
}


def encode_field(name: str, value: str) -> bytes:
    """One field, literal without indexing unless the static table has it whole."""
    index = _STATIC_FIELDS.get((name, value))
    if index is not None:
        return bytes((0x80 | index,))
    data = value.encode("latin-1", "replace")
    index = _STATIC_NAMES.get(name)
    if index is not None:
        head = _integer(index, 4, 0x00)
    else:
        raw = name.encode("ascii", "replace")
        head = b"\0" + _integer(len(raw), 7, 0x00) + raw
    return head + _integer(len(data), 7, 0x00) + data


def encode_block(fields: Headers) -> bytes:
    """A whole header block."""
    return b"".join(encode_field(name, value) for name, value in fields)


class HeaderListTooLarge(Exception):
    """A header list above its limit; it was decoded all the same, so the connection can go on."""


class MalformedRequest(Exception):
    """Request headers that break RFC 9113, 8.1 to 8.3."""


class HeaderDecoder:
    """Decodes one connection's header blocks in order."""

    __slots__ = ("_decoder", "_list_max_bytes", "_remembered")

    def __init__(self, list_max_bytes: int, *, hard_max_bytes: int) -> None:
        """`list_max_bytes` bounds the decoded list, as SETTINGS_MAX_HEADER_LIST_SIZE counts it; past `hard_max_bytes` decoding stops."""
        self._decoder = Decoder(max_header_list_size=hard_max_bytes)
        self._list_max_bytes = list_max_bytes
        self._remembered: dict[bytes, Headers] = {}

    def decode(self, block: bytes) -> Headers:
        """Raises HeaderListTooLarge, and HPACKError (past the hard bound too): a connection error of type COMPRESSION_ERROR."""
        known = self._remembered.get(block)
        if known is not None:
            return known
        table = self._decoder.header_table
        entries = table.dynamic_entries
        before = (entries[0] if entries else None, len(entries), table.maxsize)
        headers: Headers = []
        size = 0
        try:
            for name, value in self._decoder.decode(block, raw=True):
                headers.append((name.decode("ascii"), value.decode("latin-1")))
                size += len(name) + len(value) + 32
        except UnicodeDecodeError as error:
            raise HPACKError("header name is not ASCII") from error
        entries = table.dynamic_entries
        if before != (entries[0] if entries else None, len(entries), table.maxsize) or (
            entries and entries[0] is not before[0]
        ):
            self._remembered.clear()
        elif len(block) <= _REMEMBERED_BLOCK_BYTES and size <= min(_REMEMBERED_LIST_BYTES, self._list_max_bytes):
            if len(self._remembered) >= _REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[block] = headers
        if size > self._list_max_bytes:
            raise HeaderListTooLarge(f"header list of {size} bytes is larger than the limit of {self._list_max_bytes}")
        return headers


_PSEUDO = frozenset({":method", ":scheme", ":path", ":authority"})
_OF_HTTP_1 = frozenset({"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"})


def check_request(headers: Headers, *, ended: bool) -> int | None:
    """The declared content-length, where the body is still to come and one is declared. Raises MalformedRequest."""
    pseudo: dict[str, str] = {}
    regular = False
    length: int | None = None
    for name, value in headers:
        if name[:1] == ":":
            if regular or name in pseudo or name not in _PSEUDO:
                raise MalformedRequest(f"pseudo header {name!r} out of place")
            pseudo[name] = value
            continue
        regular = True
        if not name.islower() and name != name.lower():
            raise MalformedRequest(f"header name {name!r} is not lower case")
        if name in _OF_HTTP_1:
            raise MalformedRequest(f"header {name!r} has no place in HTTP/2")
        if name == "te" and value != "trailers":
            raise MalformedRequest("te is not trailers")
        if name == "content-length":
            length = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else -1
    if not pseudo.get(":method") or not pseudo.get(":scheme") or not pseudo.get(":path"):
        raise MalformedRequest("a request needs :method, :scheme and :path")
    if length is not None and (length < 0 or (ended and length)):
        raise MalformedRequest("content-length does not match the body")
    return None if ended else length
