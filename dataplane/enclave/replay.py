"""The replay window: which (key, tenant, `rid`) this enclave has served, for as long as a copy would still be accepted.

A message is accepted while its `iat` lies within `header.py`'s window, so an entry is kept until that window has
passed it: at most 360 s (60 s ahead, 300 s back). Pure: time is an argument. An enclave that restarts has an empty
window; the promise is "at most once per enclave", and a new enclave is another one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any, TypeAlias

from dataplane.enclave.tenant_key import TenantKey
from dataplane.protocol.errors import ProblemError

MAX_ENTRIES = 262_144
"""Requests remembered: 728 a second for 360 s, ten times what one GPU host serves. An entry takes 114 bytes (digest 65,
owner shared, slots of a dictionary and a list), so a full window takes 28 MiB, and 45 while it grows. An owner takes
260 more: 33 MiB on top where each of an account's entries, half of the window, has an owner of its own."""

MAX_SHARE = 0.25
"""Part of the window that one tenant under one KMS key may fill: 182 requests a second for 360 s, more than a whole
host serves. Counted by key too, since anybody may write any tenant's name."""

MAX_ACCOUNT_SHARE = 0.5
"""Part that all keys of one AWS account may fill under whatever tenants' names, so that nobody can shut the others out
by being busy: names are free and keys are cheap, and KMS says which account a key belongs to."""

RETRY_AFTER_S = 5
"""What a refused tenant is told: entries lapse steadily, and another host may have room at once."""

SWEEP_ENTRIES = 2048
"""Lapsed entries dropped in one go, 1 ms: a second's bucket can hold half the window, and the loop waits for none."""

_BUCKET_MS = 1000

Owner: TypeAlias = bytes
"""Key and tenant as 32 bytes: what an entry costs does not depend on how long a name somebody chose."""


class ReplayWindow:
    """Remembers requests until they expire; refuses when it can't remember more."""

    def __init__(
        self,
        *,
        max_entries: int = MAX_ENTRIES,
        max_share: float = MAX_SHARE,
        max_account_share: float = MAX_ACCOUNT_SHARE,
    ) -> None:
        """Start empty, with room for `max_entries`; the shares are a tenant's under one key, and an account's."""
        self._max_entries = max_entries
        self._max_per_owner = max(1, int(max_entries * max_share))
        self._max_per_account = max(1, int(max_entries * max_account_share))
        self._seen: dict[bytes, Owner] = {}
        self._buckets: dict[int, list[bytes]] = {}
        self._owners: dict[Owner, tuple[Owner, str]] = {}
        """Each owner once, for its entries to share, and its key's account."""
        self._per_owner: Counter[Owner] = Counter()
        self._per_account: Counter[str] = Counter()
        self._now_ms = 0

    def __len__(self) -> int:
        """Entries held, lapsed ones that no call has swept yet included."""
        return len(self._seen)

    def record(self, *, key: TenantKey, tenant: str, rid: bytes, expires_ms: int, now_ms: int) -> None:
        """Remember a request whose message has authenticated under `key`, until `expires_ms` (ms since 1970).

        Raises `ProblemError`: `replayed` if it is known, `expired` if `expires_ms` has passed by the latest time that
        this window was ever told (a clock set back must not bring old requests to life), `overloaded` when the window
        is full, `tenant-over-limit` when the tenant's share under this key is, or the share of the key's account.
        """
        self.sweep(now_ms)
        owner = _owner(key, tenant)
        entry = hashlib.sha256(owner + rid).digest()
        if entry in self._seen:
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
        self._check_shares(owner, key.account)
        owner, account = self._owners.setdefault(owner, (owner, key.account))
        self._seen[entry] = owner
        self._per_owner[owner] += 1
        self._per_account[account] += 1
        self._buckets.setdefault(-(-expires_ms // _BUCKET_MS), []).append(entry)

    def _check_shares(self, owner: Owner, account: str) -> None:
        for who, held, most in (
            ("tenant under this key", self._per_owner[owner], self._max_per_owner),
            ("KMS key's account", self._per_account[account], self._max_per_account),
        ):
            if held >= most:
                raise ProblemError(
                    "tenant-over-limit",
                    f"The {who} has {most} requests in this enclave's replay window, its whole share.",
                    retry_after_s=RETRY_AFTER_S,
                )

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
            for entry in bucket[-left:]:
                owner = self._seen.pop(entry)
                _decrement(self._per_owner, owner)
                _decrement(self._per_account, self._owners[owner][1])
                if owner not in self._per_owner:
                    del self._owners[owner]
            if len(bucket) > left:
                del bucket[-left:]
                return True
            left -= len(bucket)
            del self._buckets[second]
            if not left:
                return any(second <= horizon for second in self._buckets)
        return False


def _decrement(counts: Counter[Any], name: object) -> None:
    """Count one less, and forget a name that has none: the counters stay as small as the window."""
    counts[name] -= 1
    if not counts[name]:
        del counts[name]


def _owner(key: TenantKey, tenant: str) -> Owner:
    """A fixed-size name of key and tenant; the lengths in front keep them apart."""
    parts = (key.identity.encode(), tenant.encode())
    return hashlib.sha256(b"".join(len(part).to_bytes(4) + part for part in parts)).digest()
