"""Ed25519 (RFC 8032) with one thing more refused than the library does: keys under which anybody signs.

A public key of small order is a point that some multiple of at most eight makes neutral. Under it a signature that
nobody's secret made holds for one message in eight, so what it signed is nobody's word. RFC 8032 leaves their refusal
open, and OpenSSL takes them.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_P: Final = 2**255 - 19
_ORDER_EIGHT: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
"""This and its negative are the y of the four points of order eight; 0, 1 and -1 are those of order four, one and two.
There are no others: "Taming the many EdDSAs" (Chalkias, Garillot, Nikolaenko, 2020), table 1."""

_SMALL: Final = frozenset({0, 1, _P - 1, _ORDER_EIGHT, _P - _ORDER_EIGHT})
_SIGN_BIT: Final = 1 << 255


def is_weak(public_key: bytes) -> bool:
    """Say whether a public key's 32 bytes are a point of small order, in whatever encoding."""
    y = int.from_bytes(public_key, "little") & ~_SIGN_BIT
    return y % _P in _SMALL


def holds(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Say whether `signature` is the word of whoever has `public_key`'s secret."""
    if is_weak(public_key):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
