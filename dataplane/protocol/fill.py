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

    A map that takes at least 28 bytes less than a multiple fills just that one.
    """
    return cbor.encode({**fields, FILL: fill_bytes(fields, multiple)})


def fill_bytes(fields: Mapping[str, object], multiple: int) -> bytes:
    """Return the zeros that `filled` adds."""
    least = len(cbor.encode({**fields, FILL: b""}))
    target = -(-least // multiple) * multiple
    while True:
        for head in _HEADS:
            # The empty string's head, one byte, is in `least` already.
            count = target - least + 1 - head
            if count >= 0 and len(cbor.encode(bytes(count))) == count + head:
                return bytes(count)
        target += multiple  # no string is just one byte longer than one of 23: lengths jump where heads grow
