"""Keys under which anybody signs are no keys."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from dataplane.protocol.ed25519 import holds, is_weak
from dataplane.protocol.errors import OpenError
from dataplane.protocol.receipt import Receipt, verify_signature
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.note import VerifierKey

P = 2**255 - 19
EIGHT = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
ORDER_EIGHT = (EIGHT, P - EIGHT)
WEAK = [(y | sign << 255).to_bytes(32, "little") for y in (0, 1, P - 1, P, P + 1, *ORDER_EIGHT) for sign in (0, 1)]
NEUTRAL = (1).to_bytes(32, "little")
NOBODYS = NEUTRAL + bytes(32)
"""R the neutral point and S zero: it holds where the message's hash takes the key to the neutral point."""


def openssl_takes(key: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(NOBODYS, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def test_the_library_takes_what_nobody_signed() -> None:
    taken = [key for key in WEAK if any(openssl_takes(key, b"message %d" % number) for number in range(200))]
    assert {(int.from_bytes(key, "little") & ~(1 << 255)) % P for key in taken} == {0, 1, P - 1, *ORDER_EIGHT}, (
        "under every point of small order, which is why they are refused here"
    )


@pytest.mark.parametrize("key", WEAK, ids=[key.hex()[:8] + key.hex()[-2:] for key in WEAK])
def test_a_key_of_small_order_signs_nothing(key: bytes) -> None:
    assert is_weak(key), "in whatever encoding"
    assert not any(holds(key, NOBODYS, b"message %d" % number) for number in range(200)), "nothing holds under it"
    with pytest.raises(TransparencyError, match="no Ed25519 key"):
        VerifierKey.parse(str(VerifierKey("weak.example", key)))


def test_a_receipt_that_nobody_signed_does_not_hold() -> None:
    forged = Receipt(
        request=bytes(32),
        assurance=2,
        pcr0=bytes(48),
        region="us-east-1",
        instance="i-0",
        model_digest="",
        key=NEUTRAL,
        sig=NOBODYS,
    ).encode()
    with pytest.raises(OpenError, match="not its key's"):
        verify_signature(forged)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=64))
def test_a_made_key_is_not_weak_and_its_signatures_hold(seed: bytes, message: bytes) -> None:
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes_raw()
    assert not is_weak(public), "a secret makes none of these"
    assert holds(public, key.sign(message), message), "its word"
    assert not holds(public, key.sign(message), message + b"!"), "and of nothing else"


def test_what_is_no_signature_is_none() -> None:
    public = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    assert not holds(public, b"", b"message"), "of no length"
    assert not holds(public[:-1], bytes(64), b"message"), "nor under what is no key"
