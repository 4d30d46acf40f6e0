"""The replay window: which (`tenant`, `rid`) this enclave has served, for as long as a copy would still be accepted.

A message is accepted while its `iat` lies within `header.py`'s window, so an entry is kept until that window has
passed it: at most 360 s (60 s ahead, 300 s back). Pure: time is an argument. An enclave that restarts has an empty
window; the promise is "at most once per enclave", and a new enclave is another one.
"""

from __future__ import annotations

import hashlib
from collections import Counter

from dataplane.protocol.errors import ProblemError

MAX_ENTRIES = 262_144
"""Requests remembered: 728 a second for 360 s, ten times what one GPU host serves. An entry takes 114 bytes (digest 65,
tenant's name shared, slots of a dictionary and a list), so a full window takes 28 MiB, and 45 while it grows."""

MAX_SHARE = 0.5
"""Part of the window that one tenant may fill, so that no tenant can shut the others out by being busy."""

RETRY_AFTER_S = 5
"""What a refused tenant is told: entries lapse steadily, and another host may have room at once."""

SWEEP_ENTRIES = 2048
"""Lapsed entries dropped in one go, 1 ms: a second's bucket can hold half the window, and the loop waits for none."""

_BUCKET_MS = 1000


class ReplayWindow:
    """Remembers requests until they expire; refuses when it can't remember more."""

    def __init__(self, *, max_entries: int = MAX_ENTRIES, max_share: float = MAX_SHARE) -> None:
        """Start empty, with room for `max_entries` (of which one tenant may hold `max_share`)."""
        self._max_entries = max_entries
        self._max_per_tenant = max(1, int(max_entries * max_share))
        self._seen: dict[bytes, str] = {}
        self._buckets: dict[int, list[bytes]] = {}
        self._per_tenant: Counter[str] = Counter()
        self._now_ms = 0

    def __len__(self) -> int:
        """Entries held, lapsed ones that no call has swept yet included."""
        return len(self._seen)

    def record(self, *, tenant: str, rid: bytes, expires_ms: int, now_ms: int) -> None:
        """Remember a request whose message has authenticated, until `expires_ms` (ms since 1970).

        Raises `ProblemError`: `replayed` if it is known, `expired` if `expires_ms` has passed by the latest time that
        this window was ever told (a clock set back must not bring old requests to life), `overloaded` when the window
        is full, `tenant-over-limit` when the tenant's share is.
        """
        self.sweep(now_ms)
        key = _key(tenant, rid)
        if key in self._seen:
            raise ProblemError(
                "replayed",
                f"The request {rid.hex()} was already served by this enclave; seal it anew to ask again.",
            )
        if expires_ms <= self._now_ms:
            raise ProblemError(
                "expired", "The request was sealed too long ago for this enclave to tell it from a copy; seal it anew."
            )
        if len(self._seen) >= self._max_entries:
            raise ProblemError(
                "overloaded",
                f"The enclave remembers {self._max_entries} requests and can't take more without risking a replay.",
                retry_after_s=RETRY_AFTER_S,
            )
        if self._per_tenant[tenant] >= self._max_per_tenant:
            raise ProblemError(
                "tenant-over-limit",
                f"The tenant has {self._max_per_tenant} requests in this enclave's replay window, its whole share.",
                retry_after_s=RETRY_AFTER_S,
            )
        self._seen[key] = tenant
        self._per_tenant[tenant] += 1
        self._buckets.setdefault(-(-expires_ms // _BUCKET_MS), []).append(key)

    def sweep(self, now_ms: int) -> bool:
        """Forget `SWEEP_ENTRIES` of what has lapsed, the oldest first; say whether more of it is left.

        Every request sweeps more than it adds. A lapsed entry that is still there keeps a place until then, and its
        copy is refused as `replayed` instead of `expired`.
        """
        self._now_ms = max(self._now_ms, now_ms)
        horizon = self._now_ms // _BUCKET_MS
        left = SWEEP_ENTRIES
        for second in sorted(second for second in self._buckets if second <= horizon):
            bucket = self._buckets[second]
            for key in bucket[-left:]:
                tenant = self._seen.pop(key)
                self._per_tenant[tenant] -= 1
                if not self._per_tenant[tenant]:
                    del self._per_tenant[tenant]
            if len(bucket) > left:
                del bucket[-left:]
                return True
            left -= len(bucket)
            del self._buckets[second]
            if not left:
                return any(second <= horizon for second in self._buckets)
        return False


def _key(tenant: str, rid: bytes) -> bytes:
    """A fixed-size name of the pair; the length in front keeps tenant and rid apart."""
    name = tenant.encode()
    return hashlib.sha256(len(name).to_bytes(4) + name + rid).digest()
