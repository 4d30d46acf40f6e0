"""Which transit gateway sends which region's block over which peering, as pure arithmetic over names and blocks.

One route table a region serves its VPC and all its peerings, so a packet is judged by its destination alone in every
region that it passes. Each region sends a block to the neighbour that is fewest peerings away from the block's region:
the distance shrinks with every hop, so no packet can circle. With all peerings up that neighbour is the region itself.
With one lost, it is a third region, whose table already has the way on.

Static routes do not notice that a peering is down. `lost` is therefore configuration: whoever sees the loss names it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from components.addressing import CLUSTER

Peering = tuple[str, str]
"""Two regions in the order of the configuration: the first asks for the peering, the second accepts it."""

BLACKHOLES: Final = (
    CLUSTER,
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
)
"""What every table drops: the cluster's addresses that are no region's, and all other private ones (RFC 1918).

The longest prefix wins, so a region's /18 goes its way and the rest of the /16 goes nowhere, even if a later peering or
VPN brings a wider route.
"""


class MeshError(ValueError):
    """Peerings that make no mesh; the sentence names the regions and what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshRoute:
    """One static route: `region`'s table sends `destination`'s block to `via`, over the peering between them."""

    region: str
    destination: str
    block: IPv4Network
    via: str
    peering: Peering


def peerings(regions: Sequence[str]) -> tuple[Peering, ...]:
    """Every pair of regions: the full mesh."""
    return tuple(itertools.combinations(regions, 2))


def routes(blocks: Mapping[str, IPv4Network], lost: Iterable[tuple[str, str]] = ()) -> tuple[MeshRoute, ...]:
    """Every table's routes to the other regions' blocks, in the order of `blocks`.

    `blocks` has each region's /18. `lost` are peerings that carry nothing, named in either order. Of several neighbours
    equally near, the first in the order of `blocks` is taken.

    Raises MeshError where a lost peering is none of the mesh's, or where a region cannot be reached without the lost.
    """
    regions = tuple(blocks)
    working = _working(regions, lost)
    found = []
    for destination, block in blocks.items():
        hops = _hops(destination, working)
        for region in regions:
            if region == destination:
                continue
            if region not in hops:
                raise MeshError(_cut_off(regions, working, region, destination))
            via = min(
                working[region], key=lambda neighbour: (hops.get(neighbour, len(regions)), regions.index(neighbour))
            )
            peering = next(pair for pair in peerings(regions) if set(pair) == {region, via})
            found.append(MeshRoute(region=region, destination=destination, block=block, via=via, peering=peering))
    return tuple(sorted(found, key=lambda route: (regions.index(route.region), regions.index(route.destination))))


def _working(regions: Sequence[str], lost: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Each region's neighbours over peerings that work."""
    down = set()
    for one, other in lost:
        for region in (one, other):
            if region not in regions:
                raise MeshError(f"The lost peering {one} / {other} names {region}; name two of {', '.join(regions)}.")
        if one == other:
            raise MeshError(f"The lost peering {one} / {other} names one region twice; name the two that it joined.")
        down.add(frozenset((one, other)))
    return {
        region: tuple(other for other in regions if other != region and frozenset((region, other)) not in down)
        for region in regions
    }


def _hops(destination: str, working: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Peerings between each region and `destination`; a region that cannot reach it is missing."""
    hops = {destination: 0}
    frontier = [destination]
    while frontier:
        reached = [other for region in frontier for other in working[region] if other not in hops]
        hops.update(dict.fromkeys(reached, hops[frontier[0]] + 1))
        frontier = list(dict.fromkeys(reached))
    return hops


def _cut_off(regions: Sequence[str], working: Mapping[str, Sequence[str]], region: str, destination: str) -> str:
    for alone in (region, destination):
        if not working[alone]:
            return f"{alone} is cut off: all its peerings are named as lost; take one of them out of lost_peerings."
    side = [other for other in regions if other in _hops(regions[0], working)]
    rest = [other for other in regions if other not in side]
    return (
        f"The mesh is in two parts: every peering between {', '.join(side)} and {', '.join(rest)} is named as lost; "
        "take one of them out of lost_peerings."
    )
