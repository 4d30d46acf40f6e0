"""CBOR on the wire: read in one form only, and at a cost that the bounds set, not the sender."""

from __future__ import annotations

from dataplane.protocol import cbor
from dataplane.protocol.suite import MAX_MESSAGE_BYTES
from tests.fuzz.choices import Choices
from tests.fuzz.harness import step

MEASURES_ITSELF = True
AMPLIFY = 0xFE
"""First byte (no item starts with it) of an input that stands for a larger one: a start, and a part repeated."""

SEEDS = [
    cbor.encode({"path": "/v1/completions", "content_type": "application/json", "body": b"{}"}),
    cbor.encode({"a": [1, -1, None, True, 0.5, 1e300], "b": {"c": "ä"}, "": 2**64 - 1}),
    b"\xfb\x7f\xf8\0\0\0\0\0\0",
    b"\x9f\x01\xff",
    b"\xc2\x41\x01",
    bytes([AMPLIFY, 5]) + b"\x9a\x00\x0f\xff\xf0" + b"\xa0",
    bytes([AMPLIFY, 1]) + b"\x81" + b"\x81",
    bytes([AMPLIFY, 5]) + b"\x7a\x00\x0f\xff\xf0" + "ä".encode(),
    bytes([AMPLIFY, 3]) + b"\x99\xff\xff" + b"\xfb\x3f\xb9\x99\x99\x99\x99\x99\x9a",
]


def target(data: bytes) -> None:
    """Read; what is accepted must be the deterministic form of what it says."""
    if data[:1] == bytes([AMPLIFY]):
        choices = Choices(data[1:])
        start, unit = choices.raw(choices.number(16)), choices.rest() or b"\0"
        data = (start + unit * (MAX_MESSAGE_BYTES // len(unit)))[:MAX_MESSAGE_BYTES]
    for deterministic, items in ((True, 7), (True, cbor.MAX_ITEMS), (False, cbor.MAX_ITEMS)):
        _read(data, deterministic=deterministic, items=items)


def _read(data: bytes, *, deterministic: bool, items: int) -> None:
    def read() -> object:
        return cbor.decode(data, max_bytes=MAX_MESSAGE_BYTES, max_items=items, deterministic=deterministic)

    try:
        value = step(read)
    except cbor.CborError:
        return
    if deterministic:
        assert cbor.encode(value) == data, "what is accepted has one form"
