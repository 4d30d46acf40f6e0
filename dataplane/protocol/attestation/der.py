"""Strict DER (X.690, section 10), as much of it as certificates need: one way to write each value, all others refused.

The general readers that are at hand take BER as well, or repair what they read with a warning; a closed profile needs
to know that the bytes that were signed are the only bytes for what was read.
"""

from __future__ import annotations

INTEGER, BIT_STRING, OCTET_STRING, OBJECT_IDENTIFIER, BOOLEAN = 0x02, 0x03, 0x04, 0x06, 0x01
UTF8_STRING, PRINTABLE_STRING, UTC_TIME = 0x0C, 0x13, 0x17
SEQUENCE, SET = 0x30, 0x31

TRUE = b"\xff"
"""DER's one form of a true BOOLEAN."""

_LONG_TAG = 0x1F
_LONG_FORM = 0x80
_MAX_LENGTH_BYTES = 2
"""65,535 bytes: a certificate of a document has at most 1,024."""


class DerError(ValueError):
    """Bytes that are not DER of the expected form; the text is a clause without its subject."""


class DerReader:
    """Takes one value after another from `data`; what is left over at `end` is an error."""

    def __init__(self, data: bytes) -> None:
        """Start at the first byte."""
        self._data = data
        self._position = 0

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self._position < len(self._data)

    def take(self, tag: int, what: str) -> bytes:
        """Return the content of the next value, which must have this tag."""
        return self.whole(tag, what)[1]

    def whole(self, tag: int, what: str) -> tuple[bytes, bytes]:
        """Return the next value, with its head and without."""
        data, start = self._data, self._position
        if data[start : start + 1] != bytes([tag]):
            raise DerError(f"has no {what} where it belongs")
        head, length = _length(data[start + 1 : start + 2 + _MAX_LENGTH_BYTES])
        begin = start + 1 + head
        end = begin + length
        if end > len(data):
            raise DerError("ends in the middle of a value")
        self._position = end
        return data[start:end], data[begin:end]

    def starts(self, tag: int) -> bool:
        """Whether the next value has this tag."""
        return self._data[self._position : self._position + 1] == bytes([tag])

    def inner(self, tag: int, what: str) -> DerReader:
        """Return a reader of the next value's content."""
        return DerReader(self.take(tag, what))

    def end(self, what: str) -> None:
        """Return if nothing is left of `what`."""
        if self.more:
            raise DerError(f"has a value too many in {what}")


def integer(content: bytes, what: str) -> int:
    """Return a positive INTEGER from its content, in the shortest form."""
    if not content or content[0] >= 0x80 or not any(content):  # noqa: PLR2004 - the sign bit
        raise DerError(f"has {what} that is not positive")
    if len(content) > 1 and content[0] == 0 and content[1] < 0x80:  # noqa: PLR2004 - the sign bit
        raise DerError(f"has {what} that is not in its shortest form")
    return int.from_bytes(content)


def only(data: bytes, tag: int, what: str) -> bytes:
    """Return the content of the one value that `data` is."""
    reader = DerReader(data)
    content = reader.take(tag, what)
    reader.end(what)
    return content


def _length(octets: bytes) -> tuple[int, int]:
    """Return how many octets a length takes, and the length; the shortest form alone (X.690, section 10.1)."""
    if not octets:
        raise DerError("ends in the middle of a value")
    first = octets[0]
    if first < _LONG_FORM:
        return 1, first
    count = first - _LONG_FORM
    if not 0 < count <= _MAX_LENGTH_BYTES or len(octets) <= count:
        raise DerError("has a length that is indefinite, too long or cut off")
    length = int.from_bytes(octets[1 : 1 + count])
    if length < _LONG_FORM or length >> (8 * (count - 1)) == 0:
        raise DerError("has a length that is not in its shortest form")
    return 1 + count, length
