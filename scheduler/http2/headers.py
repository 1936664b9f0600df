"""Header blocks: a bounded decoder in front of the hpack package, and an encoder that needs no state.

What we send never touches the peer's dynamic table, so constant blocks are made once and sent by reference. What we
receive is decoded by hpack; a block whose decoding left the table alone means the same until the table changes, and is remembered.
"""

from hpack import Decoder, HPACKError

Headers = list[tuple[str, str]]
_REMEMBERED_MAX = 256


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


class HeaderDecoder:
    """Decodes one connection's header blocks in order."""

    __slots__ = ("_decoder", "_remembered")

    def __init__(self, list_max_bytes: int) -> None:
        """`list_max_bytes` bounds the decoded list, as SETTINGS_MAX_HEADER_LIST_SIZE counts it."""
        self._decoder = Decoder(max_header_list_size=list_max_bytes)
        self._remembered: dict[bytes, Headers] = {}

    def decode(self, block: bytes) -> Headers:
        """Raises HPACKError (OversizedHeaderListError among them): a connection error of type COMPRESSION_ERROR."""
        known = self._remembered.get(block)
        if known is not None:
            return known
        table = self._decoder.header_table
        entries = table.dynamic_entries
        before = (entries[0] if entries else None, len(entries), table.maxsize)
        headers: Headers = []
        try:
            for name, value in self._decoder.decode(block, raw=True):
                headers.append((name.decode("ascii"), value.decode("latin-1")))
        except UnicodeDecodeError as error:
            raise HPACKError("header name is not ASCII") from error
        entries = table.dynamic_entries
        if before == (entries[0] if entries else None, len(entries), table.maxsize) and (
            not entries or entries[0] is before[0]
        ):
            if len(self._remembered) >= _REMEMBERED_MAX:
                self._remembered.clear()
            self._remembered[block] = headers
        else:
            self._remembered.clear()
        return headers
