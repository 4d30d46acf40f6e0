"""Rules over addresses: every network within its region's block, every subnet one of the tiers, none twice."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network
from typing import Final

from policies.network.configuration import REGIONS, TIERS, blocks, inside, network, tiers
from policies.rule import UNKNOWN, Config, Resource, ResourceRule, Rule, StackRule, known, tags

VPC: Final = "aws:ec2/vpc:Vpc"
SUBNET: Final = "aws:ec2/subnet:Subnet"
MORE_BLOCKS: Final = (
    "aws:ec2/vpcIpv4CidrBlockAssociation:VpcIpv4CidrBlockAssociation",
    "aws:ec2/vpcIpv6CidrBlockAssociation:VpcIpv6CidrBlockAssociation",
)
ADOPTED: Final = ("aws:ec2/defaultVpc:DefaultVpc", "aws:ec2/defaultSubnet:DefaultSubnet")
"""What AWS puts into every account, at 172.31.0.0/16 and with public addresses."""
SECONDARY: Final = ("aws:ec2/secondaryNetwork:SecondaryNetwork", "aws:ec2/secondarySubnet:SecondarySubnet")
IPV6: Final = (
    "assignGeneratedIpv6CidrBlock",
    "ipv6CidrBlock",
    "ipv6IpamPoolId",
    "ipv6NetmaskLength",
    "assignIpv6AddressOnCreation",
    "ipv6Native",
    "enableDns64",
)
POOLED: Final = ("ipv4IpamPoolId", "ipv4NetmaskLength")


def addresses_in_block(resource: Resource, config: Config) -> Iterator[str]:
    """A VPC's and a subnet's addresses are the region's, and IPv4."""
    if resource.type in ADOPTED:
        yield "It takes over AWS's default network, which is outside every region's block; make a VPC."
        return
    if resource.type in SECONDARY:
        yield "A secondary network has addresses that no rule of this pack reads; make subnets of the VPC."
        return
    for key in IPV6:
        value = resource.at(key)
        if value is UNKNOWN or value not in (None, False, "", 0):
            yield f"{key} is set; the regions' networks have IPv4 only, and no rule of theirs bounds IPv6."
    for key in POOLED:
        if resource.at(key) not in (None, "", 0):
            yield f"{key} is set, so that a pool chooses the addresses; give the CIDR of the region's block."
    if resource.type == MORE_BLOCKS[1]:
        yield "It gives a VPC IPv6 addresses; the regions' networks have IPv4 only."
        return
    yield from _judge(resource, config)


def _judge(resource: Resource, config: Config) -> Iterator[str]:
    where = known(resource.region, "region")
    block = blocks(config).get(where)
    if block is None:
        yield f"Its region is {where or 'not given'}, which has no block of addresses; configure one, or do without it."
        return
    cidr = known(resource.at("cidrBlock"), "cidrBlock")
    found = network(cidr)
    if found is None or not inside(found, [block]):
        yield f"Its CIDR {cidr or 'is not given and'} is not within {where}'s block {block}."
    elif resource.type == SUBNET:
        tier = tiers(config, block).get(found)
        said = tags(resource).get("mrgc:tier")
        if tier is None:
            yield f"{found} is no subnet of any tier of {where}; a tier's subnets are listed in the setting tiers."
        elif said is not None and said != tier:
            yield f"{found} is of the {tier} tier, and its tag mrgc:tier says {said}."


def addresses_apart(resources: Sequence[Resource], config: Config) -> Iterator[tuple[str, str | None]]:
    """No two VPCs have an address in common, and no two subnets."""
    blocks(config)
    for kind, types in (("VPC", (VPC, MORE_BLOCKS[0])), ("subnet", (SUBNET,))):
        placed: list[tuple[IPv4Network, Resource]] = []
        for one in resources:
            block = network(one.at("cidrBlock")) if one.type in types else None
            if block is not None:
                placed.append((block, one))
        for (block, one), (other_block, other) in itertools.combinations(placed, 2):
            if block.overlaps(other_block):
                yield f"The {kind}s {one.name} ({block}) and {other.name} ({other_block}) overlap.", other.urn or None


RULES: Final[list[Rule]] = [
    ResourceRule(
        "addresses-in-region-block",
        addresses_in_block,
        protects="Routes, network ACLs and security groups of every region tell who is who by the region's block of "
        "addresses; a network outside it would be a stranger inside, or unreachable.",
        fix="Give the VPC the region's block, and each subnet one of its tiers' CIDRs; no IPv6, no address pools.",
        types=(VPC, SUBNET, *MORE_BLOCKS, *ADOPTED, *SECONDARY),
        settings=(REGIONS, TIERS),
    ),
    StackRule(
        "addresses-do-not-overlap",
        addresses_apart,
        protects="Two networks with an address in common can't be told apart by any route between the regions.",
        fix="Give each VPC and each subnet addresses of its own.",
        settings=(REGIONS,),
    ),
]
