"""How often `GET /attestation` may be asked: by a tenant with its API key, or without one by address. Pure."""

from __future__ import annotations

import math
from collections import OrderedDict

from dataplane.protocol.errors import ProblemError
from dataplane.router.limits import TokenBucket

TENANT_PER_S = 5.0
TENANT_BURST = 20.0
"""With an API key: enough for a client that looks at each of a region's hosts once a minute, up to 300 of them."""

ADDRESS_PER_S = 1.0
ADDRESS_BURST = 5.0
"""Without one, of one address (an IPv6 /64): a person who tries, or a monitor that looks once a second."""

STRANGERS_PER_S = 20.0
STRANGERS_BURST = 40.0
"""Without one, of all addresses together: whoever has many addresses. A host makes one document a second for all who
ask, so this bounds the router's own work."""

MAX_ENTRIES = 4_096
"""Addresses, and tenants, that are remembered: about 200 bytes each, so 2 MB. The one heard of longest ago is forgotten
first, and is given a full bucket when it comes again; the limit of all together holds whatever is forgotten."""


class AttestationLimits:
    """Counts what was asked. `now` is seconds on any monotonic clock."""

    def __init__(self, *, now: float, max_entries: int = MAX_ENTRIES) -> None:
        """Nobody has asked yet."""
        self._max_entries = max_entries
        self._strangers = TokenBucket(rate=STRANGERS_PER_S, burst=STRANGERS_BURST, now=now)
        self._addresses: OrderedDict[str, TokenBucket] = OrderedDict()
        self._tenants: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._addresses) + len(self._tenants)

    def admit_tenant(self, tenant: str, *, now: float) -> None:
        """Count one question of a tenant whose key was right; raises `ProblemError` `tenant-over-limit`."""
        wait_s = self._bucket(self._tenants, tenant, TENANT_PER_S, TENANT_BURST, now).take(now)
        if wait_s > 0:
            raise ProblemError(
                "tenant-over-limit",
                f"The tenant asked for more than {TENANT_PER_S:g} attestation documents a second; wait as Retry-After "
                "says.",
                retry_after_s=math.ceil(wait_s),
            )

    def admit_address(self, address: str, *, now: float) -> None:
        """Count one question without an API key; raises `ProblemError` `overloaded`."""
        wait_s = self._bucket(self._addresses, address, ADDRESS_PER_S, ADDRESS_BURST, now).take(now)
        whose = f"{ADDRESS_PER_S:g} a second from one address"
        if wait_s == 0:
            wait_s = self._strangers.take(now)
            whose = f"{STRANGERS_PER_S:g} a second from all addresses"
        if wait_s > 0:
            raise ProblemError(
                "overloaded",
                f"Attestation documents without an API key are limited to {whose}; wait as Retry-After says, or send "
                "the header 'Authorization: Bearer' with a tenant's key.",
                retry_after_s=math.ceil(wait_s),
            )

    def _bucket(
        self, buckets: OrderedDict[str, TokenBucket], name: str, rate: float, burst: float, now: float
    ) -> TokenBucket:
        bucket = buckets.get(name)
        if bucket is None:
            bucket = buckets[name] = TokenBucket(rate=rate, burst=burst, now=now)
            if len(buckets) > self._max_entries:
                buckets.popitem(last=False)
        else:
            buckets.move_to_end(name)
        return bucket
