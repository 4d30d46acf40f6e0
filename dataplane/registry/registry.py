"""The registry of hosts, as every sidecar sees it."""

from __future__ import annotations

from typing import Protocol

from dataplane.registry.host import HostRecord

HOST_TTL_S = 60
"""How long a record outlives its last report: 30 heartbeats of 2 s. Readers call a report stale much earlier."""


class Registry(Protocol):
    """Where hosts report and routers look. Every item has one writer: the host that it describes.

    Each call ends within the implementation's time limit, and raises RegistryError when it cannot be done.
    """

    async def put_host(self, record: HostRecord) -> None:
        """Write `record` over what is held of its host; a record older than the one held is dropped silently."""

    async def remove_host(self, region: str, instance_id: str) -> None:
        """Forget a host; forgetting one that is not held is no error."""

    async def hosts(self, region: str) -> tuple[HostRecord, ...]:
        """The hosts of a region by instance id, without those that have not reported for `HOST_TTL_S`."""
