"""A look at CBOR's structure before a library decodes it.

Documents come from strangers, and a general decoder turns tags into dates, regular expressions and big numbers, and
takes many forms of one value. Attestation documents need none of that: this walk lets through what their writers write
(natural numbers, strings, arrays, maps and null, each head in its shortest form, of indefinite length maps alone).
"""

from __future__ import annotations

MAX_DEPTH = 2
"""Nesting of containers: a document's map holds `pcrs` or `cabundle`, COSE's array its unprotected header."""

MAX_ITEMS = 128
"""A document has 91 at most: itself, 9 fields with their names (18), 32 registers with their indexes (64), and 8
certificates. Bounded before anything is decoded, so that 16 KiB of one-byte items cost no more than a document."""

_NATURAL, _BYTES, _TEXT, _ARRAY, _MAP, _SIMPLE = 0, 2, 3, 4, 5, 7
_NULL = 22
_INDEFINITE = 31
_ONE_BYTE, _EIGHT_BYTES = 24, 27
_BREAK = 0xFF
_UNBOUNDED = -1


class StructureError(ValueError):
    """Bytes that are no single CBOR item of the profile; the text is a clause without its subject."""


def check_single_item(data: bytes) -> None:
    """Return if `data` is exactly one well-formed CBOR item (RFC 8949, section 3) of what documents are made of.

    That an indefinite map has as many values as keys is left to the decoder. Raises `StructureError`. Time and memory
    are linear in `data`.
    """
    # What each open container still expects: a number of items, or _UNBOUNDED until its break byte.
    open_: list[int] = []
    position = _step(data, 0, open_)
    items = 1
    while open_:
        position = _step(data, position, open_)
        items += 1
        if items > MAX_ITEMS:
            raise StructureError(f"has more than {MAX_ITEMS} items")
    if position != len(data):
        raise StructureError(f"has {len(data) - position} bytes after its end")


def _step(data: bytes, position: int, open_: list[int]) -> int:
    """Read one head (and its string) or one break byte, keep the open containers, and return where it ends."""
    if position >= len(data):
        raise StructureError("ends in the middle of an item")
    if data[position] == _BREAK:
        if not open_ or open_.pop() != _UNBOUNDED:
            raise StructureError("has a break byte outside an indefinite item")
        position += 1
    else:
        major, argument, position = _head(data, position)
        if open_ and open_[-1] > 0:
            open_[-1] -= 1
        if major in (_ARRAY, _MAP):
            open_.append(_UNBOUNDED if argument is None else argument * (1 + (major == _MAP)))
            if len(open_) > MAX_DEPTH:
                raise StructureError(f"nests containers more than {MAX_DEPTH} deep")
        elif major in (_BYTES, _TEXT):
            if argument is None or argument > len(data) - position:
                raise StructureError("has a string that is longer than the document")
            position += argument
    while open_ and open_[-1] == 0:
        open_.pop()
    return position


def _head(data: bytes, position: int) -> tuple[int, int | None, int]:
    """Return an item's major type, its argument (None: indefinite) and the position after its head."""
    major, information = data[position] >> 5, data[position] & 0x1F
    position += 1
    if major not in (_NATURAL, _BYTES, _TEXT, _ARRAY, _MAP) and (major, information) != (_SIMPLE, _NULL):
        raise StructureError("has an item that is no natural number, string, array, map or null")
    if information == _INDEFINITE and major == _MAP:
        return major, None, position
    if information < _ONE_BYTE:
        return major, information, position
    if information > _EIGHT_BYTES:
        raise StructureError("has an item with a reserved head, or of indefinite length that is no map")
    width = 1 << (information - _ONE_BYTE)
    argument = int.from_bytes(data[position : position + width])
    if position + width > len(data):
        raise StructureError("ends in the middle of an item")
    if argument < (_ONE_BYTE if width == 1 else 1 << (4 * width)):
        raise StructureError("has an item whose head is not in its shortest form")
    return major, argument, position + width
