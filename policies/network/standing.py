"""What may stand in which tier: hosts in the private one, file servers in theirs, only load balancers in the public."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from policies.network.addresses import SUBNET
from policies.network.configuration import REGIONS, TEXTS, TIERS, tier_of
from policies.network.links import Links
from policies.rule import Config, Resource, Rule, Setting, StackRule, listed

STANDING: Final = Setting(
    name="standing",
    description="In which tiers a resource of each type may stand. A type that is not named stands in none.",
    default={
        "aws:lb/loadBalancer:LoadBalancer": ["public"],
        "aws:autoscaling/group:Group": ["private"],
        "aws:ecs/service:Service": ["private"],
        "aws:lambda/function:Function": ["private"],
        "aws:ec2/vpcEndpoint:VpcEndpoint": ["private"],
        "aws:fsx/lustreFileSystem:LustreFileSystem": ["fsx"],
        "aws:ec2transitgateway/vpcAttachment:VpcAttachment": ["transit"],
    },
    schema={"type": "object", "additionalProperties": TEXTS},
)
ABOUT: Final = (
    "aws:ec2/routeTableAssociation:RouteTableAssociation",
    "aws:ec2/networkAcl:NetworkAcl",
    "aws:ec2/networkAclAssociation:NetworkAclAssociation",
    "aws:ec2/defaultNetworkAcl:DefaultNetworkAcl",
    "aws:ec2/flowLog:FlowLog",
    "aws:ec2/tag:Tag",
)
"""Types that say something of a subnet and put nothing into it."""
WHERE: Final = (
    "subnetId",
    "subnetIds",
    "subnets",
    "subnetMappings",
    "vpcZoneIdentifiers",
    "networkConfiguration",
    "networkInterfaces",
    "vpcConfig",
    "target",
    "ecsTarget",
)
"""Properties that name subnets, or hold them somewhere inside."""


def in_own_tier(resources: Sequence[Resource], config: Config) -> Iterator[tuple[str, str | None]]:
    """Everything that stands in a subnet stands in one of its own tiers."""
    links = Links(resources)
    standing: Mapping[str, Any] = STANDING.read(config)
    for one in resources:
        if one.type in ABOUT:
            continue
        allowed = listed(standing.get(one.type))
        # Custom resources only: a component's inputs may hold subnets that it hands on.
        keys = dict.fromkeys((*WHERE, *one.depends)) if one.type.startswith("aws:") else ()
        for subnet in {found.urn: found for key in keys for found in links.targets(one, key, SUBNET)}.values():
            tier = tier_of(config, subnet.at("cidrBlock"))
            # A subnet of no tier is refused for its addresses.
            if tier is not None and tier not in allowed:
                yield (
                    (
                        f"{one.name} ({one.type}) stands in {subnet.name}, which is of the {tier} tier; "
                        f"it may stand in {' or '.join(allowed) if allowed else 'none'}."
                    ),
                    one.urn or None,
                )


RULES: Final[list[Rule]] = [
    StackRule(
        "tiers-hold-what-is-theirs",
        in_own_tier,
        protects="Routes and ACLs are a tier's: a GPU host in a public subnet would have a way to the internet, "
        "however closed its own tier is.",
        fix="Put it into subnets of its tier: only load balancers stand in the public one.",
        settings=(STANDING, REGIONS, TIERS),
    ),
]
