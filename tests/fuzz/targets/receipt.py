"""The receipt, the final frame of a response."""

from __future__ import annotations

from dataplane.protocol import cbor
from dataplane.protocol.errors import OpenError
from dataplane.protocol.message import Receipt

SEEDS = [
    Receipt(
        request=bytes(32),
        assurance=1,
        pcr0=bytes(48),
        region="us-east-1",
        instance="i-0",
        model_digest="sha256:ab",
        wash={"id": "epoch", "time": 1},
    ).encode(),
    cbor.encode({"request": bytes(32)}),
]


def target(data: bytes) -> None:
    """Read; what is accepted has one form."""
    try:
        receipt = Receipt.decode(data)
    except OpenError:
        return
    assert receipt.encode() == data, "one form"
