"""A tenant's limits: requests per minute, and requests in flight. Pure; the caller passes the time."""

from __future__ import annotations

import math
from collections.abc import Collection

from dataplane.protocol.errors import ProblemError

BURST_S = 10.0
"""Seconds' worth of requests that a tenant may send at once after a pause: a page that fires a few requests together
is not refused, and a host's queue still never sees a whole minute's allowance in one moment."""


class TokenBucket:
    """`rate` tokens a second, at most `burst` saved up (and at least one)."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        """Start full. `rate` > 0."""
        self.rate = rate
        self.burst = max(1.0, burst)
        self._tokens = self.burst
        self._at = now

    def take(self, now: float) -> float:
        """Take one token and return 0.0, or take none and return the seconds until there is one."""
        self._tokens = min(self.burst, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = max(self._at, now)
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        return (1.0 - self._tokens) / self.rate


class Lease:
    """One request's place within its tenant's limit; `release` gives it back, and only the first time counts."""

    __slots__ = ("_account",)

    def __init__(self, account: _Account) -> None:
        """Count the request in."""
        self._account: _Account | None = account
        account.in_flight += 1

    def release(self) -> None:
        """Give the place back."""
        account, self._account = self._account, None
        if account is not None:
            account.in_flight -= 1


class _Account:
    """One tenant's bucket and count."""

    __slots__ = ("bucket", "in_flight", "per_minute")

    def __init__(self, per_minute: int, now: float) -> None:
        rate = per_minute / 60.0
        self.per_minute = per_minute
        self.bucket = TokenBucket(rate=rate, burst=rate * BURST_S, now=now)
        self.in_flight = 0


class TenantLimits:
    """All tenants' counts. Bounded by the number of tenants in the file: call `keep_only` when that changes."""

    def __init__(self) -> None:
        """Start with nobody in flight."""
        self._accounts: dict[str, _Account] = {}

    def in_flight(self, tenant: str) -> int:
        """Return how many requests the tenant has in flight."""
        account = self._accounts.get(tenant)
        return 0 if account is None else account.in_flight

    def admit(self, tenant: str, *, max_in_flight: int, per_minute: int, now: float) -> Lease:
        """Count one request in, or raise `ProblemError` `tenant-over-limit` with `Retry-After`.

        A request refused for its tenant's requests in flight costs no token: it did no work.
        """
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account(per_minute, now)
        elif account.per_minute != per_minute:
            fresh = _Account(per_minute, now)
            account.per_minute, account.bucket = fresh.per_minute, fresh.bucket
        if account.in_flight >= max_in_flight:
            raise ProblemError(
                "tenant-over-limit",
                f"The tenant has {account.in_flight} requests in flight, the most is {max_in_flight}; wait for one.",
                retry_after_s=1,
            )
        wait_s = account.bucket.take(now)
        if wait_s > 0.0:
            raise ProblemError(
                "tenant-over-limit",
                f"The tenant sent more than its {per_minute} requests per minute; wait as Retry-After says.",
                retry_after_s=max(1, math.ceil(wait_s)),
            )
        return Lease(account)

    def keep_only(self, tenants: Collection[str]) -> None:
        """Forget tenants that are gone and have nothing in flight."""
        for name in [n for n, a in self._accounts.items() if n not in tenants and a.in_flight == 0]:
            del self._accounts[name]
