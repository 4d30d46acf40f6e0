"""Where a new connection goes: Global Accelerator's documented rules, as pure functions over plain values.

Sources, in the AWS Global Accelerator developer guide: "How endpoint weights work to manage traffic volume", "How
failover works for unhealthy endpoints", "Adjusting traffic flow with traffic dials".

* The endpoint group nearest to the client takes the connection. Its traffic dial says which share of *that* traffic
  it keeps; the rest goes to the next nearest, whose own dial applies to it.
* Within a group, healthy endpoints share by weight; weight 0 takes nothing.
* No healthy endpoint of weight above 0 in the group: another group is tried, nearest first, and **its dial is
  ignored**. After three groups the accelerator fails open: a random endpoint of the group nearest to the client.
* The guide does not say what happens when every dial lets the connection pass. Here the nearest group then takes it,
  as if the dials were not there, and the reason says `dials-closed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dataplane.protocol.errors import MrgcError

MAX_DIAL = 100
"""A traffic dial is a percentage."""

MAX_WEIGHT = 255
DEFAULT_WEIGHT = 128
"""Endpoint weights go from 0 to 255; 128 where none is given."""

FAILOVER_GROUPS = 3
"""Endpoint groups that are tried before the accelerator fails open, the first choice among them."""

Reason = Literal["nearest", "dial", "dials-closed", "failover", "fail-open"]


class AcceleratorError(MrgcError):
    """A dial, a weight or a name that the accelerator refuses."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A load balancer: its name, weight (0 to 255), and the health of its targets as the balancer reports it."""

    name: str
    weight: int = DEFAULT_WEIGHT
    healthy: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= MAX_WEIGHT:
            raise AcceleratorError(f"Endpoint {self.name} has weight {self.weight}; give one from 0 to {MAX_WEIGHT}.")


@dataclass(frozen=True, slots=True)
class Group:
    """An endpoint group: one region, its traffic dial (0 to 100) and its endpoints."""

    region: str
    endpoints: tuple[Endpoint, ...]
    dial: float = MAX_DIAL

    def __post_init__(self) -> None:
        if not 0 <= self.dial <= MAX_DIAL:
            raise AcceleratorError(f"Region {self.region} has dial {self.dial:g}; give one from 0 to {MAX_DIAL}.")

    @property
    def usable(self) -> tuple[Endpoint, ...]:
        """Endpoints that are healthy and have a weight above 0."""
        return tuple(endpoint for endpoint in self.endpoints if endpoint.healthy and endpoint.weight > 0)


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a new connection goes, and by which rule."""

    region: str
    endpoint: str
    reason: Reason


Draw = Callable[[], float]
"""A random number from [0, 1), such as `random.random`."""


def nearest(groups: Sequence[Group], latency_ms: Mapping[str, float]) -> tuple[Group, ...]:
    """Order groups by latency from the client; a region whose latency is unknown comes last, ties by name."""
    return tuple(sorted(groups, key=lambda group: (latency_ms.get(group.region, float("inf")), group.region)))


def decide(groups: Sequence[Group], latency_ms: Mapping[str, float], draw: Draw) -> Decision:
    """Decide where a new connection of a client with these latencies (ms by region) goes.

    Raises `AcceleratorError` when no group has an endpoint.
    """
    ordered = nearest([group for group in groups if group.endpoints], latency_ms)
    if not ordered:
        raise AcceleratorError("The accelerator has no endpoint; add one to an endpoint group.")
    chosen, reason = _by_dial(ordered, draw)
    if chosen.usable:
        return Decision(chosen.region, _by_weight(chosen.usable, draw), reason)
    others = [group for group in ordered if group is not chosen]
    for group in others[: FAILOVER_GROUPS - 1]:
        if group.usable:
            return Decision(group.region, _by_weight(group.usable, draw), "failover")
    closest = ordered[0]
    index = min(int(draw() * len(closest.endpoints)), len(closest.endpoints) - 1)
    return Decision(closest.region, closest.endpoints[index].name, "fail-open")


def _by_dial(ordered: Sequence[Group], draw: Draw) -> tuple[Group, Reason]:
    """Return the first group whose dial keeps the connection."""
    for index, group in enumerate(ordered):
        if draw() * MAX_DIAL < group.dial:
            return group, "nearest" if index == 0 else "dial"
    return ordered[0], "dials-closed"


def _by_weight(endpoints: Sequence[Endpoint], draw: Draw) -> str:
    """Return one endpoint's name, in proportion to the weights; weight 0 must be filtered out before."""
    point = draw() * sum(endpoint.weight for endpoint in endpoints)
    for endpoint in endpoints:
        point -= endpoint.weight
        if point < 0:
            return endpoint.name
    return endpoints[-1].name
