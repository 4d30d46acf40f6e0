"""Maps whose encoded length says nothing of the numbers in them: filled with zeros up to a multiple.

CBOR writes a number in one to nine bytes, so a map of counts and times is longer the larger they are, and where it is a
frame of its own, its ciphertext tells that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dataplane.protocol import cbor

FILL: Final = "fill"
"""The member that is added; readers skip it."""

_HEADS: Final = (1, 2, 3)
"""Bytes of CBOR's head for a byte string of up to 23, 255 and 65,535 bytes."""


def filled(fields: Mapping[str, object], multiple: int) -> bytes:
    """Return `fields` and zeros in `fill` as CBOR whose length is a multiple of `multiple` (32 to 32,768).

    The zeros are two strings: lengths jump where a string's head grows, none is just one byte longer than one of 23,
    and a second of 0 or 1 byte closes that gap. So a map that is shorter than a multiple by its fill or more, 8 bytes,
    fills just that one.
    """
    return cbor.encode({**fields, FILL: fill_of(fields, multiple)})


def fill_of(fields: Mapping[str, object], multiple: int) -> list[bytes]:
    """Return the zeros that `filled` adds to `fields`."""
    least = len(cbor.encode({**fields, FILL: [b"", b""]}))
    target = -(-least // multiple) * multiple
    for second in (0, 1):
        for head in _HEADS:
            # The empty string's head, one byte, is in `least` already.
            count = target - least + 1 - head - second
            if count >= 0 and len(cbor.encode(bytes(count))) == count + head:
                return [bytes(count), bytes(second)]
    raise ValueError(f"no fill makes a multiple of {multiple} bytes; at most 32,768 are filled to")


def is_fill(value: object) -> bool:
    """Say whether `value` is a fill: a list of two strings of bytes."""
    return isinstance(value, list) and len(value) == len(("zeros", "rest")) and all(isinstance(v, bytes) for v in value)
