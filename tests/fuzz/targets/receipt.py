"""The receipt, the final frame of a response, and its signature."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from dataplane.protocol import cbor
from dataplane.protocol.errors import OpenError
from dataplane.protocol.receipt import Receipt, verify_signature

RECEIPT = Receipt(
    request=bytes(32),
    assurance=1,
    pcr0=bytes(48),
    region="us-east-1",
    instance="i-0",
    model_digest="ab" * 32,
    wash={"id": "epoch", "time": 1},
    time=2,
    response=bytes(32),
    config_digest=bytes(32),
    proof={"binding": 1, "document": 2},
    usage={"prompt_tokens": 1},
    spans=(("worker.generate", 0, 1),),
)
SIGNED = RECEIPT.signed(Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)).encode()
SEEDS = [RECEIPT.encode(), SIGNED, cbor.encode({"request": bytes(32)})]


def target(data: bytes) -> None:
    """Read; what is accepted reads back as itself, and no other bytes carry the one signature that there is."""
    try:
        receipt = Receipt.decode(data)
    except OpenError:
        receipt = None
    if receipt is not None:
        assert Receipt.decode(receipt.encode()) == receipt, "what a reader keeps is what it read"
    try:
        verify_signature(data)
    except OpenError:
        return
    assert data == SIGNED, "a signature over other bytes"
