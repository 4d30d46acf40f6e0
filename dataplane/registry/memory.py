"""The registry in one process's memory: for one-process arrangements and as the reference for the others."""

from __future__ import annotations

from collections.abc import Callable

from dataplane.registry.host import HostRecord
from dataplane.registry.registry import HOST_TTL_S


class MemoryRegistry:
    """A Registry over a dictionary. `clock_ms` is the wall clock, ms since 1970."""

    def __init__(self, *, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._hosts: dict[tuple[str, str], HostRecord] = {}

    async def put_host(self, record: HostRecord) -> None:
        """Write a record, unless a newer one of the same host is held."""
        key = (record.region, record.instance_id)
        held = self._hosts.get(key)
        if held is None or held.reported_ms <= record.reported_ms:
            self._hosts[key] = record

    async def remove_host(self, region: str, instance_id: str) -> None:
        """Forget a host."""
        self._hosts.pop((region, instance_id), None)

    async def hosts(self, region: str) -> tuple[HostRecord, ...]:
        """The hosts of a region by instance id, expired ones left out."""
        oldest = self._clock_ms() - HOST_TTL_S * 1000
        return tuple(
            record
            for (its_region, _), record in sorted(self._hosts.items())
            if its_region == region and record.reported_ms > oldest
        )
