"""The key schedule: HKDF-SHA256 (RFC 5869) from a 32-byte secret and the header's hash to one key a direction."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from dataplane.protocol.errors import MrgcError
from dataplane.protocol.suite import Suite

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
SALT_BYTES: Final = 32
"""`rs`, the random salt that opens a response."""
OPENED_LABEL: Final = b"mrgc/1 opened"


class KeyScheduleError(MrgcError):
    """A secret or a salt of the wrong length; the text names the length only."""


@dataclass(frozen=True, slots=True)
class DirectionKeys:
    """AES-256-GCM key and nonce base of one direction."""

    key: bytes = field(repr=False)
    nonce: bytes = field(repr=False)


def hkdf_extract(salt: bytes, secret: bytes) -> bytes:
    """HKDF-Extract with SHA-256 (RFC 5869, section 2.2)."""
    return hmac.digest(salt, secret, "sha256")


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand with SHA-256 (RFC 5869, section 2.3)."""
    return HKDFExpand(algorithm=SHA256(), length=length, info=info).derive(prk)


def opened_digest(header_hash: bytes, keys: DirectionKeys) -> bytes:
    """SHA-256("mrgc/1 opened" || `header_hash` || key || nonce): which header and keys opened a request, 32 bytes.

    AES-GCM alone binds frames to no one key: a second one that opens the same frames to another text is searched for as
    a collision is. Who has signed this digest has said which one it was, and told nobody the keys.
    """
    return hashlib.sha256(OPENED_LABEL + header_hash + keys.key + keys.nonce).digest()


class KeySchedule:
    """All keys of one request, from `secret` (the CEK, or the hop's secret) and `prefix` (magic, version, header)."""

    def __init__(self, suite: Suite, prefix: bytes, secret: bytes) -> None:
        """Raise `KeyScheduleError` unless `secret` has 32 bytes."""
        if len(secret) != KEY_BYTES:
            raise KeyScheduleError(f"a data key of {len(secret)} bytes was given, and it must have {KEY_BYTES}")
        self._suite = suite
        self.header_hash = hashlib.sha256(prefix).digest()
        self._prk = hkdf_extract(self.header_hash, secret)

    def request(self) -> DirectionKeys:
        """Keys of the request's frames."""
        return self._direction(self._suite.request_key, self._suite.request_nonce, b"")

    def response(self, salt: bytes, transcript: bytes) -> DirectionKeys:
        """Keys of the response's frames: `salt` is `rs`, `transcript` is `th`, the hash of all request frames."""
        if len(salt) != SALT_BYTES:
            raise KeyScheduleError(f"a response salt of {len(salt)} bytes was given, and it must have {SALT_BYTES}")
        return self._direction(self._suite.response_key, self._suite.response_nonce, salt + transcript)

    def _direction(self, key_label: bytes, nonce_label: bytes, suffix: bytes) -> DirectionKeys:
        return DirectionKeys(
            hkdf_expand(self._prk, key_label + suffix, KEY_BYTES),
            hkdf_expand(self._prk, nonce_label + suffix, NONCE_BYTES),
        )
