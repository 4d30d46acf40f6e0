"""Rules over network ACLs: the second fence, drawn by address, closed to strangers but where a tier needs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from policies.network.addresses import SUBNET
from policies.network.configuration import REGIONS, TEXTS, TIERS, cluster, network, tier_of
from policies.network.links import Links
from policies.network.rows import Direction, protocol_of, read, span
from policies.rule import UNKNOWN, Config, Resource, ResourceRule, Rule, Setting, StackRule, known, listed, tags

ACL: Final = "aws:ec2/networkAcl:NetworkAcl"
DEFAULT: Final = "aws:ec2/defaultNetworkAcl:DefaultNetworkAcl"
ENTRY: Final = "aws:ec2/networkAclRule:NetworkAclRule"
ASSOCIATION: Final = "aws:ec2/networkAclAssociation:NetworkAclAssociation"
TIER_TAG: Final = "mrgc:tier"
DIRECTIONS: Final[tuple[tuple[str, Direction], ...]] = (("ingress", "in"), ("egress", "out"))

OPENINGS: Final = Setting(
    name="openings",
    description="What a tier's ACL may let pass with addresses outside the cluster, a line each: tier, in or out, "
    "protocol, ports, CIDR. ACLs are stateless, so answers need lines too; they take no prefix list, so S3 and "
    "DynamoDB behind their gateway endpoints are any address.",
    default=[
        "public in tcp 443 0.0.0.0/0",
        "public in tcp 1024-65535 0.0.0.0/0",
        "public out tcp 1024-65535 0.0.0.0/0",
        "private in tcp 1024-65535 0.0.0.0/0",
        "private out tcp 443 0.0.0.0/0",
    ],
    schema=TEXTS,
)


def acl_closed(resource: Resource, config: Config) -> Iterator[str]:
    """An ACL's allows are within the cluster, or one of its tier's openings."""
    if resource.type == ENTRY:
        direction: Direction = "out" if known(resource.at("egress"), "egress") is True else "in"
        yield from _judge(resource.props, direction, None, config)
        return
    tier = tags(resource).get(TIER_TAG)
    for key, direction in DIRECTIONS:
        for entry in listed(known(resource.at(key), key)):
            if entry is UNKNOWN:
                known(entry, key)
            if resource.type == DEFAULT and isinstance(entry, Mapping) and not _denies(entry):
                yield f"It has an {key} allow; AWS's default ACL stays empty, so that a forgotten subnet is closed."
            elif isinstance(entry, Mapping):
                yield from _judge(entry, direction, tier, config)


def _denies(entry: Mapping[str, Any]) -> bool:
    action = entry.get("action", entry.get("ruleAction"))
    return str(known(action, "action")).lower() == "deny"


def _judge(entry: Mapping[str, Any], direction: Direction, tier: str | None, config: Config) -> Iterator[str]:
    if _denies(entry):
        return
    if entry.get("ipv6CidrBlock") not in (None, ""):
        yield f"It lets IPv6 {direction}; the network has IPv4 only."
        return
    cidr = known(entry.get("cidrBlock"), "cidrBlock")
    block = network(cidr)
    if block is not None and block.subnet_of(cluster(config)):
        return
    protocol = protocol_of(known(entry.get("protocol"), "protocol"))
    asked = span(protocol, known(entry.get("fromPort"), "fromPort"), known(entry.get("toPort"), "toPort"))
    own = [row for row in read(OPENINGS, config) if row.whose == tier and row.direction == direction]
    if block is None or asked is None or not any(row.covers(protocol, asked) and row.admits(block) for row in own):
        what = "every protocol" if protocol == "all" or asked is None else f"{protocol} {asked[0]}-{asked[1]}"
        yield f"It lets {what} {direction} with {cidr}, which is no opening of the {tier or 'unnamed'} tier."


def acl_on_its_tier(resources: Sequence[Resource], config: Config) -> Iterator[tuple[str, str | None]]:
    """Every subnet has the ACL of its own tier."""
    links = Links(resources)
    guards: dict[str, list[Resource]] = {}
    for acl in links.of(ACL):
        for subnet in links.targets(acl, "subnetIds", SUBNET):
            guards.setdefault(subnet.urn, []).append(acl)
    for association in links.of(ASSOCIATION):
        for subnet in links.targets(association, "subnetId", SUBNET):
            guards.setdefault(subnet.urn, []).extend(links.targets(association, "networkAclId", ACL))
    for subnet in links.of(SUBNET):
        tier = tier_of(config, subnet.at("cidrBlock"))
        found = guards.get(subnet.urn, [])
        if not found:
            yield f"{subnet.name} has no network ACL of this stack.", subnet.urn or None
        for acl in found:
            said = tags(acl).get(TIER_TAG)
            # A subnet of no tier is refused for its addresses.
            if tier is not None and said != tier:
                yield f"{subnet.name} is of the {tier} tier and has the ACL of {said or 'none'}.", subnet.urn


RULES: Final[list[Rule]] = [
    ResourceRule(
        "network-acls-stay-closed",
        acl_closed,
        protects="The ACLs stand behind the security groups: a mistake in a group opens nothing that its tier's ACL "
        "keeps closed.",
        fix="Allow addresses of the cluster, and of others only the tier's openings; tag the ACL mrgc:tier and write "
        "its entries inside it.",
        types=(ACL, DEFAULT, ENTRY),
        settings=(OPENINGS, REGIONS),
    ),
    StackRule(
        "network-acl-on-every-subnet",
        acl_on_its_tier,
        protects="An ACL guards the subnets that it is on, and the openings of one tier are holes in another's.",
        fix="Put each subnet into the ACL of its own tier.",
        settings=(REGIONS, TIERS),
    ),
]
