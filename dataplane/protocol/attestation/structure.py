"""A look at CBOR's structure before a library decodes it.

Documents come from strangers, and a general decoder turns tags into dates, regular expressions and big numbers.
Attestation documents need none of that: this walk refuses tags, deep nesting, and bytes after the one item.
"""

from __future__ import annotations

MAX_DEPTH = 4
"""Nesting of containers: a document's map holds `pcrs` or `cabundle` (2); two more for fields not yet known."""

_BYTES, _TEXT, _ARRAY, _MAP, _TAG = 2, 3, 4, 5, 6
_INDEFINITE = 31
_ONE_BYTE, _EIGHT_BYTES = 24, 27
_BREAK = 0xFF
_UNBOUNDED = -1


def check_single_item(data: bytes) -> None:
    """Return if `data` is exactly one well-formed, untagged CBOR item (RFC 8949, section 3).

    Raises `ValueError` saying what is wrong. Time and memory are linear in `data`.
    """
    # What each open container still expects: a number of items, or _UNBOUNDED until its break byte.
    open_: list[int] = []
    position = _step(data, 0, open_)
    while open_:
        position = _step(data, position, open_)
    if position != len(data):
        raise ValueError(f"has {len(data) - position} bytes after its end")


def _step(data: bytes, position: int, open_: list[int]) -> int:
    """Read one head (and its string) or one break byte, keep the open containers, and return where it ends."""
    if position >= len(data):
        raise ValueError("ends in the middle of an item")
    if data[position] == _BREAK:
        if not open_ or open_.pop() != _UNBOUNDED:
            raise ValueError("has a break byte outside an indefinite item")
        position += 1
    else:
        major, argument, position = _head(data, position)
        if open_ and open_[-1] > 0:
            open_[-1] -= 1
        if major in (_ARRAY, _MAP):
            open_.append(_UNBOUNDED if argument is None else argument * (1 + (major == _MAP)))
            if len(open_) > MAX_DEPTH:
                raise ValueError(f"nests containers more than {MAX_DEPTH} deep")
        elif major in (_BYTES, _TEXT):
            # Strings in chunks are allowed by CBOR and written by no NSM.
            if argument is None or argument > len(data) - position:
                raise ValueError("has a string that is longer than the document")
            position += argument
    while open_ and open_[-1] == 0:
        open_.pop()
    return position


def _head(data: bytes, position: int) -> tuple[int, int | None, int]:
    """Return an item's major type, its argument (None: indefinite) and the position after its head."""
    major, information = data[position] >> 5, data[position] & 0x1F
    position += 1
    if major == _TAG:
        raise ValueError("has a tagged item")
    if information == _INDEFINITE and major in (_BYTES, _TEXT, _ARRAY, _MAP):
        return major, None, position
    if information < _ONE_BYTE:
        return major, information, position
    if information > _EIGHT_BYTES:
        raise ValueError("has an item with a reserved head")
    width = 1 << (information - _ONE_BYTE)
    argument = data[position : position + width]
    if len(argument) != width:
        raise ValueError("ends in the middle of an item")
    return major, int.from_bytes(argument), position + width
