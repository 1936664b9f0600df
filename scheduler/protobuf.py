"""Protobuf's wire format where making a message object costs more than all else: the few encodings of the hot paths stand on these two."""


def varint(number: int) -> bytes:
    """A varint; `number` is not negative."""
    if number < 0x80:
        return _ONE_BYTE[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number < 0x200000:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_ONE_BYTE = tuple(bytes((number,)) for number in range(0x80))


def delimited(tag: bytes, chunk: bytes) -> bytes:
    """A field of text, bytes or a message; `tag` is its number and wire type, encoded."""
    return tag + varint(len(chunk)) + chunk
