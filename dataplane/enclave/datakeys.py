"""Data keys in use: which are held and for how long. Pure; `keyring.py` fills it from KMS.

A data key serves a whole session, so a session costs one KMS call at each enclave that it reaches. A key is held for
at most 5 minutes, never beyond `mrgc:expires`, and none survives a car wash.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.protocol import cbor

MAX_HOLD_S = 300.0
"""Longest time that a data key is held (protocol, "Enclave and attestation")."""

MAX_KEYS = 4096
"""Sessions held at once; the least recently used goes first. About 500 bytes each, 2 MiB in all."""


def key_name(*, kms: str, context: Mapping[str, str], wrapped: bytes) -> bytes:
    """Return the cache's name of a data key: SHA-256 of the deterministic CBOR of all that KMS would be asked."""
    return hashlib.sha256(cbor.encode([kms, dict(context), wrapped])).digest()


@dataclass(frozen=True, slots=True)
class _Held:
    cek: bytes = field(repr=False)
    until_s: float
    expires_ms: int


class DataKeyCache:
    """Data keys by name, bounded in number and time.

    Two clocks count: `now_s` (monotonic, s) bounds how long a key is held whatever happens to the wall clock, and
    `now_ms` (wall, ms since 1970) is what `mrgc:expires` is told in.
    """

    def __init__(self, *, max_keys: int = MAX_KEYS, max_hold_s: float = MAX_HOLD_S) -> None:
        """Start empty."""
        self._max_keys = max_keys
        self._max_hold_s = max_hold_s
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self.generation = 0

    def __len__(self) -> int:
        """Keys held, lapsed ones that no call has dropped yet included."""
        return len(self._held)

    def get(self, name: bytes, *, now_s: float, now_ms: int) -> bytes | None:
        """Return the 32-byte key, or None when it is not held or has lapsed (then it is dropped)."""
        held = self._held.get(name)
        if held is None:
            return None
        if now_s >= held.until_s or now_ms >= held.expires_ms:
            del self._held[name]
            return None
        self._held.move_to_end(name)
        return held.cek

    def put(self, name: bytes, cek: bytes, *, expires_ms: int, generation: int, now_s: float, now_ms: int) -> bool:
        """Hold a key, unless its session is over or a wash came after `generation`; say whether it is held."""
        if generation != self.generation or now_ms >= expires_ms:
            return False
        self.sweep(now_s=now_s, now_ms=now_ms)
        while len(self._held) >= self._max_keys:
            self._held.popitem(last=False)
        self._held[name] = _Held(cek, now_s + self._max_hold_s, expires_ms)
        return True

    def sweep(self, *, now_s: float, now_ms: int) -> None:
        """Drop what has lapsed; called now and then, so that an idle enclave holds no old key."""
        for name in [n for n, h in self._held.items() if now_s >= h.until_s or now_ms >= h.expires_ms]:
            del self._held[name]

    def drop_all(self) -> None:
        """Forget every key and refuse those that are on their way: a car wash."""
        self._held.clear()
        self.generation += 1
