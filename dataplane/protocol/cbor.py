"""CBOR (RFC 8949) with limits: the one way in and out for every map on the wire.

`cbor2` builds the values. In front of it stands a scan over the item heads that refuses what the protocol never
uses: tags (`cbor2` would turn them into regular expressions, dates or big numbers), indefinite lengths, deep nesting,
bytes after the item, lengths beyond the data, and more items than the caller's map can have. So the work is bounded by
what is allowed: `max_items` heads are looked at, whatever was sent, and what is left to copy are a few long strings.
"""

from __future__ import annotations

from typing import Any, Final

import cbor2

from dataplane.protocol.errors import MrgcError

MAX_DEPTH: Final = 8
"""Containers inside containers. The protocol's deepest map (header with `ctx`) needs 2."""

MAX_ITEMS: Final = 128
"""Items of one map, keys, values and containers counted, where the caller names no bound of its own. The protocol's
largest map (the header) has 29; 128 take under 0.3 ms to read."""

_MAJOR_BYTES, _MAJOR_TEXT, _MAJOR_ARRAY, _MAJOR_MAP, _MAJOR_TAG, _MAJOR_SIMPLE = 2, 3, 4, 5, 6, 7
_HEAD_DIRECT: Final = 24  # additional information below this is the argument itself
_HEAD_WIDTHS: Final = {24: 1, 25: 2, 26: 4, 27: 8}
_FALSE_TO_NULL: Final = range(20, 23)  # simple values false, true, null
_FLOATS: Final = range(25, 28)


class CborError(MrgcError, ValueError):
    """Bytes that are no CBOR item, or one beyond the limits; the text names position and fault, never content."""


def encode(value: object) -> bytes:
    """Return `value` in the deterministic encoding of RFC 8949, section 4.2.1.

    Text, bytes, integers, booleans, None, lists and maps with text keys; `CborError` for what `cbor2` cannot encode.
    """
    try:
        return cbor2.dumps(value, canonical=True)
    except (cbor2.CBORError, ValueError, TypeError) as error:
        raise CborError(f"a value of type {type(value).__name__} can't be written as CBOR") from error


def decode(
    data: bytes,
    *,
    max_bytes: int,
    max_items: int = MAX_ITEMS,
    max_depth: int = MAX_DEPTH,
    deterministic: bool = True,
) -> Any:
    """Read exactly one item from `data`.

    Raises `CborError` over `max_bytes`, over `max_items` (a map of one pair has three: itself, key and value), deeper
    than `max_depth`, on tags, indefinite lengths, duplicate keys, trailing bytes, and, unless `deterministic` is off,
    on any encoding other than the one that `encode` writes.
    """
    if len(data) > max_bytes:
        raise CborError(f"{len(data)} bytes of CBOR were given, and at most {max_bytes} are read here")
    end = _scan(data, max_items, max_depth)
    if end != len(data):
        raise CborError(f"{len(data) - end} bytes follow the CBOR item, and none may")
    try:
        value = cbor2.loads(data, max_depth=max_depth + 1, allow_indefinite=False, allow_duplicate_keys=False)
    except (cbor2.CBORError, ValueError, TypeError, RecursionError) as error:
        # `from None`: cbor2's text can quote a key, and keys may come from inside an envelope.
        raise CborError(f"CBOR is not valid ({type(error).__name__})") from None
    # Written again: with the items bounded this copies long strings (a mebibyte: under 1 ms) and little else.
    if deterministic and encode(value) != data:
        raise CborError("CBOR is not in the deterministic encoding of RFC 8949, section 4.2.1")
    return value


def decode_map(
    data: bytes, *, max_bytes: int, max_items: int = MAX_ITEMS, max_depth: int = MAX_DEPTH
) -> dict[str, Any]:
    """Read one deterministic map with text keys, limits as in `decode`; `CborError` for anything else."""
    value = decode(data, max_bytes=max_bytes, max_items=max_items, max_depth=max_depth)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise CborError("CBOR holds something other than a map with text keys")
    return value


def _scan(data: bytes, max_items: int, max_depth: int) -> int:
    """Walk over the item that `data` starts with and return where it ends; looks at `max_items` heads at most."""
    position, announced = 0, 1  # items known of so far
    open_items = [1]  # how many items each open container still waits for, the item itself first
    while open_items:
        if open_items[-1] == 0:
            open_items.pop()
            continue
        open_items[-1] -= 1
        major, argument, position = _head(data, position)
        if major in (_MAJOR_BYTES, _MAJOR_TEXT):
            if argument > len(data) - position:
                raise CborError(f"a CBOR string at byte {position} is longer than the data")
            position += argument
        elif major in (_MAJOR_ARRAY, _MAJOR_MAP):
            items = argument * (2 if major == _MAJOR_MAP else 1)
            if len(open_items) > max_depth:
                raise CborError(f"CBOR is nested deeper than allowed at byte {position}")
            if items > len(data) - position:  # every item takes at least one byte
                raise CborError(f"a CBOR container at byte {position} is longer than the data")
            announced += items
            if announced > max_items:
                raise CborError(f"CBOR has more than {max_items} items at byte {position}, and no map here has as many")
            open_items.append(items)
    return position


def _head(data: bytes, position: int) -> tuple[int, int, int]:
    """Read one item head: major type, argument, position after it."""
    if position >= len(data):
        raise CborError(f"CBOR ends at byte {position} within an item")
    major, additional = data[position] >> 5, data[position] & 0x1F
    if major == _MAJOR_TAG:
        raise CborError(f"a CBOR tag stands at byte {position}, and tags are not used here")
    if major == _MAJOR_SIMPLE and additional not in _FALSE_TO_NULL and additional not in _FLOATS:
        raise CborError(f"CBOR has an unknown simple value at byte {position}")
    position += 1
    if additional < _HEAD_DIRECT:
        return major, additional, position
    width = _HEAD_WIDTHS.get(additional)
    if width is None:
        raise CborError(f"CBOR has an indefinite or reserved length at byte {position - 1}")
    if width > len(data) - position:
        raise CborError(f"CBOR ends at byte {position} within an item")
    return major, int.from_bytes(data[position : position + width]), position + width
