"""What the registry knows of one host: where it is, what it serves and how it is doing."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dataplane.protocol.errors import MrgcError

MAX_POOLS = 256
"""Pools in one record: 256 names of 128 bytes are 32 KiB, a tenth of DynamoDB's 400 KB item."""
MAX_TEXT = 512
"""Characters in any one text of a record."""
MAX_HEALTH = 100
MAX_ASSURANCE = 2


class RegistryError(MrgcError):
    """The registry cannot be reached, or holds something that is no host record."""


class HostState(enum.StrEnum):
    """What a host says of itself."""

    READY = "ready"
    DRAINING = "draining"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRecord:
    """One report of one host.

    `address` is the parent's URL (`http://10.0.1.7:8080`). `pools` are those it can serve. `queue_depth` requests wait
    and `running` run, of `capacity` at once. `latency_ms` is a moving average of the time to the first response byte.
    `health` is 0 to 100. `assurance` is the level that the enclave gives the host now. `engine` is `vllm` or
    `synthetic`. `reported_ms` is the host's wall clock, ms since 1970: readers judge staleness by it.
    """

    instance_id: str
    region: str
    address: str
    pools: tuple[str, ...]
    state: HostState
    queue_depth: int
    running: int
    capacity: int
    latency_ms: float
    health: int
    assurance: int
    engine: str
    reported_ms: int

    def to_item(self) -> dict[str, Any]:
        """Plain values: text, whole numbers, a list of text. `latency_ms` is rounded to whole milliseconds."""
        item = asdict(self)
        item["pools"] = list(self.pools)
        item["state"] = self.state.value
        item["latency_ms"] = round(self.latency_ms)
        return item

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> HostRecord:
        """The record of an item; extra attributes are skipped. Raises RegistryError that names the attribute."""
        pools = item.get("pools")
        if not isinstance(pools, list) or len(pools) > MAX_POOLS or not all(_is_text(pool) for pool in pools):
            raise RegistryError(_bad(item, "pools"))
        try:
            state = HostState(str(item.get("state")))
        except ValueError:
            raise RegistryError(_bad(item, "state")) from None
        return cls(
            instance_id=_text(item, "instance_id"),
            region=_text(item, "region"),
            address=_text(item, "address"),
            pools=tuple(pools),
            state=state,
            queue_depth=_count(item, "queue_depth"),
            running=_count(item, "running"),
            capacity=_count(item, "capacity"),
            latency_ms=float(_count(item, "latency_ms")),
            health=_count(item, "health", most=MAX_HEALTH),
            assurance=_count(item, "assurance", most=MAX_ASSURANCE),
            engine=_text(item, "engine"),
            reported_ms=_count(item, "reported_ms"),
        )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT


def _text(item: Mapping[str, Any], name: str) -> str:
    value = item.get(name)
    if not isinstance(value, str) or not _is_text(value):
        raise RegistryError(_bad(item, name))
    return value


def _count(item: Mapping[str, Any], name: str, *, most: int = 2**53) -> int:
    value = item.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise RegistryError(_bad(item, name))
    return value


def _bad(item: Mapping[str, Any], name: str) -> str:
    shown = repr(item.get(name))[:80]
    return (
        f"The registry's record of host {str(item.get('instance_id'))[:80]!r} has {name}={shown}, "
        "which is no such value; the record is skipped until the host reports again."
    )
