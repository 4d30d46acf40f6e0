"""The cluster's addresses: one /16, a /18 for each region, the same tiers at the same offsets in every region.

| tier | subnets | offsets within the region's /18 |
| --- | --- | --- |
| public | /24, one a zone | .0.0, .1.0, .2.0 |
| private | /23, one a zone | .10.0, .12.0, .14.0 |
| FSx | /24, two | .20.0, .21.0 |
| transit | /28, one a zone | .30.0, .30.16, .30.32 |

Pure arithmetic over `ipaddress`. The third transit subnet is there because hosts in a zone without an attachment
subnet cannot reach a transit gateway (Amazon VPC user guide, "Transit gateway VPC attachments").
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

CLUSTER: Final = IPv4Network("10.66.0.0/16")
REGION_PREFIX: Final = 18
"""A /18 is 16,384 addresses; four of them fill the /16: four regions are the most."""
ZONES: Final = 3

_PUBLIC: Final = ((0, 0, 24), (1, 0, 24), (2, 0, 24))
_PRIVATE: Final = ((10, 0, 23), (12, 0, 23), (14, 0, 23))
_FSX: Final = ((20, 0, 24), (21, 0, 24))
_TRANSIT: Final = ((30, 0, 28), (30, 16, 28), (30, 32, 28))


class AddressingError(ValueError):
    """Blocks that make no plan; the sentence names the block and what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionPlan:
    """One region's /18 and its subnets, zone by zone in order."""

    region: str
    block: IPv4Network
    public: tuple[IPv4Network, ...]
    private: tuple[IPv4Network, ...]
    fsx: tuple[IPv4Network, ...]
    transit: tuple[IPv4Network, ...]

    def tiers(self) -> Iterator[tuple[str, tuple[IPv4Network, ...]]]:
        """Each tier's name with its subnets."""
        yield "public", self.public
        yield "private", self.private
        yield "fsx", self.fsx
        yield "transit", self.transit

    def subnets(self) -> tuple[IPv4Network, ...]:
        """All subnets of the region."""
        return tuple(itertools.chain.from_iterable(subnets for _, subnets in self.tiers()))


def parse_block(region: str, text: str) -> IPv4Network:
    """The /18 that `text` names. Raises AddressingError unless it is one of the cluster's four."""
    try:
        block = IPv4Network(text)
    except ValueError:
        raise AddressingError(
            f"{region}: {text!r} is no IPv4 network; give a /{REGION_PREFIX} of {CLUSTER}, such as {CLUSTER[0]}/18."
        ) from None
    if block.prefixlen != REGION_PREFIX or not block.subnet_of(CLUSTER):
        raise AddressingError(
            f"{region}: {block} is not a /{REGION_PREFIX} within {CLUSTER}; "
            f"give one of {', '.join(map(str, CLUSTER.subnets(new_prefix=REGION_PREFIX)))}."
        )
    return block


def plan_region(region: str, block: str) -> RegionPlan:
    """The subnets of one region. `block` is its /18 in CIDR notation."""
    base = parse_block(region, block)
    return RegionPlan(
        region=region,
        block=base,
        public=_place(base, _PUBLIC),
        private=_place(base, _PRIVATE),
        fsx=_place(base, _FSX),
        transit=_place(base, _TRANSIT),
    )


def plan_cluster(blocks: Mapping[str, str]) -> dict[str, RegionPlan]:
    """The plan of every region, in the order given. Raises AddressingError where two regions' blocks overlap."""
    plans = {region: plan_region(region, block) for region, block in blocks.items()}
    for one, other in itertools.combinations(plans.values(), 2):
        if one.block.overlaps(other.block):
            raise AddressingError(
                f"{one.region} and {other.region} overlap: {one.block} and {other.block}; give each region its own /18."
            )
    return plans


def _place(block: IPv4Network, offsets: tuple[tuple[int, int, int], ...]) -> tuple[IPv4Network, ...]:
    base = int(block.network_address)
    return tuple(IPv4Network((base + third * 256 + fourth, prefix)) for third, fourth, prefix in offsets)
